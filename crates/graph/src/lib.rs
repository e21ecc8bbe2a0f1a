//! The model graph: everything Kinglet does is a function on it.
//!
//! A [`Graph`] is data: [`Node`]s over [`Value`]s with symbolic [`Shape`]s, constants in their
//! stored encoding, and named [`State`]. What a node does is an [`Op`]: one place per op holds its
//! attributes, shape rule, reference implementation, cost and gradient rule. [`interpret`] runs a
//! graph by the reference implementations alone: slow, obvious, and the definition of what every
//! kernel must compute.

#![forbid(unsafe_code)]

mod builder;
mod cost;
mod dim;
mod dtype;
mod gradient;
mod graph;
mod infer;
mod interpret;
mod number;
mod op;
pub mod ops;
mod print;
mod tensor;
mod types;
mod verify;

pub use builder::Builder;
pub use cost::{Cost, GraphCost};
pub use dim::{Bindings, Dim};
pub use dtype::{Bool, DType, Element};
pub use gradient::{Gradient, Gradients};
pub use graph::{Graph, GraphError, Metadata, Node, NodeId, State, StateId, Value, ValueId};
pub use infer::{Fold, infer, is_settled, set_input_shapes};
pub use interpret::{Interpreter, interpret};
pub use kinglet_kernels::encoding::Encoding;
pub use op::{InferCx, Inputs, Known, Op, OpError, OpResult, Outputs, Runner, Slot, StateMut};
pub use tensor::{AlignedBytes, Bytes, Tensor, TensorView};
pub use types::{Dims, Quant, Shape, ValueType, elements};
