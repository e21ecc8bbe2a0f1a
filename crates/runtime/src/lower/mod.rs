//! Kernel choice: for each node, the first family that has a kernel for it at its sizes and on
//! this CPU; the op's own reference implementation where none has.
//!
//! A family is one file with a function `lower`. It looks at the node (`cx.op::<Conv>()`), at
//! sizes and constants, packs what is constant, and returns a [`Lowered`]; `Ok(None)` passes the
//! node on.

mod batch_norm;
mod broadcast;
mod cast;
mod concat;
mod conv;
mod conv_training;
mod elementwise;
mod fake_quantize;
mod float;
mod loss;
mod matmul;
mod norm;
mod order;
mod pool;
mod product;
mod quantized;
mod recurrent;
mod reduce;
mod reference;
mod resize;
mod rows;
mod softmax;
mod transpose;

pub(crate) use rows::MOST_PARTS;

use crate::kernel::Lowered;
use crate::runner::PlanRunner;
use crate::{Choices, Shared};
use kinglet_graph::{Dims, Graph, GraphError, Node, Op, OpError, OpResult, TensorView, Value};
use kinglet_kernels::isa::Isa;
use std::sync::Arc;

type Family = fn(&LowerCx<'_>) -> OpResult<Option<Lowered>>;

/// The kernel families, in the order in which they are asked.
const FAMILIES: &[Family] = &[
    conv::lower,
    matmul::lower,
    conv_training::lower,
    elementwise::lower,
    pool::lower,
    softmax::lower,
    loss::lower,
    reduce::lower,
    norm::lower,
    batch_norm::lower,
    fake_quantize::lower,
    resize::lower,
    recurrent::lower,
    order::lower,
    transpose::lower,
    concat::lower,
    cast::lower,
    quantized::lower,
    rows::lower,
];

/// A node to find a kernel for. All its values have known sizes.
pub struct LowerCx<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The node.
    pub node: &'a Node,
    /// The instruction set to use.
    pub isa: Isa,
    /// Which way is faster, where there are several.
    pub choices: Choices,
    /// How many threads will share the work.
    pub threads: usize,
    /// Where weights that are packed on first use are kept.
    pub shared: &'a Shared,
}

impl<'a> LowerCx<'a> {
    /// The node's op as `T`, if it is one.
    pub fn op<T: Op>(&self) -> Option<&'a T> {
        self.node.op.downcast()
    }

    /// The value at input `i`, if it is there.
    pub fn input(&self, i: usize) -> Option<&'a Value> {
        self.node.inputs.get(i).copied().flatten().map(|v| self.graph.value(v))
    }

    /// The data of input `i`, if it is there and constant.
    pub fn constant(&self, i: usize) -> Option<TensorView<'a>> {
        self.input(i)?.data.as_ref().map(|d| d.view())
    }

    /// The value at output `i`.
    pub fn output(&self, i: usize) -> &'a Value {
        self.graph.value(self.node.outputs[i])
    }

    /// The sizes of `value`, which the planner made sure are known.
    pub fn dims(&self, value: &Value) -> OpResult<Dims> {
        value.ty.shape.fixed().ok_or_else(|| OpError::new(format!("{} has no sizes", value.ty)))
    }
}

/// The kernel for one node.
pub(crate) fn lower(cx: &LowerCx<'_>, runner: &Arc<PlanRunner>) -> Result<Lowered, GraphError> {
    for family in FAMILIES {
        if let Some(lowered) = family(cx).map_err(|e| GraphError::at(cx.node, &e))? {
            return Ok(lowered);
        }
    }
    Ok(reference(cx.node, runner))
}

/// The op's own reference implementation as a kernel.
pub(crate) fn reference(node: &Node, runner: &Arc<PlanRunner>) -> Lowered {
    reference::lower(node, runner.clone())
}
