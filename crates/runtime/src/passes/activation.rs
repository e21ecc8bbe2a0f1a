//! An activation becomes part of the op whose result it is applied to.

use super::Rewriter;
use kinglet_graph::ops::unary::{Clip, Unary};
use kinglet_graph::{DType, Graph, GraphError};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    clips(graph);
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

/// A clip whose bounds are constant is a function of one element.
fn clips(graph: &mut Graph) {
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        let input = |i: usize| node.inputs.get(i).copied().flatten().map(|v| graph.value(v));
        let floats = input(0).is_some_and(|x| x.ty.dtype == DType::F32);
        let bound = |i: usize| match input(i) {
            None => Some(None),
            Some(value) => value.data.as_ref().map(|data| Some(data.view())),
        };
        let (true, true, Some(min), Some(max)) = (node.op.is::<Clip>(), floats, bound(1), bound(2))
        else {
            continue;
        };
        let Some(clamp) = Clip::bounds(min, max).ok().and_then(|a| a.function()) else { continue };
        let node = &mut graph.nodes_mut()[i];
        node.op = Arc::new(clamp);
        node.inputs.truncate(1);
    }
}
