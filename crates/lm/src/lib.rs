//! Language: text to tokens and back, and conversations to text.

pub mod tokenizer;
