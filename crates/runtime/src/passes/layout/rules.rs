//! Which ops are turned, and how: the list of what the pass knows.

use kinglet_graph::ops::batch_norm::{BatchNormGradient, BatchNormTraining};
use kinglet_graph::ops::binary::Binary;
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::conv::{Conv, ConvTranspose, ConvWeightGradient};
use kinglet_graph::ops::logic::{Compare, Where};
use kinglet_graph::ops::norm::BatchNorm;
use kinglet_graph::ops::pad::Pad;
use kinglet_graph::ops::pool::{GlobalPool, Pool};
use kinglet_graph::ops::quantized::{
    Dequantize, QBinary, QConv, QConvAdd, QConvTranspose, QPool, QUnary, Quantize,
};
use kinglet_graph::ops::reduce::Reduce;
use kinglet_graph::ops::resize::{Arithmetic, Resize};
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::softmax::Softmax;
use kinglet_graph::ops::unary::{Slope, Unary};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{Graph, Node, Op, ValueId};
use std::sync::Arc;

/// Where channels last puts the dimensions of a tensor of `rank`: from which each comes.
pub(super) fn to_last(rank: usize) -> Vec<usize> {
    std::iter::once(0).chain(2..rank).chain([1]).collect()
}

/// And back.
pub(super) fn to_first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

/// The axis of the turned tensor that `axis` has become.
fn turned_axis(axis: i64, rank: usize) -> Option<i64> {
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
    to_last(rank).iter().position(|a| *a == axis).map(|a| a as i64)
}

/// What a turned node takes in place of an input.
pub(super) enum Feed {
    /// The same.
    Same,
    /// The value channels last.
    Last,
    /// A constant of fewer dimensions, which broadcasts: as one of all, channels last.
    Broadcast(usize),
    /// Other integers.
    Ints(Vec<i64>),
}

pub(super) struct Turned {
    pub op: Arc<dyn Op>,
    pub feeds: Vec<Feed>,
    /// How many outputs come channels last, the first ones; the others are what they were.
    pub outputs: usize,
}

/// How `node` is computed channels last, if it should be.
pub(super) fn turned(
    graph: &Graph,
    node: &Node,
    is_last: impl Fn(ValueId) -> bool,
) -> Option<Turned> {
    let rank = graph.value(node.inputs.first().copied()??).ty.shape.rank()?;
    if rank < 3 {
        return None;
    }
    let same = |i: &Option<ValueId>| i.map(|_| Feed::Same).unwrap_or(Feed::Same);
    let feeds = |turn: &[usize]| -> Vec<Feed> {
        let feed = |(i, v)| if turn.contains(&i) { Feed::Last } else { same(v) };
        node.inputs.iter().enumerate().map(feed).collect()
    };
    let all = |op: Arc<dyn Op>, turn: &[usize]| {
        Some(Turned { op, feeds: feeds(turn), outputs: usize::MAX })
    };

    let op = &*node.op;
    if let Some(conv) = op.downcast::<Conv>().filter(|c| c.layout == Layout::ChannelsFirst) {
        let op = Conv { layout: Layout::ChannelsLast, ..conv.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0, 3]))?;
    }
    if let Some(conv) =
        op.downcast::<ConvWeightGradient>().filter(|c| c.layout == Layout::ChannelsFirst)
    {
        let op = ConvWeightGradient { layout: Layout::ChannelsLast, ..conv.clone() };
        let turned = Turned { op: Arc::new(op), feeds: feeds(&[0, 1]), outputs: 0 };
        return (rank <= 4).then_some(turned);
    }
    if let Some(conv) = op.downcast::<ConvTranspose>().filter(|c| c.layout == Layout::ChannelsFirst)
    {
        let op = ConvTranspose { layout: Layout::ChannelsLast, ..conv.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0]))?;
    }
    if let Some(conv) = op.downcast::<QConv>().filter(|c| c.layout == Layout::ChannelsFirst) {
        let op = QConv { layout: Layout::ChannelsLast, ..conv.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0]))?;
    }
    if let Some(fused) = op.downcast::<QConvAdd>()
        && fused.conv.layout == Layout::ChannelsFirst
    {
        let conv = QConv { layout: Layout::ChannelsLast, ..fused.conv.clone() };
        let op = QConvAdd { conv, ..fused.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0, 3]))?;
    }
    if let Some(conv) = op.downcast::<QConvTranspose>()
        && conv.geometry.layout == Layout::ChannelsFirst
    {
        let geometry = ConvTranspose { layout: Layout::ChannelsLast, ..conv.geometry.clone() };
        let op = QConvTranspose { geometry, ..conv.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0]))?;
    }
    if let Some(pool) = op.downcast::<QPool>().filter(|p| p.layout == Layout::ChannelsFirst) {
        let op = QPool { layout: Layout::ChannelsLast, ..pool.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0]))?;
    }
    if let Some(pool) = op.downcast::<Pool>().filter(|p| p.layout == Layout::ChannelsFirst) {
        let op = Pool { layout: Layout::ChannelsLast, ..pool.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0]))?;
    }
    if let Some(pool) = op.downcast::<GlobalPool>().filter(|p| p.layout == Layout::ChannelsFirst) {
        return all(Arc::new(GlobalPool { layout: Layout::ChannelsLast, ..*pool }), &[0]);
    }
    // The rest is only turned where its data has been.
    if !node.inputs.iter().flatten().any(|v| is_last(*v)) {
        return None;
    }
    if op.is::<Unary>() || op.is::<QUnary>() || op.is::<Quantize>() || op.is::<Dequantize>() {
        return all(node.op.clone(), &[0]);
    }
    if op.is::<Slope>() {
        return all(node.op.clone(), &[0, 1]);
    }
    if op.is::<Binary>() || op.is::<QBinary>() || op.is::<Compare>() || op.is::<Where>() {
        let rank = node
            .inputs
            .iter()
            .flatten()
            .map(|v| graph.value(*v).ty.shape.rank())
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()?;
        let feeds = node
            .inputs
            .iter()
            .map(|v| {
                let value = graph.value((*v)?);
                let own = value.ty.shape.rank()?;
                match own {
                    _ if own == rank => Some(Feed::Last),
                    0 => Some(Feed::Same),
                    _ if value.data.is_some() => Some(Feed::Broadcast(rank)),
                    _ => None,
                }
            })
            .collect::<Option<Vec<_>>>()?;
        return Some(Turned { op: node.op.clone(), feeds, outputs: usize::MAX });
    }
    if let Some(norm) = op.downcast::<BatchNorm>().filter(|n| n.layout == Layout::ChannelsFirst) {
        return all(Arc::new(BatchNorm { layout: Layout::ChannelsLast, ..*norm }), &[0]);
    }
    if let Some(norm) =
        op.downcast::<BatchNormTraining>().filter(|n| n.layout == Layout::ChannelsFirst)
    {
        let op = BatchNormTraining { layout: Layout::ChannelsLast, ..*norm };
        return Some(Turned { op: Arc::new(op), feeds: feeds(&[0]), outputs: 1 });
    }
    if let Some(norm) =
        op.downcast::<BatchNormGradient>().filter(|n| n.layout == Layout::ChannelsFirst)
    {
        let op = BatchNormGradient { layout: Layout::ChannelsLast, ..*norm };
        return Some(Turned { op: Arc::new(op), feeds: feeds(&[0, 2]), outputs: 1 });
    }
    if let Some(concat) = op.downcast::<Concat>() {
        let op = Concat { axis: turned_axis(concat.axis, rank)? };
        return all(Arc::new(op), &(0..node.inputs.len()).collect::<Vec<_>>());
    }
    if let Some(softmax) = op.downcast::<Softmax>().filter(|s| !s.flatten) {
        let op = Softmax { axis: turned_axis(softmax.axis, rank)?, ..*softmax };
        return all(Arc::new(op), &[0]);
    }
    if let Some(resize) = op.downcast::<Resize>().filter(|r| r.arithmetic == Arithmetic::Exact) {
        // The lists of sizes and scales keep their order, and say with it what they are about.
        let axes = resize.axes.clone().unwrap_or_else(|| (0..rank as i64).collect());
        let axes: Option<Vec<i64>> = axes.iter().map(|a| turned_axis(*a, rank)).collect();
        return all(Arc::new(Resize { axes: Some(axes?), ..resize.clone() }), &[0]);
    }
    if let Some(reduce) = op.downcast::<Reduce>() {
        let axes = match node.inputs.get(1).copied().flatten() {
            Some(axes) => graph.value(axes).data.as_ref()?.view().ints().ok()?,
            None => return None,
        };
        let turned: Option<Vec<i64>> = axes.iter().map(|a| turned_axis(*a, rank)).collect();
        let turned = turned?;
        let left = (0..rank as i64).filter_map(|a| turned_axis(a, rank));
        let in_order = left.filter(|a| !turned.contains(a)).is_sorted();
        if turned.is_empty() || !(reduce.keep_dims || in_order) {
            return None;
        }
        let mut new = Turned {
            op: node.op.clone(),
            feeds: feeds(&[0]),
            outputs: usize::from(reduce.keep_dims),
        };
        new.feeds[1] = Feed::Ints(turned);
        return Some(new);
    }
    if op.is::<Pad>() || op.is::<Slice>() {
        // Their last inputs are axes (with, for slices, steps after them).
        let axes_at = 3;
        let mut new = Turned { op: node.op.clone(), feeds: feeds(&[0]), outputs: usize::MAX };
        let axes = match node.inputs.get(axes_at).copied().flatten() {
            Some(axes) => graph.value(axes).data.as_ref()?.view().ints().ok()?,
            None => (0..covered(graph, node, rank)?).map(|a| a as i64).collect(),
        };
        let axes: Option<Vec<i64>> = axes.iter().map(|a| turned_axis(*a, rank)).collect();
        new.feeds.resize_with(new.feeds.len().max(axes_at + 1), || Feed::Same);
        new.feeds[axes_at] = Feed::Ints(axes?);
        return Some(new);
    }
    None
}

/// How many leading dimensions a pad or slice without axes goes over.
fn covered(graph: &Graph, node: &Node, rank: usize) -> Option<usize> {
    if node.op.is::<Pad>() {
        return Some(rank);
    }
    graph.value(node.inputs.get(1).copied()??).ty.shape.fixed()?.first().copied()
}
