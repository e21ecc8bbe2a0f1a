//! detection.
pub(super) const HANDLERS: &[(&str, super::Handler)] = &[];
