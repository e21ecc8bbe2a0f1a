//! Moves that move nothing: identities vanish, transposes that only move sizes of 1 become views,
//! two transposes in a row become one.

use super::Rewriter;
use kinglet_graph::ops::reshape::{Identity, Reshape};
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::{Graph, GraphError, Node, OpError, Tensor, ValueId};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    remove(graph, |_, node| node.op.is::<Identity>());
    merge_transposes(graph)?;
    remove(graph, is_identity_transpose);
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        let Some(dims) = moves_only_ones(graph, node) else { continue };
        let shape: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        let shape = Tensor::from_slice(&[shape.len()], &shape)
            .map_err(|e: OpError| GraphError::at(node, &e))?;
        let shape = graph.add_constant("", shape);
        let node = &mut graph.nodes_mut()[i];
        node.op = Arc::new(Reshape { allow_zero: true });
        node.inputs = vec![node.inputs[0], Some(shape)];
    }
    graph.remove_unused();
    Ok(())
}

/// Removes the nodes whose output is their input. An output of the graph keeps the value that
/// bears its name.
fn remove(graph: &mut Graph, is_identity: impl Fn(&Graph, &Node) -> bool) {
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        if let (Some(Some(input)), [out]) = (node.inputs.first().copied(), &node.outputs[..])
            && is_identity(graph, node)
            && !graph.outputs.contains(out)
        {
            graph.replace_uses(*out, input);
        }
    }
}

/// The permutation of a transpose of known rank.
fn permutation(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    node.op.downcast::<Transpose>()?;
    let rank = graph.value(node.inputs[0]?).ty.shape.rank()?;
    match node.inputs.get(1).copied().flatten() {
        None => Some((0..rank).rev().collect()),
        Some(p) => {
            let ints = graph.value(p).data.as_ref()?.view().ints().ok()?;
            let wrap = |a: i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok();
            ints.into_iter().map(wrap).collect()
        }
    }
}

fn is_identity_transpose(graph: &Graph, node: &Node) -> bool {
    permutation(graph, node).is_some_and(|p| p.iter().enumerate().all(|(i, a)| i == *a))
}

/// The output sizes of a transpose that leaves the order of its elements as it was.
fn moves_only_ones(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    let permutation = permutation(graph, node)?;
    let dims = graph.value(node.inputs[0]?).ty.shape.fixed()?;
    let moved: Vec<usize> = permutation.iter().copied().filter(|a| dims[*a] != 1).collect();
    moved.is_sorted().then(|| permutation.iter().map(|a| dims[*a]).collect())
}

fn merge_transposes(graph: &mut Graph) -> Result<(), GraphError> {
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        let Some(outer) = permutation(graph, node) else { continue };
        let Some(middle) = node.inputs[0] else { continue };
        let Some((_, first, _)) = links.producer::<Transpose>(graph, middle) else { continue };
        let (Some(inner), Some(source)) = (permutation(graph, first), first.inputs[0]) else {
            continue;
        };
        let merged: Vec<i64> = outer.iter().map(|a| inner[*a] as i64).collect();
        let merged = Tensor::from_slice(&[merged.len()], &merged)
            .map_err(|e| GraphError::at(&graph.nodes()[i], &e))?;
        let merged: ValueId = graph.add_constant("", merged);
        graph.nodes_mut()[i].inputs = vec![Some(source), Some(merged)];
    }
    Ok(())
}
