//! The data of Kinglet's built-in assistant: what people say to a device, and the call of a device
//! function that each sentence asks for.
//!
//! - The *contract* ([`contract`], `data/functions.json`) names the functions and their arguments.
//! - The *grammar* ([`grammar`], `data/train/`) derives pairs of a sentence and its call. It is data:
//!   a file a function, and files of what they share. Times, numbers and unheard-of words are said
//!   by code ([`speech`]).
//! - *Noise* puts politeness around a sentence, and writes it as people do.
//! - The *held-out sets* ([`HeldOut`], `data/dev/`, `data/test/`) are sentences written by hand, in
//!   patterns and with words that the training grammar does not derive: a test proves it with the
//!   grammar itself, not with samples.
//! - The *score* ([`score`]) compares answers with what was wanted.
//!
//! What a sentence asks for where people might differ is settled in `CONVENTIONS.md`.
//!
//! ```
//! let mut generator = kinglet_assistant::Generator::new(7)?;
//! let example = generator.example()?;
//! println!("{}", example.line()); // {"say":"…","call":{"name":"…","arguments":{…}}}
//! # Ok::<(), kinglet_assistant::DataError>(())
//! ```

pub mod clock;
pub mod contract;
mod data;
mod everyday;
mod example;
mod form;
mod generate;
pub mod grammar;
mod model;
mod noise;
pub mod rng;
pub mod score;
pub mod speech;

pub use contract::{Call, Contract};
pub use everyday::everyday;
pub use example::Example;
pub use generate::{Annotated, DataError, Generator, HeldOut, training_grammar};
pub use model::MODEL;
pub use score::{Score, score};
