//! Channels last: convolution nets that arrive channels first (ONNX) are turned, as the kernels
//! want them, without a transpose between two ops that agree.
//!
//! The pass goes forward through the nodes. A convolution or a pool is turned, and its output
//! then exists channels last; an op that does not care which dimension is which is turned along
//! with its inputs; any other op finds its input in the old order again, by a transpose that is
//! made once and only when someone asks.

use kinglet_graph::ops::binary::Binary;
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::conv::{Conv, ConvTranspose};
use kinglet_graph::ops::logic::{Compare, Where};
use kinglet_graph::ops::pad::Pad;
use kinglet_graph::ops::pool::{GlobalPool, Pool};
use kinglet_graph::ops::quantized::{
    Dequantize, QBinary, QConv, QConvTranspose, QPool, QUnary, Quantize,
};
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{
    Graph, GraphError, Node, Op, OpError, OpResult, Quant, Shape, Tensor, ValueId, ValueType,
};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    let nodes = std::mem::take(graph.nodes_mut());
    let count = graph.values().len();
    let mut turn = Turn { graph, last: vec![None; count], absent: vec![false; count] };
    for node in nodes {
        match turned(turn.graph, &node, |v| turn.last[v.index()].is_some()) {
            Some(new) => turn.push_turned(node, new).map_err(|(n, e)| GraphError::at(&n, &e))?,
            None => turn.push(node)?,
        }
    }
    for v in turn.graph.outputs.clone() {
        turn.channels_first(v)?;
    }
    turn.graph.remove_unused();
    Ok(())
}

/// Where channels last puts the dimensions of a tensor of `rank`: from which each comes.
fn to_last(rank: usize) -> Vec<usize> {
    std::iter::once(0).chain(2..rank).chain([1]).collect()
}

/// And back.
fn to_first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

/// The axis of the turned tensor that `axis` has become.
fn turned_axis(axis: i64, rank: usize) -> Option<i64> {
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
    to_last(rank).iter().position(|a| *a == axis).map(|a| a as i64)
}

/// What a turned node takes in place of an input.
enum Feed {
    /// The same.
    Same,
    /// The value channels last.
    Last,
    /// A constant of fewer dimensions, which broadcasts: as one of all, channels last.
    Broadcast(usize),
    /// Other integers.
    Ints(Vec<i64>),
}

struct Turned {
    op: Arc<dyn Op>,
    feeds: Vec<Feed>,
    /// Whether the outputs come channels last; otherwise they are what they were.
    outputs: bool,
}

/// How `node` is computed channels last, if it should be.
fn turned(graph: &Graph, node: &Node, is_last: impl Fn(ValueId) -> bool) -> Option<Turned> {
    let rank = graph.value(node.inputs.first().copied()??).ty.shape.rank()?;
    if rank < 3 {
        return None;
    }
    let same = |i: &Option<ValueId>| i.map(|_| Feed::Same).unwrap_or(Feed::Same);
    let feeds = |turn: &[usize]| -> Vec<Feed> {
        let feed = |(i, v)| if turn.contains(&i) { Feed::Last } else { same(v) };
        node.inputs.iter().enumerate().map(feed).collect()
    };
    let all =
        |op: Arc<dyn Op>, turn: &[usize]| Some(Turned { op, feeds: feeds(turn), outputs: true });

    let op = &*node.op;
    if let Some(conv) = op.downcast::<Conv>().filter(|c| c.layout == Layout::ChannelsFirst) {
        let op = Conv { layout: Layout::ChannelsLast, ..conv.clone() };
        return (rank <= 4).then(|| all(Arc::new(op), &[0, 3]))?;
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
        return Some(Turned { op: node.op.clone(), feeds, outputs: true });
    }
    if let Some(concat) = op.downcast::<Concat>() {
        let op = Concat { axis: turned_axis(concat.axis, rank)? };
        return all(Arc::new(op), &(0..node.inputs.len()).collect::<Vec<_>>());
    }
    if op.is::<Pad>() || op.is::<Slice>() {
        // Their last inputs are axes (with, for slices, steps after them).
        let axes_at = 3;
        let mut new = Turned { op: node.op.clone(), feeds: feeds(&[0]), outputs: true };
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

/// The graph under way.
struct Turn<'g> {
    graph: &'g mut Graph,
    /// For each value, the one that holds it channels last, if any.
    last: Vec<Option<ValueId>>,
    /// Values that so far exist channels last only.
    absent: Vec<bool>,
}

impl Turn<'_> {
    fn new_value(&mut self, name: String, ty: ValueType) -> ValueId {
        self.last.push(None);
        self.absent.push(false);
        self.graph.add_value(name, ty)
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.last.push(None);
        self.absent.push(false);
        self.graph.add_constant("", tensor)
    }

    fn ints(&mut self, ints: &[i64]) -> OpResult<ValueId> {
        Ok(self.constant(Tensor::from_slice(&[ints.len()], ints)?))
    }

    fn transpose(&mut self, from: ValueId, to: ValueId, order: &[usize]) -> OpResult {
        let order: Vec<i64> = order.iter().map(|a| *a as i64).collect();
        let order = self.ints(&order)?;
        self.graph.add_node("", Transpose, vec![Some(from), Some(order)], vec![to]);
        Ok(())
    }

    /// The type of `v` channels last.
    fn type_last(&self, v: ValueId) -> OpResult<ValueType> {
        let ty = &self.graph.value(v).ty;
        let dims = ty.shape.dims().ok_or_else(|| OpError::new("its rank is not known"))?;
        let order = to_last(dims.len());
        let shape = Shape::new(order.iter().map(|a| dims[*a].clone()).collect());
        let quant = ty.quant.as_ref().map(|q| {
            let axis = q.axis.and_then(|axis| order.iter().position(|a| *a == axis));
            Arc::new(Quant { axis, ..(**q).clone() })
        });
        Ok(ValueType { dtype: ty.dtype, shape, quant })
    }

    fn channels_last(&mut self, v: ValueId) -> OpResult<ValueId> {
        if let Some(last) = self.last[v.index()] {
            return Ok(last);
        }
        let ty = self.type_last(v)?;
        let rank = ty.shape.rank().unwrap_or_default();
        let last = self.new_value(String::new(), ty);
        self.transpose(v, last, &to_last(rank))?;
        self.last[v.index()] = Some(last);
        Ok(last)
    }

    fn channels_first(&mut self, v: ValueId) -> Result<(), GraphError> {
        if let (true, Some(last)) = (self.absent[v.index()], self.last[v.index()]) {
            let rank = self.graph.value(last).ty.shape.rank().unwrap_or_default();
            self.transpose(last, v, &to_first(rank))
                .map_err(|e| GraphError::new(format!("value {v}"), e.to_string()))?;
            self.absent[v.index()] = false;
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), GraphError> {
        for v in node.inputs.iter().flatten() {
            self.channels_first(*v)?;
        }
        self.graph.push_node(node);
        Ok(())
    }

    fn push_turned(&mut self, node: Node, new: Turned) -> Result<(), (Node, OpError)> {
        self.try_push_turned(&node, new).map_err(|e| (node, e))
    }

    fn try_push_turned(&mut self, node: &Node, new: Turned) -> OpResult {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let given = node.inputs.iter().chain(std::iter::repeat(&None));
        for (v, feed) in given.zip(&new.feeds) {
            inputs.push(match (v, feed) {
                (_, Feed::Ints(ints)) => Some(self.ints(ints)?),
                (None, _) => None,
                (Some(v), Feed::Same) => {
                    self.channels_first(*v).map_err(|e| OpError::new(e.to_string()))?;
                    Some(*v)
                }
                (Some(v), Feed::Last) => Some(self.channels_last(*v)?),
                (Some(v), Feed::Broadcast(rank)) => {
                    let Some(data) = self.graph.value(*v).data.clone() else {
                        return Err(OpError::new("expected a constant"));
                    };
                    let mut dims = vec![1; rank - data.dims().len()];
                    dims.extend_from_slice(data.dims());
                    let wide = self.constant(data.reshaped(&dims)?);
                    Some(self.channels_last(wide)?)
                }
            });
        }
        let mut outputs = node.outputs.clone();
        if new.outputs {
            for (out, v) in outputs.iter_mut().zip(&node.outputs) {
                let (name, ty) = (self.graph.value(*v).name.clone(), self.type_last(*v)?);
                *out = self.new_value(name, ty);
                self.last[v.index()] = Some(*out);
                self.absent[v.index()] = true;
            }
        }
        let name = node.name.clone();
        self.graph.push_node(Node { name, op: new.op, inputs, outputs });
        Ok(())
    }
}
