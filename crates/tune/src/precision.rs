//! Products of training in bf16: mixed precision (Micikevicius et al., ICLR 2018, arXiv 1710.03740; of
//! bf16, whose range is that of f32 so that no loss needs to be scaled: Kalamkar et al., arXiv 1905.12322).

use crate::backward::wanted;
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::rows::{Linear, LinearTranspose};
use kinglet_graph::ops::state::StateRead;
use kinglet_graph::{Builder, DType, Graph, GraphError, Node, Op, OpResult, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the products of a training step are computed of: those that a gradient goes through, and those
/// that make the gradients of what goes in and of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Both factors rounded to bf16, to nearest, and summed in f32. Weights, their updates, norms,
    /// attention, the loss and its evaluation stay f32. Weights in an encoding are multiplied as ever.
    Bf16,
}

/// Rounds the factors of the products of `graph`, whose first `forward` nodes compute the loss and the
/// others its gradients with respect to `trained`.
///
/// A factor is rounded once for all that read it; where gradients want nothing else of it, it is held
/// for them in bf16, in half the memory. Returns how many nodes compute the loss from then on.
pub(crate) fn round_products(
    graph: &mut Graph,
    forward: usize,
    trained: &[ValueId],
) -> Result<usize, GraphError> {
    let wanted = wanted(graph, trained);
    let products: Vec<Option<Arc<dyn Op>>> = graph
        .nodes()
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let has_gradient = i >= forward || node.outputs.iter().any(|v| wanted[v.index()]);
            let is_f32 =
                |v: &Option<ValueId>| v.is_some_and(|v| graph.value(v).ty.dtype == DType::F32);
            let f32s = node.inputs.len() >= FACTORS && node.inputs[..FACTORS].iter().all(is_f32);
            mixed(node).filter(|_| has_gradient && f32s)
        })
        .collect();
    let mut factors = Factors { held: held(graph, forward, &products), rounded: BTreeMap::new() };
    let nodes = std::mem::take(graph.nodes_mut());
    let mut forward_nodes = forward;
    for (i, (mut node, product)) in nodes.into_iter().zip(products).enumerate() {
        if i == forward {
            forward_nodes = graph.nodes().len();
        }
        if let Some(op) = product {
            let name = node.name.clone();
            for factor in node.inputs[..FACTORS].iter_mut().flatten() {
                let rounded = factors.rounded(graph, *factor, i >= forward);
                *factor = rounded.map_err(|e| GraphError::new(name.clone(), e.to_string()))?;
            }
            node.op = op;
        }
        graph.push_node(node);
    }
    Ok(forward_nodes)
}

/// The first inputs of every product.
const FACTORS: usize = 2;

/// The op of a product whose factors are of bf16.
fn mixed(node: &Node) -> Option<Arc<dyn Op>> {
    if let Some(op) = node.op.downcast::<MatMul>() {
        return (!op.wide).then(|| Arc::new(MatMul { wide: true, ..*op }) as Arc<dyn Op>);
    }
    let typed = node.op.downcast::<Linear>().is_some();
    (typed || node.op.downcast::<LinearTranspose>().is_some()).then(|| node.op.clone())
}

/// What goes into the loss or is computed for it, of which gradients read nothing but factors of
/// `products`. What a state holds is in memory anyway.
fn held(graph: &Graph, forward: usize, products: &[Option<Arc<dyn Op>>]) -> BTreeSet<ValueId> {
    let computed = graph.nodes()[..forward].iter();
    let computed = computed.filter(|node| node.op.downcast::<StateRead>().is_none());
    let mut held: BTreeSet<ValueId> = computed.flat_map(|node| node.outputs.clone()).collect();
    held.extend(&graph.inputs);
    for (node, product) in graph.nodes().iter().zip(products).skip(forward) {
        let first = if product.is_some() { FACTORS } else { 0 };
        for v in node.inputs.iter().skip(first).flatten() {
            held.remove(v);
        }
    }
    held
}

/// Rounded factors.
struct Factors {
    held: BTreeSet<ValueId>,
    /// By what they were, and whether they are the gradients' own.
    rounded: BTreeMap<(ValueId, bool), ValueId>,
}

impl Factors {
    /// `v` rounded, for a product of the gradients or of the loss.
    fn rounded(&mut self, graph: &mut Graph, v: ValueId, of_gradients: bool) -> OpResult<ValueId> {
        let shared = self.held.contains(&v) || graph.value(v).data.is_some();
        let key = (v, of_gradients && !shared);
        if let Some(rounded) = self.rounded.get(&key) {
            return Ok(*rounded);
        }
        let name = format!("{}.bf16", graph.value(v).name);
        let rounded = match &graph.value(v).data {
            Some(data) => {
                let data = Tensor::encode(DType::BF16, data.dims(), data.slice::<f32>()?)?;
                graph.add_constant(name, data)
            }
            None => Builder::new(graph, name).apply(Cast::new(DType::BF16), &[v])?,
        };
        self.rounded.insert(key, rounded);
        Ok(rounded)
    }
}
