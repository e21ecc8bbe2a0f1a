//! The sum that ends a residual block joins the convolution or linear product that is one of its
//! operands.

use super::Rewriter;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::quantized::{QBinary, QBinaryKind, QConv, QConvAdd};
use kinglet_graph::ops::rows::Linear;
use kinglet_graph::{DType, Graph, GraphError, Node, Op, ValueId};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    // Links are of nodes by index and of values: replacing a sum by a convolution in its place
    // changes neither for the sums that follow.
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        let [Some(a), Some(b)] = node.inputs[..] else { continue };
        let sizes = |v| &graph.value(v).ty.shape;
        if a == b || sizes(a) != sizes(b) {
            continue;
        }
        // The later of two convolutions: the earlier one's result is there by then.
        let found = [(b, a), (a, b)].into_iter().find_map(|(from, other)| {
            let conv = graph.node(links.producer_id(from)?);
            links.only_user(from)?;
            let op = float(node, conv)
                .or_else(|| linear(graph, node, conv))
                .or_else(|| integer(graph, node, conv))?;
            let mut inputs = conv.inputs.clone();
            inputs.resize(3, None);
            inputs.push(Some(other));
            Some((op, inputs, conv.name.clone()))
        });
        if let Some((op, inputs, name)) = found {
            let node = &mut graph.nodes_mut()[i];
            (node.op, node.inputs, node.name) = (op, inputs, name);
        }
    }
    graph.remove_unused();
    Ok(())
}

/// The float convolution that does the sum of its result too.
fn float(sum: &Node, conv: &Node) -> Option<Arc<dyn Op>> {
    let (sum, op) = (sum.op.downcast::<Binary>()?, conv.op.downcast::<Conv>()?);
    let free = op.activation == Activation::None && conv.inputs.len() <= 3;
    (sum.function == BinaryFn::Add && free)
        .then(|| Arc::new(Conv { activation: sum.activation, ..op.clone() }) as Arc<dyn Op>)
}

/// The linear product that does the sum of its result too, where kernels have it: by constant weights.
fn linear(graph: &Graph, sum: &Node, product: &Node) -> Option<Arc<dyn Op>> {
    let (sum, op) = (sum.op.downcast::<Binary>()?, product.op.downcast::<Linear>()?);
    let weights = product.inputs.get(1).copied().flatten()?;
    graph.value(weights).data.as_ref()?;
    let free = op.activation == Activation::None && product.inputs.len() <= 3;
    (sum.function == BinaryFn::Add && free)
        .then(|| Arc::new(Linear { activation: sum.activation }) as Arc<dyn Op>)
}

/// The same of integers, where kernels have it: of bytes, but not depthwise.
fn integer(graph: &Graph, sum: &Node, conv: &Node) -> Option<Arc<dyn Op>> {
    let (sum, op) = (sum.op.downcast::<QBinary>()?, conv.op.downcast::<QConv>()?);
    let ty = |v: Option<&Option<ValueId>>| v.copied().flatten().map(|v| &graph.value(v).ty);
    let (x, weights) = (ty(conv.inputs.first())?, ty(conv.inputs.get(1))?);
    let product = &graph.value(*conv.outputs.first()?).ty;
    let bytes = [x.dtype, product.dtype].iter().all(|d| matches!(d, DType::I8 | DType::U8));
    let (_, per_group, _) = op.weight_layout.split(weights.shape.dims()?).ok()?;
    let depthwise = op.groups > 1 && per_group.fixed() == Some(1);
    (sum.kind == QBinaryKind::Add && bytes && !depthwise).then_some(())?;
    let product = product.quant.clone().filter(|quant| quant.single().is_some())?;
    Some(Arc::new(QConvAdd { conv: op.clone(), product, sum: sum.clone() }))
}
