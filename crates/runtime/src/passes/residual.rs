//! The sum that ends a residual block joins the convolution that is one of its operands.

use super::Rewriter;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::{Graph, GraphError};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    // Links are of nodes by index and of values: replacing a sum by a convolution in its place
    // changes neither for the sums that follow.
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        let Some(sum) = node.op.downcast::<Binary>() else { continue };
        let [Some(a), Some(b)] = node.inputs[..] else { continue };
        let sizes = |v| &graph.value(v).ty.shape;
        if sum.function != BinaryFn::Add || a == b || sizes(a) != sizes(b) {
            continue;
        }
        // The later of two convolutions: the earlier one's result is there by then.
        let found = [(b, a), (a, b)].into_iter().find_map(|(from, other)| {
            let (_, conv_node, conv) = links.producer::<Conv>(graph, from)?;
            let free = conv.activation == Activation::None && conv_node.inputs.len() <= 3;
            (free && links.only_user(from).is_some()).then(|| {
                let mut inputs = conv_node.inputs.clone();
                inputs.resize(3, None);
                inputs.push(Some(other));
                (
                    Conv { activation: sum.activation, ..conv.clone() },
                    inputs,
                    conv_node.name.clone(),
                )
            })
        });
        if let Some((conv, inputs, name)) = found {
            let node = &mut graph.nodes_mut()[i];
            (node.op, node.inputs, node.name) = (Arc::new(conv), inputs, name);
        }
    }
    graph.remove_unused();
    Ok(())
}
