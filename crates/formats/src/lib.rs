//! Model files in and out of the graph: TFLite and ONNX; and GGUF files, of language models.

mod detect;
mod error;
pub mod gguf;
pub mod lm;
mod named;
pub mod onnx;
pub mod tflite;

pub use detect::load;
pub use error::LoadError;
pub use named::Named;
