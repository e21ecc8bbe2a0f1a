//! What a language model is trained on: files of examples, read again each time that they are needed.
//!
//! A file is JSON lines, where its first character is `{`, or plain text. Of each example only its
//! place and length are kept, so that data may be larger than memory. The order is of a seed and the
//! epoch alone, and so is what each batch holds: a training that goes on knows where from its step.

mod batches;
mod dropout;
mod example;
mod files;

pub use batches::{Batch, Batches, Epoch, IGNORED};
pub use dropout::Dropout;
pub use example::{Encoder, Example};
pub use files::{Bad, Data, all_texts};
