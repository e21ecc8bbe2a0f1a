//! TFLite (LiteRT) model files.
//!
//! [`load`] maps a file and builds the graph of its first subgraph. Weights stay where they lie in
//! the file.

pub mod builtin;
pub mod flatbuffer;
pub mod flexbuffer;
mod import;
pub mod metadata;
pub mod read;
pub mod schema;
mod write;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kinglet_graph::{Bytes, Graph, GraphError};
use memmap2::Mmap;

pub use write::with_weights;

use crate::LoadError;

/// Loads the model in the file at `path`. Its weights are mapped, and read when they are used.
///
/// # Errors
/// Where the file can't be read, is damaged, or holds what is not supported.
pub fn load(path: &Path) -> Result<Graph, LoadError> {
    let fail = |e: std::io::Error| LoadError::new(path, GraphError::new("file", e.to_string()));
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the map is read-only. Whoever changes the file while the model is in use changes its
    // weights; everything else was checked when it was copied.
    let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
    parse(Bytes::new(Arc::new(map))).map_err(|e| LoadError::new(path, e))
}

/// The model in `bytes`.
///
/// # Errors
/// Where it is damaged, or holds what is not supported.
pub fn parse(bytes: Bytes) -> Result<Graph, GraphError> {
    let model = read::read(&bytes).map_err(|e| GraphError::new("TFLite file", e.to_string()))?;
    let mut graph = import::model(&model, bytes.clone())?;
    graph.metadata = metadata::metadata(&bytes, &model);
    Ok(graph)
}
