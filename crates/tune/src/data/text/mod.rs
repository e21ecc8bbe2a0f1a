//! What a language model is trained on: files of examples, read again each time that they are needed.
//!
//! A file is JSON lines, where its first character is `{`, or plain text. Of each example only its
//! place and length are kept, so that data may be larger than memory.

mod batches;
mod dropout;
mod example;
mod files;

pub use batches::{Batches, IGNORED, Texts};
pub use dropout::Dropout;
pub use example::{Encoder, Example};
pub use files::{Data, all_texts};
