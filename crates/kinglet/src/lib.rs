//! On-device AI in Rust: run the model files people already have.
//!
//! ```no_run
//! use kinglet::{Model, PlanOptions, Tensor};
//!
//! let model = Model::open("mobilenet.tflite")?;
//! let mut plan = model.plan(PlanOptions::default())?;
//! plan.set_input(0, &Tensor::from_slice(&[1, 224, 224, 3], &[0u8; 150_528])?)?;
//! plan.run()?;
//! println!("{:?}", plan.output(0).slice::<u8>()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Model`] is a file's graph, its weights mapped and not copied. A [`Plan`] is that graph compiled
//! for given sizes and this CPU; it holds all the memory that running takes. [`Vision`] stands around a
//! plan that takes pictures: it decodes, resizes and quantises as the model expects, and reads the
//! answer. [`tasks`] has the parts.
//!
//! Language models are in [`lm`], training is in [`tune`]; [`assistant`] turns a sentence into the call of a
//! device function.

pub mod assistant;
mod error;
pub mod lm;
mod model;
mod vision;

pub use error::{Error, Fault};
pub use kinglet_graph::{DType, Graph, Quant, Tensor, TensorView};
pub use kinglet_tasks as tasks;
pub use kinglet_tune as tune;
pub use model::{Choices, Memory, Model, Plan, PlanOptions};
pub use vision::{Answer, Vision, VisionOptions};

/// What lies below this library: for those who look inside. Not under this library's version.
#[doc(hidden)]
pub mod parts {
    pub use kinglet_formats as formats;
    pub use kinglet_graph as graph;
    pub use kinglet_runtime as runtime;
}
