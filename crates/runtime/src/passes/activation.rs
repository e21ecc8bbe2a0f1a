//! An activation becomes part of the op whose result it is applied to.

use super::Rewriter;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{Graph, GraphError};

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        // Chains fuse from the front: a node's op may already be the result of a fusion.
        let mut last = graph.node_id(i);
        loop {
            let node = graph.node(last);
            let [out] = node.outputs[..] else { break };
            let Some(user) = links.only_user(out) else { break };
            let Some(function) = graph.node(user).op.downcast::<Unary>() else { break };
            let Some(fused) = node.op.then(*function) else { break };
            let inputs = node.inputs.clone();
            // The fused op stands where the activation stood, which keeps its output's name.
            let name = node.name.clone();
            graph.nodes_mut()[last.index()].outputs = Vec::new();
            graph.nodes_mut()[last.index()].inputs = Vec::new();
            let target = &mut graph.nodes_mut()[user.index()];
            (target.op, target.inputs, target.name) = (fused, inputs, name);
            last = user;
        }
    }
    graph.nodes_mut().retain(|n| !n.outputs.is_empty() || n.op.state().is_some());
    graph.remove_unused();
    Ok(())
}
