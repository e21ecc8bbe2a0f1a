//! What loading and saving a model say when they cannot.

use std::path::Path;

use kinglet_graph::GraphError;

/// Why a file is not a model that can run, or a model can't be written to it: the file, the place in it, and what is wrong there.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{file}: {error}")]
pub struct LoadError {
    /// The file, as it was named.
    pub file: String,
    /// The place, and what is wrong there.
    pub error: GraphError,
}

impl LoadError {
    /// `error` in the file at `path`.
    pub fn new(path: &Path, error: GraphError) -> Self {
        Self { file: path.display().to_string(), error }
    }
}
