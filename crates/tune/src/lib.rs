//! Training on the device: from a graph and a loss to the graph of one training step.
//!
//! A *training graph* is a graph like any other. A run of it is one step: it takes a batch, computes
//! the loss, the gradients of what is trained (each op has its rule, [`kinglet_graph::Op::gradient`]),
//! and new values of it. So the ordinary passes make it cheaper, the ordinary planner places its
//! memory, and what a step takes is known before the first: backward graphs made and pruned before
//! they run are PockEngine's idea (Zhu et al., MICRO 2023, arXiv 2310.17752) and that of training in
//! 256 KB (Lin et al., NeurIPS 2022, arXiv 2206.15472).
//!
//! **What is not trained costs nothing.** Only ops between a trained tensor and the loss get backward
//! nodes, and of each only those that lead on to a trained tensor; activations that no backward node
//! reads live no longer than they do in inference.
//!
//! **What is trained is state.** A trained constant becomes a [`kinglet_graph::State`] of the graph,
//! and so do the optimiser's moments. A plan reads state in place and takes a step without any
//! allocation: as inputs and outputs they would be copied in and out of every step, and would lie in
//! the arena beside it. Plans of several batch sizes share it (the runtime's `Shared`), and a checkpoint
//! is the graph's state. A weight that its file holds in 16 bits or in an encoding is trained in f32.
//!
//! **A tensor is updated as soon as its gradient is there** and nothing reads its old value any more,
//! so that gradients need not be held together; but for [`Recipe::clip`], which needs all of them.
//!
//! **Products may be of bf16** ([`Precision::Bf16`]): the graph then rounds their factors, and reads so. An
//! activation that gradients want for nothing else is held as it was rounded.
//!
//! The inputs of a training graph are those of the graph that it was made from and, last, the learning
//! rate, a scalar of f32 that a [`Schedule`] tells. Sizes may be symbols, as in any graph, where the
//! rules of its ops allow it; a convolution wants the sizes of its images.
//!
//! **A training** is made of an [`Objective`], which a [`language::Model`] or another [`net::Net`] has, of
//! [`data`], [`Trainer`] (its plans), and [`Course`], which goes from the first step to the last through
//! any number of interruptions. [`Budget`] chooses what fits into memory.
//!
//! ```
//! use kinglet_graph::ops::matmul::MatMul;
//! use kinglet_graph::{DType, Graph, Interpreter, Tensor, ValueType};
//! use kinglet_tune::{Optimiser, Recipe, differentiate, mean_squared_error};
//!
//! // y = x w, w = [0, 0]; the target is x₀ + 2 x₁.
//! let mut graph = Graph::new("linear");
//! let x = graph.add_input("x", ValueType::new(DType::F32, &[4, 2][..]));
//! let target = graph.add_input("target", ValueType::new(DType::F32, &[4, 1][..]));
//! let w = graph.add_constant("w", Tensor::zeros(DType::F32, &[2, 1])?);
//! let y = graph.apply("y", MatMul::new(), &[x, w], DType::F32);
//! let loss = mean_squared_error(&mut graph, y, target)?;
//!
//! let recipe = Recipe::new(Optimiser::sgd());
//! let training = differentiate(&graph, loss, &[w], &recipe)?;
//! let mut run = Interpreter::new(&training.graph)?;
//! let x = Tensor::from_slice(&[4, 2], &[1f32, 0., 0., 1., 1., 1., -1., 1.])?;
//! let target = Tensor::from_slice(&[4, 1], &[1f32, 2., 3., 1.])?;
//! for _ in 0..100 {
//!     run.run(&training.graph, &[x.clone(), target.clone(), Tensor::scalar(0.5f32)])?;
//! }
//! let states = run.into_states();
//! let w = states[training.trained[0].state.index()].slice::<f32>()?;
//! assert!((w[0] - 1.0).abs() < 1e-3 && (w[1] - 2.0).abs() < 1e-3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod backward;
mod budget;
mod checkpoint;
mod course;
pub mod data;
mod distil;
mod error;
pub mod language;
mod log;
mod lora;
mod loss;
mod memory;
pub mod net;
mod objective;
mod optimiser;
mod precision;
mod quantise;
mod random;
mod recompute;
mod schedule;
mod selection;
mod trainer;
mod training;
mod zeroth;

pub use backward::gradients;
pub use budget::{Budget, Fit, Tried, Way};
pub use checkpoint::Lock;
pub use course::{Course, Ending, Event, Material, Settings, batches_of_epochs};
pub use distil::{Distillation, Distilled, PROJECTION, Student, TEACHER, distil};
pub use error::TuneError;
pub use log::{Evaluation, Log, Step};
pub use lora::Lora;
pub use loss::{cross_entropy, cross_entropy_sum, mean_squared_error};
pub use memory::Memory;
pub use objective::Objective;
pub use optimiser::Optimiser;
pub use precision::Precision;
pub use quantise::{Range, Scale, integer_activation, integer_weight, store_as};
pub use schedule::{Decay, Schedule};
pub use selection::Selection;
pub use trainer::{Done, Seen, Trainer};
pub use training::{Losses, Recipe, Trained, Training, differentiate, outline};
pub use zeroth::ZerothOrder;
