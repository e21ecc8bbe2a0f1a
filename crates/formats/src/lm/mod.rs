//! Language models: one builder for all families, and a table of what differs between them.
//!
//! A file gives a [`Config`] (its numbers) and [`Weights`] (its tensors, under GGUF's names); the
//! [`family`] table says what its architecture's name means; [`build`] makes the graph of one step
//! over rows (see [`kinglet_graph::ops::rows`]).

pub mod adapter;
mod attention;
mod builder;
mod config;
mod encoder;
pub mod family;
mod feed_forward;
mod gguf;
mod hf;
mod recurrent;
mod to_gguf;

pub use builder::{Build, Weights, build};
pub use config::{Config, Experts, Rope, StateSpace};
pub use encoder::{Pooling, build_encoder};
pub use family::Family;
pub use gguf::from_gguf;
pub use hf::{Fresh, Generation, HfConfig, HfModel, Start};
pub use to_gguf::to_gguf;
