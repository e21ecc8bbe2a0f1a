//! Files as memory maps.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kinglet_graph::{Bytes, GraphError};
use memmap2::Mmap;

use crate::LoadError;

/// The bytes of the file at `path`, read when they are used.
pub(crate) fn map(path: &Path) -> Result<Bytes, LoadError> {
    let fail = |e: std::io::Error| {
        let message = match e.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".into(),
            _ => e.to_string(),
        };
        LoadError::new(path, GraphError::new("cannot open", message))
    };
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the map is read-only. Whoever changes the file while the model is in use changes its
    // weights and vocabulary; lengths that are used again are checked again.
    let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
    Ok(Bytes::new(Arc::new(map)))
}
