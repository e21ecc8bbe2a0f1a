//! The kernel of last resort: the op's reference implementation.

use crate::kernel::{Io, Kernel, Lowered};
use crate::runner::PlanRunner;
use kinglet_graph::{Inputs, Node, Op, OpResult, Outputs, Runner, Slot};
use std::sync::Arc;

struct Reference {
    op: Arc<dyn Op>,
    runner: Arc<PlanRunner>,
}

pub(super) fn lower(node: &Node, runner: Arc<PlanRunner>) -> Lowered {
    Lowered::new(Reference { op: node.op.clone(), runner })
}

/// Computes `op` by its reference implementation.
pub(super) fn eval(op: &dyn Op, io: &mut Io<'_>, runner: &dyn Runner) -> OpResult {
    let slots = io.outputs.iter_mut().map(|out| Slot::Planned {
        dtype: out.dtype,
        dims: out.dims,
        bytes: &mut *out.bytes,
        quant: out.quant,
    });
    let mut outputs = Outputs::new(slots).with_state(io.state.take());
    op.eval(&Inputs::new(io.inputs, runner), &mut outputs)
}

impl Kernel for Reference {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        eval(&*self.op, io, &*self.runner)
    }

    fn describe(&self) -> String {
        "reference".into()
    }

    fn why(&self) -> &'static str {
        "no kernel takes this op with these types and sizes"
    }
}
