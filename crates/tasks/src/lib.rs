//! Images in, answers out: decoding, resizing, labels, boxes, keypoints, masks and overlays.
//!
//! This room knows pictures and plain slices of numbers, and no graph: the façade feeds a model with
//! what [`Preprocess`] makes of a [`Picture`], and hands the model's outputs to [`classify`],
//! [`segment`], [`pose`] or [`detect`].

pub mod classify;
pub mod detect;
mod draw;
mod font;
mod guess;
mod labels;
mod picture;
pub mod pose;
mod preprocess;
mod resize;
pub mod segment;

pub use draw::Colour;
pub use guess::{Input, Task, Tensor, guess};
pub use labels::{Labels, LabelsError};
pub use picture::{Picture, PictureError};
pub use preprocess::{Channels, Fit, Layout, Pixels, Placement, Preprocess, Values};
