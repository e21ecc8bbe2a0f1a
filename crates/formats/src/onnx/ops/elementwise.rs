//! Functions of each element.

use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::cast::{BitCast, Cast};
use kinglet_graph::ops::convert::{PowerRounding, Rounding};
use kinglet_graph::ops::logic::{Bitwise, Compare, FloatTest, Logical, Not, Where};
use kinglet_graph::ops::reshape::Identity;
use kinglet_graph::ops::unary::{Clip, Unary};
use kinglet_graph::{DType, Op, OpError, OpResult, Tensor, ValueId};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    // Of one number.
    op("Abs", 6, |cx| unary(cx, Unary::Abs)),
    op("Acos", 7, |cx| unary(cx, Unary::Acos)),
    op("Acosh", 9, |cx| unary(cx, Unary::Acosh)),
    op("Asin", 7, |cx| unary(cx, Unary::Asin)),
    op("Asinh", 9, |cx| unary(cx, Unary::Asinh)),
    op("Atan", 7, |cx| unary(cx, Unary::Atan)),
    op("Atanh", 9, |cx| unary(cx, Unary::Atanh)),
    op("BitwiseNot", 18, |cx| cx.emit(Not)),
    op("Ceil", 6, |cx| unary(cx, Unary::Ceil)),
    op("Celu", 12, |cx| with_alpha(cx, 1.0, |alpha| Unary::Celu { alpha })),
    op("Cos", 7, |cx| unary(cx, Unary::Cos)),
    op("Cosh", 9, |cx| unary(cx, Unary::Cosh)),
    op("Elu", 6, |cx| with_alpha(cx, 1.0, |alpha| Unary::Elu { alpha })),
    op("Erf", 9, |cx| unary(cx, Unary::Erf)),
    op("Exp", 6, |cx| unary(cx, Unary::Exp)),
    op("Floor", 6, |cx| unary(cx, Unary::Floor)),
    op("Gelu", 20, gelu),
    op("HardSigmoid", 6, hard_sigmoid),
    op("HardSwish", 14, |cx| unary(cx, Unary::HardSwish)),
    op("Identity", 1, |cx| cx.emit(Identity)),
    op("IsInf", 10, is_inf),
    op("IsNaN", 9, |cx| cx.emit(FloatTest::IsNan)),
    op("LeakyRelu", 6, |cx| with_alpha(cx, 0.01, |alpha| Unary::LeakyRelu { alpha })),
    op("Log", 6, |cx| unary(cx, Unary::Log)),
    op("Mish", 18, |cx| unary(cx, Unary::Mish)),
    op("Neg", 6, |cx| unary(cx, Unary::Neg)),
    op("Not", 1, |cx| cx.emit(Not)),
    op("Reciprocal", 6, |cx| unary(cx, Unary::Reciprocal)),
    op("Relu", 6, |cx| unary(cx, Unary::Relu)),
    op("Round", 11, |cx| unary(cx, Unary::Round)),
    op("Selu", 6, selu),
    op("Shrink", 9, shrink),
    op("Sigmoid", 6, |cx| unary(cx, Unary::Sigmoid)),
    op("Sign", 9, |cx| unary(cx, Unary::Sign)),
    op("Sin", 7, |cx| unary(cx, Unary::Sin)),
    op("Sinh", 9, |cx| unary(cx, Unary::Sinh)),
    op("Softplus", 1, |cx| unary(cx, Unary::Softplus)),
    op("Softsign", 1, |cx| unary(cx, Unary::Softsign)),
    op("Sqrt", 6, |cx| unary(cx, Unary::Sqrt)),
    op("Swish", 24, |cx| with_alpha(cx, 1.0, |alpha| Unary::Swish { alpha })),
    op("Tan", 7, |cx| unary(cx, Unary::Tan)),
    op("Tanh", 6, |cx| unary(cx, Unary::Tanh)),
    op("ThresholdedRelu", 10, thresholded_relu),
    // Of two numbers and more.
    op("Add", 6, |cx| binary(cx, BinaryFn::Add)),
    op("And", 6, |cx| broadcasting(cx, Logical::And)),
    op("BitShift", 11, bit_shift),
    op("BitwiseAnd", 18, |cx| cx.emit(Bitwise::And)),
    op("BitwiseOr", 18, |cx| cx.emit(Bitwise::Or)),
    op("BitwiseXor", 18, |cx| cx.emit(Bitwise::Xor)),
    op("Clip", 6, clip_by_attributes),
    op("Clip", 11, |cx| cx.emit(Clip)),
    op("Div", 6, |cx| binary(cx, BinaryFn::Div)),
    op("Equal", 6, |cx| broadcasting(cx, Compare::Equal)),
    op("Greater", 6, |cx| broadcasting(cx, Compare::Greater)),
    op("GreaterOrEqual", 12, |cx| cx.emit(Compare::GreaterOrEqual)),
    op("Less", 6, |cx| broadcasting(cx, Compare::Less)),
    op("LessOrEqual", 12, |cx| cx.emit(Compare::LessOrEqual)),
    op("Max", 6, |cx| variadic(cx, BinaryFn::Max)),
    op("Mean", 6, mean),
    op("Min", 6, |cx| variadic(cx, BinaryFn::Min)),
    op("Mod", 10, modulo),
    op("Mul", 6, |cx| binary(cx, BinaryFn::Mul)),
    op("Or", 6, |cx| broadcasting(cx, Logical::Or)),
    op("PRelu", 6, prelu_by_channel),
    op("PRelu", 9, |cx| cx.emit(Binary::new(BinaryFn::PRelu))),
    op("Pow", 6, |cx| binary(cx, BinaryFn::Pow)),
    op("Sub", 6, |cx| binary(cx, BinaryFn::Sub)),
    op("Sum", 6, |cx| variadic(cx, BinaryFn::Add)),
    op("SwiGLU", 28, swiglu),
    op("Where", 9, |cx| cx.emit(Where)),
    op("Xor", 6, |cx| broadcasting(cx, Logical::Xor)),
    // Element types.
    op("BitCast", 26, bit_cast),
    op("Cast", 6, cast),
    op("CastLike", 15, cast_like),
];

fn unary(cx: &mut Cx<'_, '_>, function: Unary) -> OpResult {
    cx.at_most(1)?;
    cx.emit(function)
}

fn with_alpha(cx: &mut Cx<'_, '_>, default: f32, function: fn(f32) -> Unary) -> OpResult {
    let alpha = cx.float("alpha", default)?;
    unary(cx, function(alpha))
}

fn gelu(cx: &mut Cx<'_, '_>) -> OpResult {
    match cx.str("approximate", "none")? {
        "none" => unary(cx, Unary::Gelu),
        "tanh" => unary(cx, Unary::GeluTanh),
        other => Err(OpError::new(format!("approximation '{other}' is not known"))),
    }
}

fn hard_sigmoid(cx: &mut Cx<'_, '_>) -> OpResult {
    let (alpha, beta) = (cx.float("alpha", 0.2)?, cx.float("beta", 0.5)?);
    unary(cx, Unary::HardSigmoid { alpha, beta })
}

fn selu(cx: &mut Cx<'_, '_>) -> OpResult {
    let alpha = cx.float("alpha", 1.673_263_2)?;
    let gamma = cx.float("gamma", 1.050_701)?;
    unary(cx, Unary::Selu { alpha, gamma })
}

fn shrink(cx: &mut Cx<'_, '_>) -> OpResult {
    let (lambda, bias) = (cx.float("lambd", 0.5)?, cx.float("bias", 0.0)?);
    unary(cx, Unary::Shrink { lambda, bias })
}

fn is_inf(cx: &mut Cx<'_, '_>) -> OpResult {
    let positive = cx.flag("detect_positive", true)?;
    let negative = cx.flag("detect_negative", true)?;
    cx.emit(FloatTest::IsInf { positive, negative })
}

/// A scalar constant of `like`'s element type.
pub fn scalar_like(cx: &mut Cx<'_, '_>, like: ValueId, value: f64) -> OpResult<ValueId> {
    let dtype = cx.dtype(like);
    let mut tensor = Tensor::zeros(dtype, &[])?;
    let numbers = std::iter::once(value);
    kinglet_graph::ops::convert::write_floats(dtype, tensor.bytes_mut(), numbers)?;
    Ok(cx.constant(tensor))
}

fn thresholded_relu(cx: &mut Cx<'_, '_>) -> OpResult {
    let alpha = cx.float("alpha", 1.0)?;
    let x = cx.input(0)?;
    let limit = scalar_like(cx, x, alpha.into())?;
    let zero = scalar_like(cx, x, 0.0)?;
    let above = cx.apply(Compare::Greater, &[x, limit])?;
    cx.emit_on(Where, vec![Some(above), Some(x), Some(zero)])
}

fn binary(cx: &mut Cx<'_, '_>, function: BinaryFn) -> OpResult {
    broadcasting(cx, Binary::new(function))
}

/// An op of two broadcast inputs. Before version 7 broadcasting was asked for, and the second
/// input's dimensions could stand at an axis of the first.
fn broadcasting(cx: &mut Cx<'_, '_>, op: impl Op) -> OpResult {
    cx.at_most(2)?;
    if cx.version() >= 7 {
        return cx.emit(op);
    }
    cx.flag("broadcast", false)?;
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let Some(axis) = cx.opt_int("axis")? else { return cx.emit(op) };
    let (rank, own) = (cx.rank(a)? as i64, cx.rank(b)? as i64);
    let axis = if axis < 0 { axis + rank } else { axis };
    let behind: Vec<i64> = (0..rank - axis - own).map(|i| own + i).collect();
    let axes = cx.ints(&behind)?;
    let b = cx.call("Unsqueeze", &[b, axes], &[])?;
    cx.emit_on(op, vec![Some(a), Some(b)])
}

fn variadic(cx: &mut Cx<'_, '_>, function: BinaryFn) -> OpResult {
    let mut all = cx.input(0)?;
    for i in 1..cx.input_count() {
        let next = cx.input(i)?;
        all = cx.apply(Binary::new(function), &[all, next])?;
    }
    cx.finish(all);
    Ok(())
}

fn mean(cx: &mut Cx<'_, '_>) -> OpResult {
    variadic(cx, BinaryFn::Add)?;
    let count = cx.input_count() as f64;
    let first = cx.input(0)?;
    let count = scalar_like(cx, first, count)?;
    let sum = cx.result()?;
    let mean = cx.apply(Binary::new(BinaryFn::Div), &[sum, count])?;
    cx.finish(mean);
    Ok(())
}

fn modulo(cx: &mut Cx<'_, '_>) -> OpResult {
    let function = if cx.flag("fmod", false)? { BinaryFn::Fmod } else { BinaryFn::FloorMod };
    cx.emit(Binary::new(function))
}

fn bit_shift(cx: &mut Cx<'_, '_>) -> OpResult {
    match cx.opt_str("direction")? {
        Some("LEFT") => cx.emit(Bitwise::ShiftLeft),
        Some("RIGHT") => cx.emit(Bitwise::ShiftRight),
        other => Err(OpError::new(format!("direction {other:?} is not known"))),
    }
}

fn clip_by_attributes(cx: &mut Cx<'_, '_>) -> OpResult {
    let min = cx.float("min", f32::MIN)?;
    let max = cx.float("max", f32::MAX)?;
    let x = cx.input(0)?;
    let min = scalar_like(cx, x, min.into())?;
    let max = scalar_like(cx, x, max.into())?;
    cx.emit_on(Clip, vec![Some(x), Some(min), Some(max)])
}

/// Before version 9 a slope of one dimension belonged to the channels.
fn prelu_by_channel(cx: &mut Cx<'_, '_>) -> OpResult {
    let (x, slope) = (cx.input(0)?, cx.input(1)?);
    let (rank, own) = (cx.rank(x)?, cx.rank(slope)?);
    let one = cx.ty(slope).shape.fixed().is_some_and(|d| d.iter().product::<usize>() == 1);
    let slope = match own == 1 && rank > 2 && !one {
        true => {
            let behind: Vec<i64> = (1..rank as i64 - 1).collect();
            let axes = cx.ints(&behind)?;
            cx.call("Unsqueeze", &[slope, axes], &[])?
        }
        false => slope,
    };
    cx.emit_on(Binary::new(BinaryFn::PRelu), vec![Some(x), Some(slope)])
}

fn swiglu(cx: &mut Cx<'_, '_>) -> OpResult {
    let alpha = cx.float("alpha", 1.0)?;
    let (gate, value) = (cx.input(0)?, cx.input(1)?);
    let gate = cx.apply(Unary::Swish { alpha }, &[gate])?;
    cx.emit_on(Binary::new(BinaryFn::Mul), vec![Some(gate), Some(value)])
}

fn rounding(cx: &Cx<'_, '_>) -> OpResult<Rounding> {
    let to_power = match cx.str("round_mode", "up")? {
        "up" => PowerRounding::Up,
        "down" => PowerRounding::Down,
        "nearest" => PowerRounding::Nearest,
        other => return Err(OpError::new(format!("rounding '{other}' is not known"))),
    };
    Ok(Rounding { saturate: cx.flag("saturate", true)?, to_power })
}

fn cast(cx: &mut Cx<'_, '_>) -> OpResult {
    let to = cx.need("to", cx.opt_dtype("to")?)?;
    let rounding = rounding(cx)?;
    cx.emit(Cast { to, rounding })
}

fn cast_like(cx: &mut Cx<'_, '_>) -> OpResult {
    let (x, like) = (cx.input(0)?, cx.input(1)?);
    let to: DType = cx.dtype(like);
    let rounding = rounding(cx)?;
    cx.emit_on(Cast { to, rounding }, vec![Some(x)])
}

fn bit_cast(cx: &mut Cx<'_, '_>) -> OpResult {
    let to = cx.need("to", cx.opt_dtype("to")?)?;
    let x = cx.input(0)?;
    if cx.dtype(x).bits() != to.bits() {
        return Err(OpError::new(format!("{} and {to} differ in width", cx.dtype(x))));
    }
    cx.emit(BitCast { to })
}
