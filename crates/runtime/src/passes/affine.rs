//! A factor and an offset for each channel (batch normalisation, a bias, a scale) join the weights
//! and the bias of the convolution or matrix product before.

use super::Rewriter;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::conv::{Conv, ConvTranspose};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::BatchNorm;
use kinglet_graph::ops::window::{Layout, WeightLayout};
use kinglet_graph::{Graph, GraphError, Node, NodeId, Op, OpResult, Tensor, ValueId};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    for i in 0..graph.nodes().len() {
        // Each fusion changes the links that the next one looks at: a scale, then an offset.
        let found = Affine::of(graph, &graph.nodes()[i]).and_then(|affine| {
            let links = Rewriter::new(graph);
            let target = Target::find(graph, &links, &affine)?;
            Some((affine, target))
        });
        if let Some((affine, target)) = found {
            let node = graph.nodes()[i].clone();
            fuse(graph, i, affine, target).map_err(|e| GraphError::at(&node, &e))?;
        }
    }
    graph.remove_unused();
    Ok(())
}

/// y = x × factor + offset, each a number for each channel or one for all.
struct Affine {
    x: ValueId,
    factor: Vec<f64>,
    offset: Vec<f64>,
    /// The axis of the channels, where there is more than one number.
    axis: Option<usize>,
    /// Applied afterwards.
    activation: Activation,
}

fn f32s(graph: &Graph, v: Option<ValueId>) -> Option<Vec<f64>> {
    let data = graph.value(v?).data.as_ref()?;
    Some(data.slice::<f32>().ok()?.iter().map(|x| f64::from(*x)).collect())
}

impl Affine {
    fn of(graph: &Graph, node: &Node) -> Option<Affine> {
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        if let Some(norm) = node.op.downcast::<BatchNorm>() {
            if node.outputs.len() != 1 {
                return None;
            }
            let x = input(0)?;
            let rank = graph.value(x).ty.shape.rank()?;
            let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|i| f32s(graph, input(i)));
            let factor: Vec<f64> = gamma?
                .iter()
                .zip(variance?)
                .map(|(g, v)| g / (v + f64::from(norm.epsilon)).sqrt())
                .collect();
            let offset =
                beta?.iter().zip(mean?).zip(&factor).map(|((b, m), f)| b - m * f).collect();
            let axis = match norm.layout {
                Layout::ChannelsFirst => 1,
                Layout::ChannelsLast => rank - 1,
            };
            let activation = Activation::None;
            return Some(Affine { x, factor, offset, axis: Some(axis), activation });
        }
        let binary = node.op.downcast::<Binary>()?;
        let (a, b) = (input(0)?, input(1)?);
        let is_constant = |v: ValueId| graph.value(v).data.is_some();
        let (x, c, swapped) = match (is_constant(a), is_constant(b)) {
            (false, true) => (a, b, false),
            (true, false) => (b, a, true),
            _ => return None,
        };
        let (dims, axis) = along_one_axis(graph, x, c)?;
        let numbers = f32s(graph, Some(c))?;
        debug_assert_eq!(numbers.len(), dims);
        let (ones, zeros) = (vec![1.0; numbers.len()], vec![0.0; numbers.len()]);
        let each = |f: &dyn Fn(f64) -> f64| numbers.iter().map(|x| f(*x)).collect::<Vec<_>>();
        let (factor, offset) = match (binary.function, swapped) {
            (BinaryFn::Add, _) => (ones, numbers),
            (BinaryFn::Sub, false) => (ones, each(&|x| -x)),
            (BinaryFn::Sub, true) => (each(&|_| -1.0), numbers),
            (BinaryFn::Mul, _) => (numbers, zeros),
            (BinaryFn::Div, false) => (each(&|x| 1.0 / x), zeros),
            _ => return None,
        };
        Some(Affine { x, factor, offset, axis, activation: binary.activation })
    }
}

/// Where the constant `c` has one number, or one for each index of one axis of `x` and so
/// broadcasts to the sizes of `x`: how many, and the axis.
fn along_one_axis(graph: &Graph, x: ValueId, c: ValueId) -> Option<(usize, Option<usize>)> {
    let rank = graph.value(x).ty.shape.rank()?;
    let dims = graph.value(c).ty.shape.fixed()?;
    let shift = rank.checked_sub(dims.len())?;
    let mut long = dims.iter().enumerate().filter(|(_, d)| **d != 1);
    match (long.next(), long.next()) {
        (None, _) => Some((1, None)),
        (Some((i, n)), None) => Some((*n, Some(i + shift))),
        _ => None,
    }
}

/// The op that may take it in.
struct Target {
    node: NodeId,
    /// The axis of the weights that counts output channels.
    weight_axis: usize,
    channels: usize,
}

impl Target {
    fn find(graph: &Graph, links: &Rewriter, affine: &Affine) -> Option<Target> {
        links.only_user(affine.x)?;
        let id = links.producer_id(affine.x)?;
        let node = graph.node(id);
        let weights = graph.value(node.inputs.get(1).copied()??);
        let weight_rank = weights.ty.shape.rank()?;
        let rank = graph.value(affine.x).ty.shape.rank()?;
        let (activation, channel_axis, weight_axis) = if let Some(c) = node.op.downcast::<Conv>() {
            (c.activation, channel_axis(c.layout, rank), output_axis(c.weight_layout, weight_rank))
        } else if let Some(c) = node.op.downcast::<ConvTranspose>().filter(|c| c.groups == 1) {
            (c.activation, channel_axis(c.layout, rank), output_axis(c.weight_layout, weight_rank))
        } else if let Some(m) = node.op.downcast::<MatMul>().filter(|_| weight_rank == 2) {
            (m.activation, rank.checked_sub(1)?, usize::from(!m.transpose_b))
        } else {
            return None;
        };
        let channels = weights.ty.shape.fixed()?[weight_axis];
        let fits = affine.axis.is_none_or(|axis| axis == channel_axis)
            && (affine.factor.len() == 1 || affine.factor.len() == channels);
        let has_residual = node.inputs.len() > 3;
        let bias = node.inputs.get(2).copied().flatten();
        let known = bias.is_none_or(|b| {
            let bias = &graph.value(b);
            let one_each = bias.ty.shape.fixed().is_some_and(|d| *d == [channels]);
            bias.data.is_some() && one_each
        });
        let scales = affine.factor.iter().any(|f| *f != 1.0);
        let can_scale = !scales || weights.data.as_ref().is_some_and(|w| w.slice::<f32>().is_ok());
        (activation == Activation::None && fits && !has_residual && known && can_scale)
            .then_some(Target { node: id, weight_axis, channels })
    }
}

fn channel_axis(layout: Layout, rank: usize) -> usize {
    match layout {
        Layout::ChannelsFirst => 1,
        Layout::ChannelsLast => rank - 1,
    }
}

fn output_axis(layout: WeightLayout, rank: usize) -> usize {
    // Which of the dimensions comes out first when they are numbered.
    let places: Vec<usize> = (0..rank).collect();
    layout.split(&places).map_or(0, |(output, _, _)| output)
}

fn fuse(graph: &mut Graph, at: usize, affine: Affine, target: Target) -> OpResult {
    let source = graph.node(target.node).clone();
    let per_channel = |v: &[f64], i: usize| v[if v.len() == 1 { 0 } else { i }];
    let mut inputs = source.inputs.clone();
    inputs.resize(3, None);
    let weights = inputs[1].and_then(|w| graph.value(w).data.clone());
    if let (Some(weights), true) = (weights, affine.factor.iter().any(|f| *f != 1.0)) {
        let inner: usize = weights.dims()[target.weight_axis + 1..].iter().product();
        let scaled: Vec<f32> = weights
            .slice::<f32>()?
            .iter()
            .enumerate()
            .map(|(i, w)| {
                let channel = i / inner.max(1) % target.channels.max(1);
                (f64::from(*w) * per_channel(&affine.factor, channel)) as f32
            })
            .collect();
        let scaled = Tensor::from_slice(weights.dims(), &scaled)?;
        inputs[1] = Some(graph.add_constant(source.name.clone(), scaled));
    }
    let old = match inputs[2] {
        Some(_) => f32s(graph, inputs[2]).unwrap_or_default(),
        None => vec![0.0; target.channels],
    };
    let bias: Vec<f32> = old
        .iter()
        .enumerate()
        .map(|(i, b)| (b * per_channel(&affine.factor, i) + per_channel(&affine.offset, i)) as f32)
        .collect();
    inputs[2] = Some(graph.add_constant("", Tensor::from_slice(&[bias.len()], &bias)?));
    let op: Arc<dyn Op> = match affine.activation.function() {
        None => source.op.clone(),
        Some(function) => match source.op.then(function) {
            Some(op) => op,
            None => return Ok(()),
        },
    };
    let node = &mut graph.nodes_mut()[at];
    (node.op, node.inputs, node.name) = (op, inputs, source.name);
    Ok(())
}
