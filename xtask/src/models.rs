//! The trained models that tests and measurements use; they are not part of the repository.

use std::path::PathBuf;

use crate::command;

/// The variable that names their folder.
pub const VARIABLE: &str = "KINGLET_TEST_MODELS";

/// The folder that the variable names, or `../shared/models` beside the repository; `None` where
/// there is none.
pub fn folder() -> Option<PathBuf> {
    let folder = match std::env::var_os(VARIABLE) {
        Some(folder) => folder.into(),
        None => command::root().join("../shared/models"),
    };
    folder.canonicalize().ok()
}
