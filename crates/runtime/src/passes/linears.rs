//! Linear products of one input become one op, which normalises and rounds the input once and shares
//! all of the weights' rows out to threads at once: queries, keys and values, or a gate and what it
//! lets through, whose product it gives.

use super::Rewriter;
use crate::lower::MOST_PARTS;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::norm::{LayerNorm, RmsNorm};
use kinglet_graph::ops::rows::{Linear, Linears, RowNorm};
use kinglet_graph::{DType, Graph, GraphError, Node, ValueId};
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
        // A product that is there twice is computed again on purpose, so as not to be held.
        let mut seen = Vec::with_capacity(joined.len());
        joined.retain(|j| {
            let weights = graph.nodes()[*j].inputs[1];
            let new = !seen.contains(&weights);
            seen.push(weights);
            new
        });
        joined.truncate(MOST_PARTS);
        // Floats are multiplied as they are: they would be normalised once more for each part.
        let encoded = matches!(weights, DType::Encoded(_));
        let all = links.users(x).len() == joined.len() && !links.is_output(x);
        let norm = norm(graph, &links, x).filter(|_| encoded && all);
        if joined.len() < 2 && norm.is_none() {
            continue;
        }
        let name = name(joined.iter().map(|j| graph.nodes()[*j].name.as_str()));
        let (norm, mut inputs) = match norm {
            Some((norm, inputs)) => (Some(norm), inputs),
            None => (None, vec![Some(x), None, None]),
        };
        let (mut parts, mut outputs) = (Vec::new(), Vec::new());
        for j in &joined {
            let node = &mut graph.nodes_mut()[*j];
            parts.extend(node.op.downcast::<Linear>().copied());
            inputs.extend([node.inputs[1], node.inputs.get(2).copied().flatten()]);
            outputs.append(&mut node.outputs);
            node.inputs.clear();
        }
        let product = product(graph, &links, &outputs);
        if let Some(j) = product {
            outputs = std::mem::take(&mut graph.nodes_mut()[j].outputs);
        }
        let node = &mut graph.nodes_mut()[i];
        node.op = Arc::new(Linears { norm, parts, gated: product.is_some() });
        (node.name, node.inputs, node.outputs) = (name, inputs, outputs);
    }
    graph.nodes_mut().retain(|n| !n.outputs.is_empty() || n.op.state().is_some());
    graph.remove_unused();
    Ok(())
}

/// The normalisation of rows that makes `x`, and its inputs.
fn norm(graph: &Graph, links: &Rewriter, x: ValueId) -> Option<(RowNorm, Vec<Option<ValueId>>)> {
    let node = graph.node(links.producer_id(x)?);
    let (axis, norm) = match (node.op.downcast::<RmsNorm>(), node.op.downcast::<LayerNorm>()) {
        (Some(op), _) => (op.axis, RowNorm { epsilon: op.epsilon, centred: false }),
        (_, Some(op)) => (op.axis, RowNorm { epsilon: op.epsilon, centred: true }),
        _ => return None,
    };
    let dims = graph.value(x).ty.shape.dims()?;
    let of_rows = axis == -1 || axis == dims.len() as i64 - 1;
    let whole = |v: ValueId| {
        let value = graph.value(v);
        value.data.is_some() && value.ty.shape.dims() == Some(&dims[dims.len() - 1..])
    };
    let mut inputs = node.inputs.clone();
    inputs.resize(3, None);
    let fits = of_rows && node.outputs.len() == 1;
    (fits && inputs[1..].iter().flatten().all(|v| whole(*v))).then_some((norm, inputs))
}

/// The product of two results that are used for nothing else.
fn product(graph: &Graph, links: &Rewriter, results: &[ValueId]) -> Option<usize> {
    let &[a, b] = results else { return None };
    let id = links.only_user(a).filter(|id| links.only_user(b) == Some(*id))?;
    let node = graph.node(id);
    let op = node.op.downcast::<Binary>()?;
    let sizes = |v: ValueId| graph.value(v).ty.shape.dims();
    let plain = op.function == BinaryFn::Mul && op.activation == Activation::None;
    (plain && sizes(a).is_some() && sizes(a) == sizes(b)).then_some(id.index())
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

/// The type of a linear's weights, where they are constant, so is its bias, nothing is added, and what
/// it multiplies is of f32.
fn weights(graph: &Graph, node: &Node) -> Option<DType> {
    node.op.downcast::<Linear>()?;
    let constant = |i: usize| {
        let input = node.inputs.get(i).copied().flatten();
        input.map(|v| graph.value(v)).filter(|v| v.data.is_some())
    };
    let there = |i: usize| node.inputs.get(i).copied().flatten().is_some();
    let x = node.inputs.first().copied().flatten()?;
    let f32s = graph.value(x).ty.dtype == DType::F32;
    let free = f32s && (!there(2) || constant(2).is_some()) && !there(3);
    free.then_some(constant(1)?.ty.dtype)
}
