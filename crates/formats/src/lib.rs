//! Model files in and out of the graph: TFLite and ONNX.
pub mod tflite;
pub mod onnx;
