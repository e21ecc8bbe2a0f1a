//! Linear products of one input become one op, which rounds the input once and shares all of the
//! weights' rows out to threads at once: queries, keys and values, or a gate and what it lets through.

use super::Rewriter;
use crate::lower::MOST_PARTS;
use kinglet_graph::ops::rows::{Linear, Linears};
use kinglet_graph::{DType, Graph, GraphError, Node};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        let Some(weights) = weights(graph, &graph.nodes()[i]) else { continue };
        let Some(x) = graph.nodes()[i].inputs[0] else { continue };
        // Of one type, for which the input is rounded alike.
        let mut joined: Vec<usize> = links.users(x).iter().map(|id| id.index()).collect();
        joined.retain(|j| {
            let node = &graph.nodes()[*j];
            let of_x = node.inputs.first() == Some(&Some(x));
            of_x && *j >= i && self::weights(graph, node) == Some(weights)
        });
        joined.truncate(MOST_PARTS);
        if joined.len() < 2 {
            continue;
        }
        let name = name(joined.iter().map(|j| graph.nodes()[*j].name.as_str()));
        let (mut parts, mut inputs, mut outputs) = (Vec::new(), vec![Some(x)], Vec::new());
        for j in &joined {
            let node = &mut graph.nodes_mut()[*j];
            parts.extend(node.op.downcast::<Linear>().copied());
            inputs.extend([node.inputs[1], node.inputs.get(2).copied().flatten()]);
            outputs.append(&mut node.outputs);
            node.inputs.clear();
        }
        let node = &mut graph.nodes_mut()[i];
        node.op = Arc::new(Linears { parts });
        (node.name, node.inputs, node.outputs) = (name, inputs, outputs);
    }
    graph.nodes_mut().retain(|n| !n.outputs.is_empty() || n.op.state().is_some());
    graph.remove_unused();
    Ok(())
}

/// `layer.q`, `layer.k` and `layer.v` are `layer.q+k+v`.
fn name<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first = names.next().unwrap_or_default();
    let others = names.map(|name| name.rsplit('.').next().unwrap_or_default());
    std::iter::once(first)
        .chain(others)
        .filter(|name| !name.is_empty())
        .collect::<Vec<_>>()
        .join("+")
}

/// The type of a linear's weights, where they are constant, and so is its bias.
fn weights(graph: &Graph, node: &Node) -> Option<DType> {
    node.op.downcast::<Linear>()?;
    let constant = |i: usize| {
        let input = node.inputs.get(i).copied().flatten();
        input.map(|v| graph.value(v)).filter(|v| v.data.is_some())
    };
    let free = node.inputs.get(2).copied().flatten().is_none() || constant(2).is_some();
    free.then_some(constant(1)?.ty.dtype)
}
