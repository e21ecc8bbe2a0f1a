//! Zeros padded around an image become the padding of the convolution that reads it.

use super::Rewriter;
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::pad::{Pad, PadMode};
use kinglet_graph::ops::quantized::QConv;
use kinglet_graph::ops::window::{Layout, Padding, Window};
use kinglet_graph::{DType, Graph, GraphError, Node, Op, ValueId};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
        let (window, layout) = if let Some(conv) = node.op.downcast::<Conv>() {
            (&conv.window, conv.layout)
        } else if let Some(conv) = node.op.downcast::<QConv>() {
            (&conv.window, conv.layout)
        } else {
            continue;
        };
        let Some(Some(x)) = node.inputs.first().copied() else { continue };
        let Some((_, pad, _)) = links.producer::<Pad>(graph, x) else { continue };
        let Some(source) = pad.inputs[0] else { continue };
        let Some(pads) = zeros_around(graph, pad, source) else { continue };
        let Some(window) = padded(window, layout, &pads) else { continue };
        let op: Arc<dyn Op> = if let Some(conv) = node.op.downcast::<Conv>() {
            Arc::new(Conv { window, ..conv.clone() })
        } else if let Some(conv) = node.op.downcast::<QConv>() {
            Arc::new(QConv { window, ..conv.clone() })
        } else {
            continue;
        };
        let node = &mut graph.nodes_mut()[i];
        node.op = op;
        node.inputs[0] = Some(source);
    }
    graph.remove_unused();
    Ok(())
}

/// The elements that `pad` adds before and after each dimension, where they are all zero (the
/// zero point, where quantised) and none is taken away.
fn zeros_around(graph: &Graph, pad: &Node, source: ValueId) -> Option<Vec<(usize, usize)>> {
    let ty = &graph.value(source).ty;
    let constant = |i: usize| match pad.inputs.get(i).copied().flatten() {
        None => Some(None),
        Some(v) => graph.value(v).data.as_ref().map(|d| Some(d.view())),
    };
    if pad.op.downcast::<Pad>()?.mode != PadMode::Constant {
        return None;
    }
    if let Some(value) = constant(2)? {
        let is_zero = match &ty.quant {
            Some(q) => value.ints().ok()? == [i64::from(q.single()?.1)],
            None if value.dtype == DType::F32 => value.slice::<f32>().ok()? == [0.0],
            None => false,
        };
        if !is_zero {
            return None;
        }
    }
    let rank = ty.shape.rank()?;
    let pads = constant(1)??;
    let in_pairs = pads.dims.len() == 2;
    let amounts: Vec<usize> =
        pads.ints().ok()?.into_iter().map(|p| usize::try_from(p).ok()).collect::<Option<_>>()?;
    let axes: Vec<usize> = match constant(3)? {
        None => (0..rank).collect(),
        Some(axes) => {
            let wrap = |a: i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok();
            axes.ints().ok()?.into_iter().map(wrap).collect::<Option<_>>()?
        }
    };
    if amounts.len() != 2 * axes.len() {
        return None;
    }
    let mut all = vec![(0, 0); rank];
    for (k, axis) in axes.iter().enumerate() {
        *all.get_mut(*axis)? = if in_pairs {
            (amounts[2 * k], amounts[2 * k + 1])
        } else {
            (amounts[k], amounts[k + axes.len()])
        };
    }
    Some(all)
}

/// `window` with `pads` on top, which must leave batch and channels alone.
fn padded(window: &Window, layout: Layout, pads: &[(usize, usize)]) -> Option<Window> {
    let (batch, channels, spatial) = layout.split(pads).ok()?;
    let (mut before, mut after) = match &window.padding {
        Padding::Valid => (vec![0; spatial.len()], vec![0; spatial.len()]),
        Padding::Explicit { before, after } => (before.clone(), after.clone()),
        Padding::SameUpper | Padding::SameLower => return None,
    };
    if batch != (0, 0) || channels != (0, 0) || before.len() != spatial.len() {
        return None;
    }
    for (k, (b, a)) in spatial.iter().enumerate() {
        before[k] = before[k].checked_add(*b)?;
        after[k] = after[k].checked_add(*a)?;
    }
    Some(Window { padding: Padding::Explicit { before, after }, ..window.clone() })
}
