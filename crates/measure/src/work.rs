//! What each step of a plan has to do.

use kinglet_graph::ops::rows::RowAttention;
use kinglet_graph::{Cost, DType, Graph, Node, NodeId, Value, ValueType};
use kinglet_kernels::peak::Arithmetic;
use kinglet_runtime::Plan;

/// A step of a plan and what it has to do, as its op's cost rule tells: every product, every
/// operand read once and every result written once, weights in the bytes that the file has of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The node's name in the model, or that of what it computes, or its number.
    pub name: String,
    /// The op.
    pub op: &'static str,
    /// Which kernel runs it.
    pub kernel: String,
    /// Sizes of the first result, and of the largest weights.
    pub shape: String,
    /// What is multiplied: bytes where an operand is of 8 bits or less, else floats, as halves are
    /// widened.
    pub arithmetic: Arithmetic,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of all else that is read and written.
    pub activations: u64,
}

impl Work {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.weights + self.activations
    }

    /// The work of each step. Attention over rows that a sequence's state holds is over `held`
    /// positions before the plan's own rows.
    pub fn of(plan: &Plan, held: usize) -> Vec<Work> {
        let graph = plan.graph();
        let costs = graph.cost().nodes;
        plan.steps()
            .map(|step| {
                let of = |id: NodeId, kernel: String| {
                    let (node, cost) = (graph.node(id), costs[id.index()]);
                    Work::of_node(graph, node, cost, held, id.to_string(), kernel)
                };
                let mut work = of(step.node, step.kernel.clone());
                for id in step.before {
                    let before = of(id, String::new());
                    // What it hands on goes to no memory, neither written nor read.
                    let handed = graph.node(id).outputs.iter();
                    let handed = handed.map(|v| graph.value(*v).ty.bytes().unwrap_or(0) as u64);
                    work.macs += before.macs;
                    work.weights += before.weights;
                    let all = work.activations + before.activations;
                    work.activations = all.saturating_sub(2 * handed.sum::<u64>());
                }
                work
            })
            .collect()
    }

    fn of_node(
        graph: &Graph,
        node: &Node,
        mut cost: Cost,
        held: usize,
        number: String,
        kernel: String,
    ) -> Work {
        let inputs = || node.inputs.iter().flatten().map(|id| graph.value(*id));
        let outputs: Vec<&Value> = node.outputs.iter().map(|id| graph.value(*id)).collect();
        let bytes = |value: &Value| value.ty.bytes().unwrap_or(0) as u64;
        let passing = inputs().filter(|value| value.data.is_none()).map(bytes).sum::<u64>()
            + outputs.iter().copied().map(bytes).sum::<u64>();
        // An op that reads a part of its weights only says so in its cost.
        let constant = inputs().filter(|value| value.data.is_some()).map(bytes).sum::<u64>();
        let weights = cost.bytes.saturating_sub(passing).min(constant);
        if let Some(op) = node.op.downcast::<RowAttention>() {
            let rows = outputs.first().and_then(|y| y.ty.shape.fixed()).map_or(0, |dims| dims[0]);
            let held = op.cost_after(held, rows, graph.state(op.state).ty.dtype);
            (cost.macs, cost.bytes) = (held.macs, cost.bytes + held.bytes);
        }
        let largest = inputs().filter(|value| value.data.is_some()).max_by_key(|v| bytes(v));
        let shape = [outputs.first().copied(), largest.filter(|_| cost.macs > 0)];
        let shape: Vec<String> = shape.into_iter().flatten().map(|v| sizes(&v.ty)).collect();
        let small = |value: &Value| match value.ty.dtype {
            DType::Encoded(_) => true,
            dtype => dtype.bits() <= 8 && dtype != DType::Bool,
        };
        Work {
            name: [&node.name, outputs.first().map_or(&node.name, |value| &value.name), &number]
                .into_iter()
                .find(|name| !name.is_empty())
                .cloned()
                .unwrap_or_default(),
            op: node.op.name(),
            kernel,
            shape: shape.join(" by "),
            arithmetic: if inputs().any(small) { Arithmetic::Int8 } else { Arithmetic::F32 },
            macs: cost.macs,
            weights,
            activations: cost.bytes - weights,
        }
    }
}

/// `1×112×112×32 u8`.
fn sizes(ty: &ValueType) -> String {
    let sizes = match ty.shape.dims() {
        None => "?".into(),
        Some([]) => "one".into(),
        Some(dims) => dims.iter().map(|dim| dim.to_string()).collect::<Vec<_>>().join("×"),
    };
    format!("{sizes} {}", ty.dtype)
}

/// Bytes that one run touches: all weights that are read, and what is computed on the way.
pub fn touched(plan: &Plan, work: &[Work]) -> usize {
    let weights: u64 = work.iter().map(|work| work.weights).sum();
    plan.memory().planned + weights as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::two_products;
    use kinglet_runtime::PlanOptions;

    #[test]
    fn work_is_what_the_sizes_say() {
        let plan = Plan::new(&two_products(), &PlanOptions::default()).unwrap();
        let work = Work::of(&plan, 0);
        let (first, last) = (&work[0], &work[work.len() - 1]);
        assert_eq!((first.name.as_str(), first.arithmetic), ("up", Arithmetic::F32));
        assert_eq!((first.macs, first.weights), (4 * 64 * 32, 4 * 64 * 32));
        assert_eq!(first.activations, 4 * (4 * 64 + 4 * 32));
        assert_eq!(first.shape, "4×32 f32 by 64×32 f32");
        assert_eq!((last.op, last.macs, last.weights), ("Softmax", 0, 0));
        let all: u64 = work.iter().map(Work::bytes).sum();
        assert!(touched(&plan, &work) as u64 >= 4 * 64 * 32 && all > 0);
    }
}
