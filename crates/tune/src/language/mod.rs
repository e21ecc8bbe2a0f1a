//! Language models: where they come from, what their loss is, and how they are written.

mod fresh;
mod gguf;
mod loss;
mod model;

pub use fresh::{ABOUT, SPECIAL, TEMPLATE};
pub use loss::objective;
pub use model::{Encoded, Model};
