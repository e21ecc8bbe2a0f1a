//! What most passes need: who makes a value, who uses it, and the replacing of nodes.

use kinglet_graph::{Graph, Node, NodeId, Op, ValueId};

/// A graph under rewriting, with its links both ways. Links are of the graph as it was when this
/// was made, and values added since have none; a pass that changes what it still has to look at
/// makes a new one.
pub struct Rewriter {
    producers: Vec<Option<NodeId>>,
    uses: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
}

impl Rewriter {
    /// The links of `graph`.
    pub fn new(graph: &Graph) -> Rewriter {
        let mut is_output = vec![false; graph.values().len()];
        for v in &graph.outputs {
            is_output[v.index()] = true;
        }
        Rewriter { producers: graph.producers(), uses: graph.uses(), is_output }
    }

    /// The node that computes `value`, if it is a `T`.
    pub fn producer<'g, T: Op>(
        &self,
        graph: &'g Graph,
        value: ValueId,
    ) -> Option<(NodeId, &'g Node, &'g T)> {
        let id = self.producer_id(value)?;
        let node = graph.node(id);
        Some((id, node, node.op.downcast::<T>()?))
    }

    /// The node that computes `value`, if one does.
    pub fn producer_id(&self, value: ValueId) -> Option<NodeId> {
        self.producers.get(value.index()).copied().flatten()
    }

    /// The one node that uses `value`, where nothing else does and it is no output.
    pub fn only_user(&self, value: ValueId) -> Option<NodeId> {
        match self.users(value) {
            [one] if !self.is_output(value) => Some(*one),
            _ => None,
        }
    }

    /// The nodes that use `value`.
    pub fn users(&self, value: ValueId) -> &[NodeId] {
        self.uses.get(value.index()).map_or(&[], Vec::as_slice)
    }

    /// Whether `value` is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.is_output.get(value.index()).copied().unwrap_or(false)
    }
}
