//! Model files in and out of the graph: TFLite and ONNX; GGUF files, of language models; and
//! safetensors files.

mod detect;
mod error;
pub mod files;
pub mod gguf;
pub mod lm;
pub mod map;
mod named;
pub mod onnx;
pub mod safetensors;
pub mod tflite;

pub use detect::{can_resize, load, with_weights};
pub use error::LoadError;
pub use named::Named;
