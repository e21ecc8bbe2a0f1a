//! Language models: text that goes on, conversations, constraints, measures.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use kinglet::lm::{Generation, LanguageModel, Options, Session};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let Some(path) = kinglet_testing::model("lm/tinystories-260k-f32.gguf") else { return Ok(()) };
//!
//! let mut model = LanguageModel::open(&path, &Options::default())?;
//! let mut session = Session::new(&mut model)?;
//! session.push_text(&model, "Once upon a time")?;
//! let answer = session.generate(&mut model, &Generation::default(), |text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! # assert!(answer.text.starts_with(", there was a little girl named Lily."), "{}", answer.text);
//! # Ok(())
//! # }
//! ```
//!
//! A [`LanguageModel`] holds the weights, mapped from their file, and the memory of its
//! conversations; a [`Session`] is one of them. What a session says again is not computed again, so a
//! conversation costs what is new in it: [`LanguageModel::encode_conversation`] writes it as the model
//! was trained, and [`Session::rewrite`] makes it the session's.

pub use kinglet_lm::*;
