//! Ops on quantised integers.
//!
//! Scale and zero point belong to a value's type ([`Quant`]) and not to the op: an op reads its
//! operands' quantisation when it runs. How the result is brought to the output's scale is the
//! attribute [`Rescale`]: TFLite's fixed-point arithmetic, bit for bit, or ONNX's in floats.
//! A fused activation is a [`Clamp`] of the stored integers.

mod binary;
mod compare;
mod conv;
mod conv_add;
mod convert;
mod hybrid;
mod lstm;
mod lstm_cell;
mod matmul;
mod norm;
mod pool;
mod recurrent;
mod reduce;
mod softmax;
mod svdf;
mod unary;

pub use binary::{QBinary, QBinaryKind, QPRelu};
pub use compare::QCompare;
pub use conv::{QConv, QConvTranspose};
pub use conv_add::QConvAdd;
pub use convert::{Dequantize, FakeQuant, Quantize, RoundTo};
pub use hybrid::{HybridConv, HybridMatMul};
pub use lstm::{QLstm, QLstmGate, QLstmNet, QLstmNorm, QLstmProduct};
pub use lstm_cell::QLstmCell;
pub use matmul::QMatMul;
pub use norm::QL2Norm;
pub use pool::{QPool, QPoolKind};
pub use recurrent::{HybridLstm, SequenceRnn};
pub use reduce::{QReduce, QReduceKind};
pub use softmax::{QLogSoftmax, QSoftmax};
pub use svdf::{QSvdf, Svdf};
pub use unary::{QFunction, QUnary};

use crate::{DType, InferCx, OpError, OpResult, Outputs, Quant, TensorView, ValueType};
use kinglet_kernels::fixed::{Multiplier, activation_range};
use std::borrow::Borrow;

/// How an accumulator is brought to the output's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescale {
    /// By a 31-bit mantissa and a shift, rounded twice as gemmlowp and most of TFLite's reference
    /// kernels do.
    FixedPoint,
    /// The same with one rounding: TFLite's matrix products.
    FixedPointOnce,
    /// By a float factor, rounded half to even, as ONNX's QLinear ops do.
    Float,
    /// Not at all: a matrix product or convolution whose int32 output is the accumulator.
    None,
}

/// The factors of a [`Rescale`], one for each channel or one for all.
#[derive(Clone, Debug, PartialEq)]
pub enum Factors {
    /// For [`Rescale::FixedPoint`]: [`Multiplier::apply`].
    Fixed(Vec<Multiplier>),
    /// For [`Rescale::FixedPointOnce`]: [`Multiplier::apply_once`].
    FixedOnce(Vec<Multiplier>),
    /// For [`Rescale::Float`].
    Float(Vec<f32>),
    /// For [`Rescale::None`].
    None,
}

impl Rescale {
    /// The factors that `scales` (accumulator scale over output scale) stand for.
    ///
    /// # Errors
    /// For a scale that is not finite or is 2³¹ or more.
    pub fn factors(self, scales: impl Iterator<Item = f64>) -> OpResult<Factors> {
        match self {
            Rescale::FixedPoint => {
                scales.map(multiplier).collect::<OpResult<_>>().map(Factors::Fixed)
            }
            Rescale::FixedPointOnce => {
                scales.map(multiplier).collect::<OpResult<_>>().map(Factors::FixedOnce)
            }
            Rescale::Float => Ok(Factors::Float(scales.map(|s| s as f32).collect())),
            Rescale::None => Ok(Factors::None),
        }
    }
}

impl Factors {
    /// The accumulator `x` of channel `channel` on the output's scale, without its zero point.
    #[inline]
    pub fn apply(&self, channel: usize, x: i32) -> i32 {
        match self {
            Factors::Fixed(all) => all[if all.len() == 1 { 0 } else { channel }].apply(x),
            Factors::FixedOnce(all) => all[if all.len() == 1 { 0 } else { channel }].apply_once(x),
            Factors::Float(all) => {
                (x as f32 * all[if all.len() == 1 { 0 } else { channel }]).round_ties_even() as i32
            }
            Factors::None => x,
        }
    }

    /// [`Factors::apply`] for the 64-bit accumulators of 16-bit activations.
    #[inline]
    pub fn apply_i64(&self, channel: usize, x: i64) -> i32 {
        match self {
            Factors::Fixed(all) => all[if all.len() == 1 { 0 } else { channel }].apply_i64(x),
            Factors::FixedOnce(all) => {
                all[if all.len() == 1 { 0 } else { channel }].apply_once_i64(x)
            }
            Factors::Float(all) => {
                let scale = f64::from(all[if all.len() == 1 { 0 } else { channel }]);
                (x as f64 * scale).round_ties_even() as i32
            }
            Factors::None => x as i32,
        }
    }
}

/// The range that stored results are limited to: the element type's, or less under a fused
/// activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Smallest stored result.
    pub low: i32,
    /// Largest stored result.
    pub high: i32,
}

impl Clamp {
    /// All that `dtype` holds.
    ///
    /// # Errors
    /// For a type that is no integer of at most 32 bits.
    pub fn of(dtype: DType) -> OpResult<Clamp> {
        let (low, high) = match dtype {
            DType::I8 => (i32::from(i8::MIN), i32::from(i8::MAX)),
            DType::U8 => (0, i32::from(u8::MAX)),
            DType::I16 => (i32::from(i16::MIN), i32::from(i16::MAX)),
            DType::U16 => (0, i32::from(u16::MAX)),
            DType::I32 => (i32::MIN, i32::MAX),
            _ => return Err(OpError::new(format!("{dtype} is no quantised type"))),
        };
        Ok(Clamp { low, high })
    }

    /// What `dtype` holds, narrowed to the real numbers `low..high` (an end left out: unbounded)
    /// of an activation whose output has the quantisation `quant`.
    ///
    /// # Errors
    /// As [`Clamp::of`], and for a bounded activation without one scale.
    pub fn within(
        dtype: DType,
        (low, high): (Option<f32>, Option<f32>),
        quant: Option<&Quant>,
    ) -> OpResult<Clamp> {
        let all = Clamp::of(dtype)?;
        if low.is_none() && high.is_none() {
            return Ok(all);
        }
        let (scale, zero) =
            single(quant.ok_or_else(|| OpError::new("its output is not quantised"))?)?;
        let (low, high) = activation_range((all.low, all.high), (low, high), scale, zero);
        Ok(Clamp { low, high })
    }

    /// `x` within the range.
    #[inline]
    pub fn apply(self, x: i32) -> i32 {
        // Not `clamp`: an activation outside the type's range leaves an empty one.
        x.max(self.low).min(self.high)
    }
}

/// What ops say to [`Rescale::FixedPointOnce`] and [`Rescale::None`] that have no such arithmetic.
pub(crate) fn products_only() -> OpError {
    OpError::new("rescaling once, or not at all, is for matrix products and convolutions only")
}

/// The multiplier of a real factor, or an error that says it can't be one.
pub(crate) fn multiplier(scale: f64) -> OpResult<Multiplier> {
    Multiplier::new(scale).ok_or_else(|| {
        OpError::new(format!("its scales give the factor {scale}, too large to rescale by"))
    })
}

/// The multiplier of a real factor in (0, 1).
pub(crate) fn fraction(scale: f64) -> OpResult<Multiplier> {
    Multiplier::smaller_than_one(scale).ok_or_else(|| {
        OpError::new(format!("its scales give the factor {scale}, not within 0 and 1"))
    })
}

/// The one scale and zero point of a quantisation.
pub(crate) fn single(quant: &Quant) -> OpResult<(f32, i32)> {
    quant
        .single()
        .ok_or_else(|| OpError::new("expected one scale for the whole tensor, found several"))
}

/// The stored integers of a tensor of any integer type of at most 32 bits, by index.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Integers<'a> {
    I8(&'a [i8]),
    U8(&'a [u8]),
    I16(&'a [i16]),
    U16(&'a [u16]),
    I32(&'a [i32]),
    /// Two in a byte, the first in the low half.
    I4(&'a [u8]),
}

impl<'a> Integers<'a> {
    /// Those of `view`.
    ///
    /// # Errors
    /// For a type that is none of these.
    pub fn of(view: &TensorView<'a>) -> OpResult<Integers<'a>> {
        Ok(match view.dtype {
            DType::I8 => Integers::I8(view.slice()?),
            DType::U8 => Integers::U8(view.slice()?),
            DType::I16 => Integers::I16(view.slice()?),
            DType::U16 => Integers::U16(view.slice()?),
            DType::I32 => Integers::I32(view.slice()?),
            DType::I4 => Integers::I4(view.bytes),
            other => return Err(OpError::new(format!("{other} is no quantised type"))),
        })
    }

    /// Integer `i`.
    #[inline]
    pub fn at(self, i: usize) -> i32 {
        match self {
            Integers::I8(v) => v[i].into(),
            Integers::U8(v) => v[i].into(),
            Integers::I16(v) => v[i].into(),
            Integers::U16(v) => v[i].into(),
            Integers::I32(v) => v[i],
            Integers::I4(v) => {
                let byte = v[i / 2];
                i32::from(((if i.is_multiple_of(2) { byte << 4 } else { byte }) as i8) >> 4)
            }
        }
    }
}

/// All [`Integers`] of a tensor.
pub(crate) fn stored(view: &TensorView<'_>) -> OpResult<Vec<i32>> {
    let all = Integers::of(view)?;
    Ok((0..view.len()).map(|i| all.at(i)).collect())
}

/// [`stored`] less the zero point of a tensor with one scale.
pub(crate) fn centred(view: &TensorView<'_>) -> OpResult<Vec<i32>> {
    let quant = view.quant.ok_or_else(|| OpError::new("an input is not quantised"))?;
    let (_, zero_point) = single(quant)?;
    let mut values = stored(view)?;
    for value in &mut values {
        *value = value.wrapping_sub(zero_point);
    }
    Ok(values)
}

/// Writes stored integers, saturating, as output `i` of `dtype`.
pub(crate) fn store(
    outputs: &mut Outputs<'_>,
    i: usize,
    dtype: DType,
    dims: &[usize],
    values: impl IntoIterator<Item = impl Borrow<i32>>,
) -> OpResult {
    try_store(outputs, i, dtype, dims, values.into_iter().map(|v| Ok(*v.borrow())))
}

/// [`store`] of values of which the first that fails is the error.
pub(crate) fn try_store(
    outputs: &mut Outputs<'_>,
    i: usize,
    dtype: DType,
    dims: &[usize],
    values: impl IntoIterator<Item = OpResult<i32>>,
) -> OpResult {
    let limits = Clamp::of(dtype)?;
    crate::dispatch!(dtype, T in [I8 i8, U8 u8, I16 i16, U16 u16, I32 i32] => {
        let out = outputs.slice::<T>(i, dims)?;
        for (out, value) in out.iter_mut().zip(values) {
            *out = limits.apply(value?) as T;
        }
        Ok(())
    }, else => Err(OpError::new(format!("{dtype} is no quantised type"))))
}

/// Input `i`'s type, which must be a quantised integer.
pub(crate) fn quantized_input<'a>(cx: &InferCx<'a>, i: usize) -> OpResult<&'a ValueType> {
    let ty = cx.ty(i)?;
    if ty.quant.is_none() {
        return Err(OpError::new(format!("input {i} ({ty}) has no quantisation")));
    }
    Ok(ty)
}
