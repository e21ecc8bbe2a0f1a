//! Something beside the products of a graph.

use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::rows::Linear;
use kinglet_graph::{DType, Graph, GraphError, Node, ValueId};
use std::collections::HashMap;

/// Values of a graph that make B (f ⊙ A x).
#[derive(Clone, Copy, Debug)]
pub struct Low {
    /// A [r, k].
    pub a: ValueId,
    /// B [m, r].
    pub b: ValueId,
    /// f: of each row of A, or of all; f32.
    pub factor: ValueId,
}

/// Adds B (f ⊙ A x) to each product W x of `graph`, whose types are inferred, where `low` gives them for
/// the constant W. A constant that is read by something else too, as embeddings that are the output's as
/// well, is not asked for.
///
/// # Errors
/// What `low` fails with.
pub fn beside(
    graph: &mut Graph,
    mut low: impl FnMut(&mut Graph, ValueId) -> Result<Option<Low>, GraphError>,
) -> Result<(), GraphError> {
    let nodes = std::mem::take(graph.nodes_mut());
    let weights = alone(graph, &nodes);
    let mut made: HashMap<ValueId, Option<Low>> = HashMap::new();
    let mut instead: HashMap<ValueId, ValueId> = HashMap::new();
    for mut node in nodes {
        for input in node.inputs.iter_mut().flatten() {
            *input = instead.get(input).copied().unwrap_or(*input);
        }
        let weight = weight_of(&node).filter(|w| weights.contains(w));
        let (x, y, name) = (node.inputs.first().copied(), node.outputs.clone(), node.name.clone());
        graph.push_node(node);
        let (Some(weight), Some(Some(x)), [y]) = (weight, x, y.as_slice()) else { continue };
        let found = match made.get(&weight) {
            Some(found) => *found,
            None => *made.entry(weight).or_insert(low(graph, weight)?),
        };
        let Some(Low { a, b, factor }) = found else { continue };
        let down = graph.apply(format!("{name}.lora_a"), Linear::default(), &[x, a], DType::F32);
        let mul = Binary::new(BinaryFn::Mul);
        let down = graph.apply(format!("{name}.lora"), mul, &[down, factor], DType::F32);
        let up = graph.apply(format!("{name}.lora_b"), Linear::default(), &[down, b], DType::F32);
        let add = Binary::new(BinaryFn::Add);
        let sum = graph.apply(format!("{name}.adapted"), add, &[*y, up], DType::F32);
        instead.insert(*y, sum);
    }
    for output in &mut graph.outputs {
        *output = instead.get(output).copied().unwrap_or(*output);
    }
    Ok(())
}

/// The weight of a product.
fn weight_of(node: &Node) -> Option<ValueId> {
    node.op.downcast::<Linear>()?;
    node.inputs.get(1).copied().flatten()
}

/// The constants that are read by products alone, as their weights.
fn alone(graph: &Graph, nodes: &[Node]) -> Vec<ValueId> {
    let is_constant = |w: &ValueId| graph.value(*w).data.is_some();
    let mut found: Vec<ValueId> = nodes.iter().filter_map(weight_of).filter(is_constant).collect();
    found.sort_unstable();
    found.dedup();
    found.retain(|w| {
        let elsewhere = |node: &Node| {
            let mut inputs = node.inputs.iter().enumerate();
            inputs.any(|(i, v)| *v == Some(*w) && !(i == 1 && node.op.is::<Linear>()))
        };
        !nodes.iter().any(elsewhere)
    });
    found
}
