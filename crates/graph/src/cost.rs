//! What a graph costs to run: multiply-accumulates and bytes moved.

use crate::{Graph, ValueType};
use std::ops::AddAssign;

/// Work and memory traffic of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-accumulates of matrix products and convolutions.
    pub macs: u64,
    /// Bytes read and written, each tensor once.
    pub bytes: u64,
}

impl Cost {
    /// No arithmetic; every input read once, every output written once.
    pub fn traffic(inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let all = inputs.iter().flatten().chain(outputs);
        let bytes = all.map(|ty| ty.bytes().unwrap_or(0) as u64).sum();
        Cost { macs: 0, bytes }
    }

    /// The same traffic with `macs` multiply-accumulates.
    #[must_use]
    pub fn with_macs(self, macs: u64) -> Cost {
        Cost { macs, ..self }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.macs += other.macs;
        self.bytes += other.bytes;
    }
}

/// The cost of a whole graph.
#[derive(Clone, Debug, Default)]
pub struct GraphCost {
    /// The sum over nodes.
    pub total: Cost,
    /// Each node's, in the order of [`Graph::nodes`].
    pub nodes: Vec<Cost>,
}

impl Graph {
    /// The cost of each node and of all. Values of unknown size count as nothing; the bodies of
    /// control flow count once.
    pub fn cost(&self) -> GraphCost {
        let mut sum = GraphCost::default();
        for node in self.nodes() {
            let inputs: Vec<_> = node.inputs.iter().map(|v| v.map(|v| &self.value(v).ty)).collect();
            let outputs: Vec<_> = node.outputs.iter().map(|v| &self.value(*v).ty).collect();
            let mut cost = node.op.cost(&inputs, &outputs);
            for body in node.op.subgraphs() {
                cost += body.cost().total;
            }
            sum.total += cost;
            sum.nodes.push(cost);
        }
        sum
    }
}
