//! Language models: text to tokens and back, conversations to text, and a model that goes on with
//! them.

mod cells;
mod chat;
mod error;
pub mod eval;
mod model;
pub mod sample;
mod session;
mod step;
pub mod template;
pub mod tokenizer;

pub use cells::{Cells, Copy, Full};
pub use error::LmError;
pub use model::{Cache, LanguageModel, Options, Wanted};
pub use session::{Answer, FinishReason, Generation, Session};
pub use step::{MOST_ROWS, Row, Stepper};
