//! Language models: text to tokens and back, conversations to text, and a model that goes on with
//! them.

mod cells;
mod chat;
mod constrain;
mod embed;
mod error;
pub mod eval;
mod hash;
mod memory;
mod model;
pub mod sample;
mod save;
mod session;
mod step;
pub mod template;
pub mod tokenizer;

pub use cells::{Cells, Copy, Full};
pub use constrain::{Allowed, Constraint, Following, Forms};
pub use embed::Encoder;
pub use error::LmError;
pub use hash::Fnv;
pub use memory::{Report, Trim};
pub use model::{Cache, Guess, LanguageModel, Options, Piece, Wanted};
pub use session::{Answer, FinishReason, Generation, Session};
pub use step::{MOST_ROWS, Row, Stepper};
