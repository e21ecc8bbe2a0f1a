//! Model files in and out of the graph: TFLite and ONNX.

mod error;
pub mod onnx;
pub mod tflite;

pub use error::LoadError;
