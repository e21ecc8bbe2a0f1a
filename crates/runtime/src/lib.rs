//! From a graph to running it: passes make it smaller, kernels are chosen and weights packed for
//! the CPU at hand, every byte of memory is placed, and [`Plan::run`] then allocates nothing.
//!
//! ```
//! use kinglet_graph::{DType, Dim, Graph, Shape, Tensor, ValueType};
//! use kinglet_runtime::{Plan, PlanOptions};
//!
//! let mut graph = Graph::new("identity");
//! let x = graph.add_input("x", ValueType::new(DType::F32, &[2][..]));
//! graph.outputs.push(x);
//! let mut plan = Plan::new(&graph, &PlanOptions::default())?;
//! plan.set_input(0, &Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap().view())?;
//! plan.run()?;
//! assert_eq!(plan.output(0).slice::<f32>().unwrap(), [1.0, 2.0]);
//! # Ok::<(), kinglet_graph::GraphError>(())
//! ```

mod bands;
mod choices;
mod compile;
mod kernel;
pub mod lower;
mod memory;
pub mod passes;
mod plan;
mod pool;
mod runner;
mod scratch;
mod shared;

pub use choices::Choices;
pub use kernel::{Io, Kernel, Lowered, OutView};
pub use plan::{Arena, MemoryReport, Plan, PlanOptions, StepReport};
pub use pool::{Pool, WORKER_SCRATCH};
pub use shared::{LetGo, PackedWeight, Shared};
