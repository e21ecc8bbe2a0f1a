//! Between real and stored numbers.

use kinglet_graph::ops::quantized::{
    Dequantize, FakeQuant, QFunction, QLogSoftmax, QSoftmax, QUnary, Quantize, Rescale, RoundTo,
};
use kinglet_graph::ops::softmax::{LogSoftmax, Softmax};
use kinglet_graph::{DType, OpError, OpResult};

use super::node::{Fused, Node};

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("QUANTIZE", quantize),
    ("DEQUANTIZE", dequantize),
    ("FAKE_QUANT", fake_quant),
    ("SOFTMAX", softmax),
    ("LOG_SOFTMAX", log_softmax),
];

fn quantize(node: &mut Node<'_, '_>) -> OpResult {
    let (from, out) = (node.ty(0)?, node.out_ty(0)?);
    let input = vec![node.opt(0)?];
    if out.quant.is_none() {
        return Err(OpError::new("its output has no quantisation"));
    }
    if from.dtype == DType::F32 {
        return node.emit(Quantize { to: out.dtype, round: RoundTo::AwayFromZero }, input);
    }
    let clamp = Fused::None.clamp(&out)?;
    let function = QFunction::Identity;
    node.emit(QUnary { function, to: out.dtype, clamp, rescale: Rescale::FixedPoint }, input)
}

fn dequantize(node: &mut Node<'_, '_>) -> OpResult {
    let input = vec![node.opt(0)?];
    node.emit(Dequantize, input)
}

fn fake_quant(node: &mut Node<'_, '_>) -> OpResult {
    let (min, max) = (node.option(0, 0f32)?, node.option(1, 0f32)?);
    let bits = u32::try_from(node.option(2, 0i32)?).unwrap_or(0);
    let narrow = node.option(3, false)?;
    let input = vec![node.opt(0)?];
    node.emit(FakeQuant { min, max, bits, narrow }, input)
}

fn softmax(node: &mut Node<'_, '_>) -> OpResult {
    let beta = node.option(0, 1f32)?;
    let input = vec![node.opt(0)?];
    if node.is_quantized(0)? {
        let to = node.out_ty(0)?.dtype;
        return node.emit(QSoftmax { beta, to, rescale: Rescale::FixedPoint }, input);
    }
    node.emit(Softmax { axis: -1, flatten: false, beta }, input)
}

fn log_softmax(node: &mut Node<'_, '_>) -> OpResult {
    let input = vec![node.opt(0)?];
    match node.is_quantized(0)? {
        true => node.emit(QLogSoftmax, input),
        false => node.emit(LogSoftmax { axis: -1, flatten: false }, input),
    }
}
