//! Convolutions and pools. TFLite's images are channels last.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::conv::{Conv, ConvTranspose};
use kinglet_graph::ops::pool::{Pool, PoolKind};
use kinglet_graph::ops::quantized::{HybridConv, QConv, QConvTranspose, QPool, QPoolKind, Rescale};
use kinglet_graph::ops::slice::SliceSizes;
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{OpError, OpResult, ValueId};

use super::node::Node;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("CONV_2D", conv_2d),
    ("DEPTHWISE_CONV_2D", depthwise_conv_2d),
    ("CONV_3D", conv_3d),
    ("TRANSPOSE_CONV", transpose_conv),
    ("CONV_3D_TRANSPOSE", conv_3d_transpose),
    ("AVERAGE_POOL_2D", average_pool),
    ("MAX_POOL_2D", max_pool),
    ("L2_POOL_2D", l2_pool),
];

/// A stride or dilation of the options.
fn step(node: &Node<'_, '_>, field: usize, default: i32) -> OpResult<usize> {
    let step = node.option(field, default)?;
    usize::try_from(step)
        .ok()
        .filter(|s| *s > 0)
        .ok_or_else(|| OpError::new(format!("a stride, dilation or window of {step}")))
}

fn padding(node: &Node<'_, '_>) -> OpResult<Padding> {
    match node.option(0, 0i8)? {
        0 => Ok(Padding::SameUpper),
        1 => Ok(Padding::Valid),
        other => Err(OpError::new(format!("padding kind {other} is not known"))),
    }
}

/// The window of options whose strides and dilations stand at these fields, height first.
fn window(node: &Node<'_, '_>, strides: &[usize], dilations: &[usize]) -> OpResult<Window> {
    let strides: OpResult<Vec<_>> = strides.iter().map(|f| step(node, *f, 1)).collect();
    let dilations: OpResult<Vec<_>> = dilations.iter().map(|f| step(node, *f, 1)).collect();
    let (stride, mut dilation) = (strides?, dilations?);
    dilation.resize(stride.len(), 1);
    Ok(Window { stride, dilation, padding: padding(node)? })
}

/// The size of dimension `axis` (from the back) of input `i`, as the file declares it.
fn size_from_back(node: &Node<'_, '_>, i: usize, axis: usize) -> OpResult<usize> {
    let shape = &node.info(i)?.shape;
    let at = shape.len().checked_sub(1 + axis);
    at.map(|at| shape[at]).ok_or_else(|| OpError::new(format!("input {i} has too few dimensions")))
}

fn conv_2d(node: &mut Node<'_, '_>) -> OpResult {
    let window = window(node, &[2, 1], &[5, 4])?;
    let (channels, per_group) = (size_from_back(node, 0, 0)?, size_from_back(node, 1, 0)?);
    if per_group == 0 || channels % per_group != 0 {
        let m = format!("{channels} channels do not split into groups of {per_group}");
        return Err(OpError::new(m));
    }
    conv(node, window, channels / per_group, WeightLayout::OutSpatialIn, 3)
}

fn depthwise_conv_2d(node: &mut Node<'_, '_>) -> OpResult {
    let window = window(node, &[2, 1], &[6, 5])?;
    let groups = size_from_back(node, 0, 0)?;
    conv(node, window, groups, WeightLayout::InSpatialOut, 4)
}

fn conv_3d(node: &mut Node<'_, '_>) -> OpResult {
    let window = window(node, &[1, 3, 2], &[5, 7, 6])?;
    let (channels, per_group) = (size_from_back(node, 0, 0)?, size_from_back(node, 1, 1)?);
    if per_group == 0 || channels % per_group != 0 {
        let m = format!("{channels} channels do not split into groups of {per_group}");
        return Err(OpError::new(m));
    }
    conv(node, window, channels / per_group, WeightLayout::SpatialInOut, 4)
}

fn conv(
    node: &mut Node<'_, '_>,
    window: Window,
    groups: usize,
    weight_layout: WeightLayout,
    fused: usize,
) -> OpResult {
    let fused = node.fused(fused)?;
    let inputs = node.inputs()?;
    let layout = Layout::ChannelsLast;
    if node.is_quantized(0)? {
        let out = node.out_ty(0)?;
        let clamp = fused.clamp(&out)?;
        let rescale = Rescale::FixedPoint;
        let to = out.dtype;
        let op = QConv { window, groups, layout, weight_layout, to, clamp, rescale };
        return node.emit(op, inputs);
    }
    let conv = Conv { window, groups, layout, weight_layout, activation: fused.float() };
    if node.ty(1)?.quant.is_some() {
        return node.emit(HybridConv { conv }, inputs);
    }
    node.emit(conv, inputs)
}

fn transpose_conv(node: &mut Node<'_, '_>) -> OpResult {
    let window = window(node, &[2, 1], &[])?;
    transposed(node, window, WeightLayout::OutSpatialIn, 3)
}

fn conv_3d_transpose(node: &mut Node<'_, '_>) -> OpResult {
    let window = window(node, &[1, 3, 2], &[5, 7, 6])?;
    transposed(node, window, WeightLayout::SpatialOutIn, 4)
}

fn transposed(
    node: &mut Node<'_, '_>,
    window: Window,
    weight_layout: WeightLayout,
    fused: usize,
) -> OpResult {
    let fused = node.fused(fused)?;
    let rank = window.rank();
    let sizes = spatial_sizes(node, rank)?;
    let mut inputs = vec![node.opt(2)?, node.opt(1)?, node.opt(3)?];
    inputs.push(Some(sizes));
    let quantized = node.is_quantized(2)?;
    if !quantized && node.ty(1)?.quant.is_some() {
        return Err(OpError::new("float inputs with quantised weights are not supported"));
    }
    let activation = if quantized { Activation::None } else { fused.float() };
    let geometry = ConvTranspose {
        window,
        output_padding: vec![0; rank],
        groups: 1,
        layout: Layout::ChannelsLast,
        weight_layout,
        activation,
    };
    if !quantized {
        return node.emit(geometry, inputs);
    }
    let out = node.out_ty(0)?;
    let clamp = fused.clamp(&out)?;
    let rescale = Rescale::FixedPoint;
    node.emit(QConvTranspose { geometry, to: out.dtype, clamp, rescale }, inputs)
}

/// The spatial sizes in input 0, which holds all sizes of the output.
fn spatial_sizes(node: &mut Node<'_, '_>, rank: usize) -> OpResult<ValueId> {
    if node.info(0)?.data.is_some() {
        let all = node.ints(0)?;
        let sizes =
            all.get(1..1 + rank).ok_or_else(|| OpError::new("its output shape is too short"))?;
        return node.constant_ints(sizes);
    }
    let (all, dtype) = (node.input(0)?, node.dtype(0)?);
    let (start, count) = (node.constant_ints(&[1])?, node.constant_ints(&[rank as i64])?);
    node.apply(SliceSizes, vec![Some(all), Some(start), Some(count)], dtype, None)
}

fn average_pool(node: &mut Node<'_, '_>) -> OpResult {
    pool(node, PoolKind::Average { include_padding: false }, Some(QPoolKind::Average))
}

fn max_pool(node: &mut Node<'_, '_>) -> OpResult {
    pool(node, PoolKind::Max, Some(QPoolKind::Max))
}

fn l2_pool(node: &mut Node<'_, '_>) -> OpResult {
    pool(node, PoolKind::RootMeanSquare, None)
}

fn pool(node: &mut Node<'_, '_>, kind: PoolKind, quantized: Option<QPoolKind>) -> OpResult {
    let window = window(node, &[2, 1], &[])?;
    let kernel = vec![step(node, 4, 0)?, step(node, 3, 0)?];
    let fused = node.fused(5)?;
    let input = vec![node.opt(0)?];
    let layout = Layout::ChannelsLast;
    match (node.is_quantized(0)?, quantized) {
        (true, Some(kind)) => {
            node.same_quantization(0..1)?;
            let clamp = fused.clamp(&node.out_ty(0)?)?;
            let rescale = Rescale::FixedPoint;
            node.emit(QPool { kind, kernel, window, layout, clamp, rescale }, input)
        }
        (true, None) => Err(OpError::new("this pool takes floats only")),
        (false, _) => {
            let activation = fused.float();
            node.emit(Pool { kind, kernel, window, ceil: false, layout, activation }, input)
        }
    }
}
