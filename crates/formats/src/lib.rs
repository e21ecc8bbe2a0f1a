//! Model files in and out of the graph: TFLite and ONNX.

mod detect;
mod error;
pub mod onnx;
pub mod tflite;

pub use detect::load;
pub use error::LoadError;
