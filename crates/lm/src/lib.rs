//! Language: text to tokens and back, and conversations to text.

pub mod template;
pub mod tokenizer;
