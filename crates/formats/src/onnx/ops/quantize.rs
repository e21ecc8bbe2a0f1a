//! Affine quantisation, and integer arithmetic composed of exact floats.

use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::quantize_linear::{
    DequantizeLinear, DynamicQuantizeLinear, Granularity, QuantizeLinear,
};
use kinglet_graph::{DType, OpError, OpResult, ValueId};

use super::{Entry, op};
use crate::onnx::context::Cx;
use crate::onnx::proto::AttributeValue;

pub const TABLE: &[Entry] = &[
    op("ConvInteger", 10, conv_integer),
    op("DequantizeLinear", 10, dequantize),
    op("DynamicQuantizeLinear", 11, |cx| cx.emit(DynamicQuantizeLinear)),
    op("MatMulInteger", 10, mat_mul_integer),
    op("QLinearConv", 10, qlinear_conv),
    op("QLinearMatMul", 10, qlinear_mat_mul),
    op("QuantizeLinear", 10, quantize),
];

fn granularity(cx: &Cx<'_, '_>) -> OpResult<Granularity> {
    let axis = if cx.version() >= 13 { cx.int("axis", 1)? } else { 1 };
    let block_size = if cx.version() >= 21 { cx.int("block_size", 0)? } else { 0 };
    let block_size =
        usize::try_from(block_size).map_err(|_| OpError::new("block_size is negative"))?;
    Ok(Granularity { axis, block_size })
}

fn quantize(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    let declared = match cx.opt_int("output_dtype")? {
        None | Some(0) => None,
        Some(_) => cx.opt_dtype("output_dtype")?,
    };
    let of_zero_point = cx.opt(2).map(|id| cx.dtype(id));
    let to = match (declared, of_zero_point) {
        (Some(a), Some(b)) if a != b => {
            return Err(OpError::new(format!("output_dtype is {a}, the zero point {b}")));
        }
        (a, b) => a.or(b).unwrap_or(DType::U8),
    };
    let precision = match cx.opt_int("precision")? {
        None | Some(0) => None,
        Some(_) => cx.opt_dtype("precision")?,
    };
    let saturate = cx.flag("saturate", true)?;
    let granularity = granularity(cx)?;
    cx.emit(QuantizeLinear { granularity, to, precision, saturate })
}

fn dequantize(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    let scale = cx.input(1)?;
    let to = match cx.opt_int("output_dtype")? {
        None | Some(0) => cx.dtype(scale),
        Some(_) => cx.need("output_dtype", cx.opt_dtype("output_dtype")?)?,
    };
    let granularity = granularity(cx)?;
    cx.emit(DequantizeLinear { granularity, to })
}

/// A quantised tensor less its zero point, as doubles: in them, sums of integer products are exact.
/// A zero point of one dimension belongs to the dimension that `behind` others follow.
fn centred(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    zero_point: Option<ValueId>,
    behind: usize,
) -> OpResult<ValueId> {
    let x = cx.apply(Cast::new(DType::F64), &[x])?;
    let Some(zero_point) = zero_point else { return Ok(x) };
    let zero_point = cx.apply(Cast::new(DType::F64), &[zero_point])?;
    let zero_point = before(cx, zero_point, behind)?;
    cx.call("Sub", &[x, zero_point], &[])
}

/// `x`, a vector, with `behind` dimensions of 1 after its own; anything else as it is.
fn before(cx: &mut Cx<'_, '_>, x: ValueId, behind: usize) -> OpResult<ValueId> {
    if cx.rank(x)? != 1 || behind == 0 || cx.ty(x).shape.fixed().is_some_and(|d| d[0] == 1) {
        return Ok(x);
    }
    let axes: Vec<i64> = (1..=behind as i64).collect();
    let axes = cx.ints(&axes)?;
    cx.call("Unsqueeze", &[x, axes], &[])
}

/// The sum of products, exact, of a convolution's inputs `x` and `w`.
fn conv(cx: &mut Cx<'_, '_>, x: ValueId, w: ValueId, bias: Option<ValueId>) -> OpResult<ValueId> {
    let mut attributes = Vec::new();
    for name in ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"] {
        if let Some(value) = cx.attribute(name) {
            attributes.push((name, value.clone()));
        }
    }
    let bias = match bias {
        Some(bias) => Some(cx.apply(Cast::new(DType::F64), &[bias])?),
        None => None,
    };
    Ok(cx.call_many("Conv", vec![Some(x), Some(w), bias], &attributes, 1)?[0])
}

fn conv_integer(cx: &mut Cx<'_, '_>) -> OpResult {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let behind = cx.rank(w)? - 1;
    let (x, w) = (centred(cx, x, cx.opt(2), 0)?, centred(cx, w, cx.opt(3), behind)?);
    let y = conv(cx, x, w, None)?;
    cx.emit_on(Cast::new(DType::I32), vec![Some(y)])
}

fn mat_mul_integer(cx: &mut Cx<'_, '_>) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (a, b) = (centred(cx, a, cx.opt(2), 1)?, centred(cx, b, cx.opt(3), 0)?);
    let y = cx.call("MatMul", &[a, b], &[])?;
    cx.emit_on(Cast::new(DType::I32), vec![Some(y)])
}

/// `saturate(round(sums × (a × b / y)) + zero point)` of scales a, b, y: the node's output.
fn requantize(
    cx: &mut Cx<'_, '_>,
    sums: ValueId,
    [a, b, y]: [ValueId; 3],
    zero_point: ValueId,
) -> OpResult {
    let sums = cx.apply(Cast::new(DType::F32), &[sums])?;
    let mut factor = cx.call("Mul", &[a, b], &[])?;
    factor = cx.call("Div", &[factor, y], &[])?;
    factor = cx.apply(Cast::new(DType::F32), &[factor])?;
    let scaled = cx.call("Mul", &[sums, factor], &[])?;
    let one = super::elementwise::scalar_like(cx, scaled, 1.0)?;
    let y = cx.call_many(
        "QuantizeLinear",
        vec![Some(scaled), Some(one), Some(zero_point)],
        &[("axis", AttributeValue::Int(0))],
        1,
    )?;
    cx.finish_all(y);
    Ok(())
}

fn qlinear_conv(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(9)?;
    let (x, w) = (cx.input(0)?, cx.input(3)?);
    let behind = cx.rank(w)? - 1;
    let x_centred = centred(cx, x, Some(cx.input(2)?), 0)?;
    let w_centred = centred(cx, w, Some(cx.input(5)?), behind)?;
    let sums = conv(cx, x_centred, w_centred, cx.opt(8))?;
    // Channels of the output stand one dimension before the window's.
    let w_scale = before(cx, cx.input(4)?, behind - 1)?;
    requantize(cx, sums, [cx.input(1)?, w_scale, cx.input(6)?], cx.input(7)?)
}

fn qlinear_mat_mul(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(8)?;
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let a_centred = centred(cx, a, Some(cx.input(2)?), 1)?;
    let b_centred = centred(cx, b, Some(cx.input(5)?), 0)?;
    let sums = cx.call("MatMul", &[a_centred, b_centred], &[])?;
    let a_scale = before(cx, cx.input(1)?, 1)?;
    requantize(cx, sums, [a_scale, cx.input(4)?, cx.input(6)?], cx.input(7)?)
}
