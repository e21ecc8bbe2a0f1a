//! Convolutions, pools, products and softmax.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::conv::{Conv, ConvTranspose};
use kinglet_graph::ops::deform_conv::DeformConv;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::pool::{
    GlobalPool, MaxPoolWithIndices, MaxRoiPool, MaxUnpool, Pool, PoolKind,
};
use kinglet_graph::ops::softmax::{Hardmax, LogSoftmax, Softmax};
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{Op, OpError, OpResult, ValueId};

use super::elementwise::scalar_like;
use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("AveragePool", 1, average_pool),
    op("Conv", 1, conv),
    op("ConvTranspose", 1, conv_transpose),
    op("DeformConv", 19, deform_conv),
    op("Gemm", 6, gemm),
    op("GlobalAveragePool", 1, |cx| global_pool(cx, PoolKind::Average { include_padding: false })),
    op("GlobalLpPool", 2, |cx| {
        let p = cx.int("p", 2)? as f32;
        global_pool(cx, PoolKind::Lp { p })
    }),
    op("GlobalMaxPool", 1, |cx| global_pool(cx, PoolKind::Max)),
    op("Hardmax", 1, |cx| over_axis(cx, |axis, flatten| Hardmax { axis, flatten })),
    op("LogSoftmax", 1, |cx| over_axis(cx, |axis, flatten| LogSoftmax { axis, flatten })),
    op("LpPool", 2, |cx| {
        let p = cx.int("p", 2)? as f32;
        pool(cx, PoolKind::Lp { p })
    }),
    op("MatMul", 1, |cx| cx.emit(MatMul::new())),
    op("MaxPool", 1, max_pool),
    op("MaxRoiPool", 1, max_roi_pool),
    op("MaxUnpool", 9, max_unpool),
    op("Softmax", 1, |cx| over_axis(cx, |axis, flatten| Softmax { axis, flatten, beta: 1.0 })),
];

/// Before version 13 all dimensions from the axis on were one.
fn over_axis<O: Op>(cx: &mut Cx<'_, '_>, op: fn(i64, bool) -> O) -> OpResult {
    let flatten = cx.version() < 13;
    let axis = cx.int("axis", if flatten { 1 } else { -1 })?;
    cx.emit(op(axis, flatten))
}

fn sizes(cx: &Cx<'_, '_>, name: &str, n: usize, default: usize) -> OpResult<Vec<usize>> {
    match cx.opt_sizes(name)? {
        None => Ok(vec![default; n]),
        Some(list) if list.len() == n => Ok(list),
        Some(list) => {
            let m = format!("attribute '{name}' is {list:?} for {n} spatial dimensions");
            Err(OpError::new(m))
        }
    }
}

/// Strides, dilations and padding over `n` spatial dimensions.
pub fn window(cx: &Cx<'_, '_>, n: usize) -> OpResult<Window> {
    let pads = sizes(cx, "pads", 2 * n, 0)?;
    let padding = match cx.str("auto_pad", "NOTSET")? {
        "NOTSET" | "" => {
            Padding::Explicit { before: pads[..n].to_vec(), after: pads[n..].to_vec() }
        }
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        "VALID" => Padding::Valid,
        other => return Err(OpError::new(format!("auto_pad '{other}' is not known"))),
    };
    let (stride, dilation) = (sizes(cx, "strides", n, 1)?, sizes(cx, "dilations", n, 1)?);
    match stride.contains(&0) || dilation.contains(&0) {
        true => Err(OpError::new(format!("strides {stride:?}, dilations {dilation:?}"))),
        false => Ok(Window { stride, dilation, padding }),
    }
}

/// The number of spatial dimensions, by the weights.
pub fn spatial(cx: &mut Cx<'_, '_>, weights: ValueId) -> OpResult<usize> {
    let n = cx
        .rank(weights)?
        .checked_sub(2)
        .ok_or_else(|| OpError::new("its weights have fewer than two dimensions"))?;
    let Some(kernel) = cx.opt_sizes("kernel_shape")? else { return Ok(n) };
    let ty = cx.ty(weights);
    let own = ty.shape.dims().map(|d| &d[2..]).unwrap_or_default();
    let agrees =
        |(own, said): (&kinglet_graph::Dim, &usize)| own.fixed().is_none_or(|n| n == *said);
    match kernel.len() == n && own.iter().zip(&kernel).all(agrees) {
        true => Ok(n),
        false => Err(OpError::new(format!("kernel_shape {kernel:?}, but weights {ty}"))),
    }
}

pub fn groups(cx: &Cx<'_, '_>) -> OpResult<usize> {
    let groups = cx.int("group", 1)?;
    usize::try_from(groups)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| OpError::new(format!("attribute 'group' is {groups}")))
}

fn conv(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    let weights = cx.input(1)?;
    let n = spatial(cx, weights)?;
    let op = Conv {
        window: window(cx, n)?,
        groups: groups(cx)?,
        layout: Layout::ChannelsFirst,
        weight_layout: WeightLayout::OutInSpatial,
        activation: Activation::None,
    };
    cx.emit(op)
}

fn conv_transpose(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    let weights = cx.input(1)?;
    let n = spatial(cx, weights)?;
    let op = ConvTranspose {
        window: window(cx, n)?,
        output_padding: sizes(cx, "output_padding", n, 0)?,
        groups: groups(cx)?,
        layout: Layout::ChannelsFirst,
        weight_layout: WeightLayout::InOutSpatial,
        activation: Activation::None,
    };
    let mut inputs = cx.first_inputs(3);
    if let Some(output) = cx.opt_ints("output_shape")? {
        // Some writers give the batch and the channels as well.
        let output = &output[output.len().saturating_sub(n)..];
        inputs.push(Some(cx.ints(output)?));
    }
    cx.emit_on(op, inputs)
}

fn deform_conv(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(5)?;
    let weights = cx.input(1)?;
    let n = spatial(cx, weights)?;
    let offset_groups = cx.int("offset_group", 1)?;
    let op = DeformConv {
        window: window(cx, n)?,
        groups: groups(cx)?,
        offset_groups: usize::try_from(offset_groups)
            .map_err(|_| OpError::new(format!("offset_group is {offset_groups}")))?,
    };
    cx.emit(op)
}

fn pool_of(cx: &Cx<'_, '_>, kind: PoolKind) -> OpResult<Pool> {
    let kernel = cx.need("kernel_shape", cx.opt_sizes("kernel_shape")?)?;
    Ok(Pool {
        kind,
        window: window(cx, kernel.len())?,
        kernel,
        ceil: cx.flag("ceil_mode", false)?,
        layout: Layout::ChannelsFirst,
        activation: Activation::None,
    })
}

fn pool(cx: &mut Cx<'_, '_>, kind: PoolKind) -> OpResult {
    let op = pool_of(cx, kind)?;
    cx.emit(op)
}

fn average_pool(cx: &mut Cx<'_, '_>) -> OpResult {
    let include_padding = cx.flag("count_include_pad", false)?;
    pool(cx, PoolKind::Average { include_padding })
}

fn max_pool(cx: &mut Cx<'_, '_>) -> OpResult {
    let column_major = cx.flag("storage_order", false)?;
    if !cx.wants(1) {
        return pool(cx, PoolKind::Max);
    }
    let Pool { kernel, window, ceil, layout, .. } = pool_of(cx, PoolKind::Max)?;
    cx.emit(MaxPoolWithIndices { kernel, window, ceil, layout, column_major })
}

fn global_pool(cx: &mut Cx<'_, '_>, kind: PoolKind) -> OpResult {
    cx.emit(GlobalPool { kind, layout: Layout::ChannelsFirst })
}

fn max_unpool(cx: &mut Cx<'_, '_>) -> OpResult {
    let kernel = cx.need("kernel_shape", cx.opt_sizes("kernel_shape")?)?;
    let window = window(cx, kernel.len())?;
    cx.emit(MaxUnpool { kernel, window })
}

fn max_roi_pool(cx: &mut Cx<'_, '_>) -> OpResult {
    let pooled = cx.need("pooled_shape", cx.opt_sizes("pooled_shape")?)?;
    let spatial_scale = cx.float("spatial_scale", 1.0)?;
    match pooled[..] {
        [rows, columns] => cx.emit(MaxRoiPool { pooled: [rows, columns], spatial_scale }),
        _ => Err(OpError::new(format!("pooled_shape is {pooled:?}"))),
    }
}

/// alpha A B + beta C.
fn gemm(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    if cx.version() < 7 {
        // C broadcasts in any case.
        cx.ignore(&["broadcast"]);
    }
    let (alpha, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    let op = MatMul {
        transpose_a: cx.flag("transA", false)?,
        transpose_b: cx.flag("transB", false)?,
        ..MatMul::new()
    };
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let c = cx.opt(2).filter(|_| beta != 0.0);
    if alpha == 1.0 && beta == 1.0 {
        return cx.emit_on(op, vec![Some(a), Some(b), c]);
    }
    let scaled = |cx: &mut Cx<'_, '_>, x: ValueId, by: f32| {
        if by == 1.0 {
            return Ok(x);
        }
        let by = scalar_like(cx, x, by.into())?;
        cx.call("Mul", &[x, by], &[])
    };
    let c = match c {
        Some(c) => Some(scaled(cx, c, beta)?),
        None => None,
    };
    let product = cx.apply(op, &[a, b])?;
    let product = scaled(cx, product, alpha)?;
    let y = match c {
        Some(c) => cx.call("Add", &[product, c], &[])?,
        None => product,
    };
    cx.finish(y);
    Ok(())
}
