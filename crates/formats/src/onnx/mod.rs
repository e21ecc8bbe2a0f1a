//! ONNX models.

pub mod data;
pub mod external;
pub mod proto;
pub mod wire;
