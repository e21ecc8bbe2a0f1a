//! ONNX models, opset 6 to [`NEWEST_OPSET`].
//!
//! [`load`] maps a file and builds its graph. Weights stay where they lie in the file, or in the
//! files beside it that hold external data. Functions are expanded where they are called, and
//! bodies of control flow get the values they capture as inputs.
//!
//! How an op comes in: an entry of the table in [`ops`], which names the op, the opset version from
//! which the entry holds, and the function that turns a node into ops of the graph.

mod context;
mod data;
mod external;
mod import;
mod ops;
mod proto;
mod wire;
mod write;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kinglet_graph::{Bytes, Graph, GraphError, Tensor};
use memmap2::Mmap;

pub use ops::NEWEST_OPSET;
pub use write::with_weights;

use crate::LoadError;

/// Loads the model in the file at `path`. Its weights are mapped, and read when they are used.
pub fn load(path: &Path) -> Result<Graph, LoadError> {
    let fail = |e: std::io::Error| LoadError::new(path, GraphError::new("file", e.to_string()));
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the map is read-only. Whoever changes the file while the model is in use changes its
    // weights; the bytes are only ever read as numbers and text that was checked when it was copied.
    let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
    parse(Bytes::new(Arc::new(map)), path.parent()).map_err(|e| LoadError::new(path, e))
}

/// The model in `bytes`, whose external data, if it has any, lies in `folder`.
pub fn parse(bytes: Bytes, folder: Option<&Path>) -> Result<Graph, GraphError> {
    let budget = wire::Budget::for_file(bytes.len());
    let model = proto::Model::read(wire::Message::root(&bytes, &budget))
        .map_err(|e| GraphError::new("ONNX file", e.to_string()))?;
    import::model(&model, &bytes, folder, &budget)
}

/// The tensor in a file that holds a lone `TensorProto`, as the data sets of ONNX's test suite do.
pub fn tensor(bytes: &Bytes) -> Result<Tensor, GraphError> {
    let budget = wire::Budget::for_file(bytes.len());
    let at = |e: String| GraphError::new("tensor", e);
    let proto =
        proto::Tensor::read(wire::Message::root(bytes, &budget)).map_err(|e| at(e.to_string()))?;
    import::Weights::new(bytes, None, &budget).tensor(&proto).map_err(at)
}
