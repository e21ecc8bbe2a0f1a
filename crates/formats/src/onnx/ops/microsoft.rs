//! What ONNX Runtime's quantiser writes beside the standard ops (domain `com.microsoft`): float
//! functions between quantised tensors.
//!
//! Each is what its definition says, dequantise, compute, quantise; passes make integer ops of it.

use kinglet_graph::{OpError, OpResult, ValueId};

use super::integer::{Affine, Target, integer_product};
use super::{Entry, op_in};
use crate::onnx::context::Cx;
use crate::onnx::proto::AttributeValue;

const DOMAIN: &str = "com.microsoft";

pub const TABLE: &[Entry] = &[
    op_in(DOMAIN, "QGemm", 1, q_gemm),
    op_in(DOMAIN, "QLinearAdd", 1, |cx| binary(cx, "Add")),
    op_in(DOMAIN, "QLinearAveragePool", 1, |cx| pool(cx, "AveragePool", POOL_ATTRIBUTES)),
    op_in(DOMAIN, "QLinearConcat", 1, concat),
    op_in(DOMAIN, "QLinearGlobalAveragePool", 1, |cx| pool(cx, "GlobalAveragePool", &[])),
    op_in(DOMAIN, "QLinearLeakyRelu", 1, |cx| unary(cx, "LeakyRelu", &["alpha"])),
    op_in(DOMAIN, "QLinearMul", 1, |cx| binary(cx, "Mul")),
    op_in(DOMAIN, "QLinearSigmoid", 1, |cx| unary(cx, "Sigmoid", &[])),
    op_in(DOMAIN, "QLinearSoftmax", 1, |cx| {
        if cx.int("opset", 13)? < 13 {
            return Err(OpError::new("softmax over several dimensions is not supported"));
        }
        unary(cx, "Softmax", &["axis"])
    }),
    op_in(DOMAIN, "QuantizeLinear", 1, |cx| convert(cx, "QuantizeLinear")),
    op_in(DOMAIN, "DequantizeLinear", 1, |cx| convert(cx, "DequantizeLinear")),
];

const POOL_ATTRIBUTES: &[&str] =
    &["auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"];

/// The attributes of the node that the float op takes as well.
fn attributes<'c>(cx: &Cx<'c, '_>, names: &[&'static str]) -> Vec<(&'c str, AttributeValue<'c>)> {
    names.iter().filter_map(|name| Some((*name, cx.attribute(name)?.clone()))).collect()
}

/// The real numbers of `x`, whose scale and zero point are inputs `i` and `i + 1`.
fn real(cx: &mut Cx<'_, '_>, x: ValueId, i: usize) -> OpResult<ValueId> {
    let inputs = vec![Some(x), Some(cx.input(i)?), cx.opt(i + 1)];
    Ok(cx.call_many("DequantizeLinear", inputs, &[], 1)?[0])
}

/// Makes `y`, quantised by inputs `i` and `i + 1`, the node's output.
fn finish(cx: &mut Cx<'_, '_>, y: ValueId, i: usize) -> OpResult {
    let inputs = vec![Some(y), Some(cx.input(i)?), cx.opt(i + 1)];
    let y = cx.call_many("QuantizeLinear", inputs, &[], 1)?;
    cx.finish_all(y);
    Ok(())
}

fn unary(cx: &mut Cx<'_, '_>, function: &str, names: &[&'static str]) -> OpResult {
    cx.at_most(5)?;
    let x = cx.input(0)?;
    let x = real(cx, x, 1)?;
    let attributes = attributes(cx, names);
    let y = cx.call(function, &[x], &attributes)?;
    finish(cx, y, 3)
}

fn pool(cx: &mut Cx<'_, '_>, function: &str, names: &[&'static str]) -> OpResult {
    if cx.flag("channels_last", false)? {
        return Err(OpError::new("channels_last is not supported"));
    }
    unary(cx, function, names)
}

fn binary(cx: &mut Cx<'_, '_>, function: &str) -> OpResult {
    cx.at_most(8)?;
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let (a, b) = (real(cx, a, 1)?, real(cx, b, 4)?);
    let y = cx.call(function, &[a, b], &[])?;
    finish(cx, y, 6)
}

/// Scale and zero point of the output, then for each input its tensor, scale and zero point.
fn concat(cx: &mut Cx<'_, '_>) -> OpResult {
    let count = cx.input_count().saturating_sub(2);
    if count == 0 || !count.is_multiple_of(3) {
        return Err(OpError::new(format!("has {count} inputs to join, not three for each")));
    }
    let mut parts = Vec::new();
    for i in (2..cx.input_count()).step_by(3) {
        let x = cx.input(i)?;
        parts.push(real(cx, x, i + 1)?);
    }
    let attributes = attributes(cx, &["axis"]);
    let y = cx.call("Concat", &parts, &attributes)?;
    finish(cx, y, 0)
}

fn convert(cx: &mut Cx<'_, '_>, function: &str) -> OpResult {
    cx.at_most(3)?;
    let attributes = attributes(cx, &["axis"]);
    let inputs = cx.inputs();
    let y = cx.call_many(function, inputs, &attributes, 1)?;
    cx.finish_all(y);
    Ok(())
}

/// `alpha A B + C`, where C is int32 at the scale `alpha × A's × B's`; real numbers where no scale
/// of the output is given.
fn q_gemm(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(9)?;
    let (a, b, c) = (cx.input(0)?, cx.input(3)?, cx.opt(6));
    let alpha = cx.float("alpha", 1.0)?;
    let transposed = [cx.flag("transA", false)?, cx.flag("transB", false)?];
    let [a_affine, b_affine, y_affine] = [1, 4, 7].map(|i| Affine::at(cx, i));
    let row = match c {
        Some(c) => cx.ty(c).shape.rank() == Some(1),
        None => true,
    };
    if alpha == 1.0
        && row
        && let Some(target) = Target::bytes(cx, y_affine)?
        && let Some(y) = integer_product(cx, [(a, a_affine), (b, b_affine)], transposed, c, target)?
    {
        cx.finish(y);
        return Ok(());
    }
    let columns = AttributeValue::Int(i64::from(!transposed[1]));
    let a_real = real(cx, a, 1)?;
    let inputs = vec![Some(b), Some(cx.input(4)?), cx.opt(5)];
    let b_real = cx.call_many("DequantizeLinear", inputs, &[("axis", columns)], 1)?[0];
    let mut inputs = vec![Some(a_real), Some(b_real)];
    if let Some(c) = c {
        let (a_scale, b_scale) = (cx.input(1)?, cx.input(4)?);
        let scale = cx.call("Mul", &[a_scale, b_scale], &[])?;
        let axis = ("axis", AttributeValue::Int(-1));
        inputs.push(Some(cx.call("DequantizeLinear", &[c, scale], &[axis])?));
    }
    let [trans_a, trans_b] = transposed.map(|t| AttributeValue::Int(i64::from(t)));
    let factor = || AttributeValue::Float(alpha);
    let attributes =
        [("alpha", factor()), ("beta", factor()), ("transA", trans_a), ("transB", trans_b)];
    let y = cx.call_many("Gemm", inputs, &attributes, 1)?[0];
    match y_affine.scale {
        Some(_) => finish(cx, y, 7),
        None => {
            cx.finish(y);
            Ok(())
        }
    }
}
