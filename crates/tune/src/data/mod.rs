//! What is trained on: texts for language models, samples for other nets.
//!
//! Both are a [`Source`] of batches. The order is of a seed and the epoch alone, and so is what each batch
//! holds: a training that goes on knows where from its step.

mod bad;
mod samples;
mod source;
mod split;
mod text;

pub use bad::Bad;
pub use samples::{
    Arrays, Goal, Images, Sample, Sampled, Samples, Target, Windows, WindowsOptions,
};
pub use source::{Batch, Epoch, Source};
pub use split::split;
pub use text::{Batches, Data, Dropout, Encoder, Example, IGNORED, Texts, all_texts};
