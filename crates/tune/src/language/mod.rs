//! Language models: where they come from, what their loss is, and how they are written.

mod encoded;
mod fresh;
mod gguf;
mod loss;
mod model;
mod teacher;

pub use encoded::Encoded;
pub use fresh::{ABOUT, SPECIAL, TEMPLATE};
pub use loss::objective;
pub use model::Model;
pub use teacher::Layers;
