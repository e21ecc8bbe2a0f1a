//! TFLite (LiteRT) model files.

pub mod builtin;
pub mod flatbuffer;
pub mod flexbuffer;
pub mod metadata;
pub mod read;
pub mod schema;
