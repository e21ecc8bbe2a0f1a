//! Functions of one element and of two, comparisons, logic.

use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::cast::{BitCast, Cast};
use kinglet_graph::ops::logic::{Bitwise, Compare, Logical, Not, Where};
use kinglet_graph::ops::quantized::{
    QBinary, QBinaryKind, QCompare, QFunction, QPRelu, QUnary, Rescale,
};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, OpError, OpResult};

use super::node::{Fused, Node};

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("ADD", |n| arithmetic(n, BinaryFn::Add, Some(QBinaryKind::Add), Some(0))),
    ("SUB", |n| arithmetic(n, BinaryFn::Sub, Some(QBinaryKind::Sub), Some(0))),
    ("MUL", |n| arithmetic(n, BinaryFn::Mul, Some(QBinaryKind::Mul), Some(0))),
    ("DIV", |n| arithmetic(n, BinaryFn::Div, Some(QBinaryKind::Div), Some(0))),
    ("SQUARED_DIFFERENCE", |n| {
        arithmetic(n, BinaryFn::SquaredDifference, Some(QBinaryKind::SquaredDifference), None)
    }),
    ("MAXIMUM", |n| arithmetic(n, BinaryFn::Max, Some(QBinaryKind::Max), None)),
    ("MINIMUM", |n| arithmetic(n, BinaryFn::Min, Some(QBinaryKind::Min), None)),
    ("FLOOR_DIV", |n| arithmetic(n, BinaryFn::FloorDiv, None, None)),
    ("FLOOR_MOD", |n| arithmetic(n, BinaryFn::FloorMod, None, None)),
    ("POW", |n| arithmetic(n, BinaryFn::Pow, None, None)),
    ("ATAN2", |n| arithmetic(n, BinaryFn::Atan2, None, None)),
    ("ADD_N", add_n),
    ("PRELU", prelu),
    ("RELU", |n| relu(n, Fused::Relu, Unary::Relu)),
    ("RELU6", |n| relu(n, Fused::Relu6, Unary::Relu6)),
    ("RELU_N1_TO_1", |n| relu(n, Fused::ReluN1To1, Unary::ReluN1To1)),
    ("RELU_0_TO_1", |n| function(n, Unary::Relu0To1, None)),
    ("LEAKY_RELU", leaky_relu),
    ("HARD_SWISH", |n| function(n, Unary::HardSwish, Some(QFunction::HardSwish))),
    ("LOGISTIC", |n| function(n, Unary::Sigmoid, Some(QFunction::Logistic))),
    ("TANH", |n| function(n, Unary::Tanh, Some(QFunction::Tanh))),
    ("ELU", |n| function(n, Unary::Elu { alpha: 1.0 }, Some(QFunction::Elu))),
    ("GELU", gelu),
    ("ABS", |n| function(n, Unary::Abs, Some(QFunction::Abs))),
    ("NEG", |n| function(n, Unary::Neg, None)),
    ("EXP", |n| function(n, Unary::Exp, Some(QFunction::Exp))),
    ("LOG", |n| function(n, Unary::Log, Some(QFunction::Log))),
    ("SIN", |n| function(n, Unary::Sin, None)),
    ("COS", |n| function(n, Unary::Cos, None)),
    ("SQRT", |n| function(n, Unary::Sqrt, None)),
    ("RSQRT", |n| function(n, Unary::Rsqrt, Some(QFunction::Rsqrt))),
    ("SQUARE", |n| function(n, Unary::Square, None)),
    ("FLOOR", |n| function(n, Unary::Floor, None)),
    ("CEIL", |n| function(n, Unary::Ceil, None)),
    ("ROUND", |n| function(n, Unary::Round, None)),
    ("SIGN", |n| function(n, Unary::Sign, None)),
    ("EQUAL", |n| compare(n, Compare::Equal)),
    ("NOT_EQUAL", |n| compare(n, Compare::NotEqual)),
    ("LESS", |n| compare(n, Compare::Less)),
    ("LESS_EQUAL", |n| compare(n, Compare::LessOrEqual)),
    ("GREATER", |n| compare(n, Compare::Greater)),
    ("GREATER_EQUAL", |n| compare(n, Compare::GreaterOrEqual)),
    ("LOGICAL_AND", |n| plain(n, Logical::And)),
    ("LOGICAL_OR", |n| plain(n, Logical::Or)),
    ("LOGICAL_NOT", |n| plain(n, Not)),
    ("BITWISE_XOR", |n| plain(n, Bitwise::Xor)),
    ("RIGHT_SHIFT", |n| plain(n, Bitwise::ShiftRight)),
    ("SELECT", select),
    ("SELECT_V2", |n| {
        n.same_quantization(1..3)?;
        plain(n, Where)
    }),
    ("CAST", |n| {
        let to = n.out_ty(0)?.dtype;
        plain(n, Cast::new(to))
    }),
    ("BITCAST", |n| {
        let to = n.out_ty(0)?.dtype;
        plain(n, BitCast { to })
    }),
];

fn plain(node: &mut Node<'_, '_>, op: impl kinglet_graph::Op) -> OpResult {
    let inputs = node.inputs()?;
    node.emit(op, inputs)
}

fn no_quantized(node: &Node<'_, '_>) -> OpError {
    match node.dtype(0) {
        Ok(dtype) => OpError::new(format!("quantised {dtype} is not supported here")),
        Err(error) => error,
    }
}

fn arithmetic(
    node: &mut Node<'_, '_>,
    real: BinaryFn,
    quantized: Option<QBinaryKind>,
    fused: Option<usize>,
) -> OpResult {
    let fused = fused.map_or(Ok(Fused::None), |field| node.fused(field))?;
    let inputs = node.inputs()?;
    if !node.is_quantized(0)? {
        return node.emit(Binary { function: real, activation: fused.float() }, inputs);
    }
    let kind = quantized.ok_or_else(|| no_quantized(node))?;
    let out = node.out_ty(0)?;
    let sum = matches!(kind, QBinaryKind::Add | QBinaryKind::Sub);
    let op = QBinary {
        kind,
        clamp: fused.clamp(&out)?,
        rescale: Rescale::FixedPoint,
        power_of_two: sum
            && out.dtype == DType::I16
            && node.option(1, true)?
            && powers_of_two(node)?,
    };
    node.emit(op, inputs)
}

/// Whether all scales of a sum are powers of two and all zero points 0.
fn powers_of_two(node: &Node<'_, '_>) -> OpResult<bool> {
    for ty in [node.ty(0)?, node.ty(1)?, node.out_ty(0)?] {
        let Some((scale, zero)) = ty.quant.as_deref().and_then(|q| q.single()) else {
            return Ok(false);
        };
        let log = scale.log2();
        if zero != 0 || (log - log.round()).abs() >= 1e-3 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn add_n(node: &mut Node<'_, '_>) -> OpResult {
    let ty = node.ty(0)?;
    if node.is_quantized(0)? {
        return Err(no_quantized(node));
    }
    let mut sum = node.input(0)?;
    let count = node.len();
    if count == 1 {
        return node.alias(0, sum);
    }
    for i in 1..count - 1 {
        let inputs = vec![Some(sum), node.opt(i)?];
        sum = node.apply(Binary::new(BinaryFn::Add), inputs, ty.dtype, None)?;
    }
    let inputs = vec![Some(sum), node.opt(count - 1)?];
    node.emit(Binary::new(BinaryFn::Add), inputs)
}

fn prelu(node: &mut Node<'_, '_>) -> OpResult {
    let inputs = node.inputs()?;
    // LiteRT reads the slopes of 16-bit activations as bytes, whatever their type.
    if node.dtype(0)? == DType::I16 && node.dtype(1)? != DType::I8 {
        return Err(OpError::new("slopes of 16-bit activations must be int8"));
    }
    match node.is_quantized(0)? {
        true => node.emit(QPRelu { rescale: Rescale::FixedPoint }, inputs),
        false => node.emit(Binary::new(BinaryFn::PRelu), inputs),
    }
}

/// An integer function of one element.
fn emit_quantized(node: &mut Node<'_, '_>, function: QFunction, fused: Fused) -> OpResult {
    let out = node.out_ty(0)?;
    let op =
        QUnary { function, to: out.dtype, clamp: fused.clamp(&out)?, rescale: Rescale::FixedPoint };
    let input = vec![node.opt(0)?];
    node.emit(op, input)
}

fn relu(node: &mut Node<'_, '_>, fused: Fused, real: Unary) -> OpResult {
    match node.is_quantized(0)? {
        true => emit_quantized(node, QFunction::Identity, fused),
        false => plain(node, real),
    }
}

fn function(node: &mut Node<'_, '_>, real: Unary, quantized: Option<QFunction>) -> OpResult {
    match (node.is_quantized(0)?, quantized) {
        (true, Some(function)) => emit_quantized(node, function, Fused::None),
        (true, None) => Err(no_quantized(node)),
        (false, _) => plain(node, real),
    }
}

fn leaky_relu(node: &mut Node<'_, '_>) -> OpResult {
    let alpha = node.option(0, 0f32)?;
    function(node, Unary::LeakyRelu { alpha }, Some(QFunction::LeakyRelu { alpha }))
}

fn gelu(node: &mut Node<'_, '_>) -> OpResult {
    let tanh = node.option(0, false)?;
    let real = if tanh { Unary::GeluTanh } else { Unary::Gelu };
    function(node, real, Some(QFunction::Gelu { tanh }))
}

fn compare(node: &mut Node<'_, '_>, relation: Compare) -> OpResult {
    let differ = match (node.ty(0)?.quant, node.ty(1)?.quant) {
        (Some(a), Some(b)) => a.scale != b.scale || a.zero_point != b.zero_point,
        _ => false,
    };
    match node.is_quantized(0)? && differ {
        true => plain(node, QCompare { relation }),
        false => plain(node, relation),
    }
}

/// Like [`Where`], but a condition of one dimension picks whole rows.
fn select(node: &mut Node<'_, '_>) -> OpResult {
    node.same_quantization(1..3)?;
    let (condition, data) = (&node.info(0)?.shape, &node.info(1)?.shape);
    if condition.len() == 1 && data.len() > 1 {
        let mut sizes = vec![1i64; data.len()];
        sizes[0] = -1;
        let (id, ty) = (node.input(0)?, node.ty(0)?);
        let column = node.reshaped(id, ty, &sizes)?;
        let inputs = vec![Some(column), node.opt(1)?, node.opt(2)?];
        return node.emit(Where, inputs);
    }
    plain(node, Where)
}
