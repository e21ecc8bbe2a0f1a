//! Arithmetic between two quantised tensors, broadcast like NumPy's.

use super::{
    Clamp, Integers, Rescale, fraction, multiplier, products_only, quantized_input, single, store,
    try_store,
};
use crate::ops::broadcast::{Offsets, broadcast_dims, broadcast_inputs};
use crate::{DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};
use kinglet_kernels::fixed::{Multiplier, reciprocal};

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QBinaryKind {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a × b
    Mul,
    /// a ÷ b
    Div,
    /// (a − b)²
    SquaredDifference,
    /// The larger one. Both operands and the result have one quantisation under
    /// [`Rescale::FixedPoint`].
    Max,
    /// The smaller one, as for [`QBinaryKind::Max`].
    Min,
}

/// Two tensors of one 8- or 16-bit type; the result is of the same type.
#[derive(Clone, Debug, PartialEq)]
pub struct QBinary {
    /// Which arithmetic.
    pub kind: QBinaryKind,
    /// Limits of the stored result.
    pub clamp: Clamp,
    /// How the result is brought to the output's scale.
    pub rescale: Rescale,
    /// 16-bit sums whose scales are powers of two: add after a rounding shift of one operand, and
    /// saturate (TFLite's `pot_scale_int16`).
    pub power_of_two: bool,
}

impl Op for QBinary {
    fn name(&self) -> &'static str {
        match self.kind {
            QBinaryKind::Add => "QAdd",
            QBinaryKind::Sub => "QSub",
            QBinaryKind::Mul => "QMul",
            QBinaryKind::Div => "QDiv",
            QBinaryKind::SquaredDifference => "QSquaredDifference",
            QBinaryKind::Max => "QMax",
            QBinaryKind::Min => "QMin",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (a, b) = (quantized_input(cx, 0)?, quantized_input(cx, 1)?);
        if a.dtype != b.dtype {
            return Err(OpError::new(format!(
                "its inputs are {} and {}, not of one type",
                a.dtype, b.dtype
            )));
        }
        Clamp::of(a.dtype)?;
        Ok(vec![ValueType::new(a.dtype, broadcast_inputs(cx, 0..2)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let out = single(outputs.quant(0)?)?;
        let f =
            self.evaluator(a.dtype, [single(inputs.quant(0)?)?, single(inputs.quant(1)?)?, out])?;
        let (x, y) = (Integers::of(&a)?, Integers::of(&b)?);
        let dims = broadcast_dims(&[a.dims, b.dims])?;
        let pairs = Offsets::broadcast(&dims, [a.dims, b.dims]);
        let results = pairs.map(|[i, j]| f(x.at(i), y.at(j)));
        try_store(outputs, 0, a.dtype, &dims, results)
    }
}

/// Scale and zero point of the operands and the result.
struct Operands {
    a: (f32, i32),
    b: (f32, i32),
    out: (f32, i32),
}

type Function = Box<dyn Fn(i32, i32) -> OpResult<i32> + Send + Sync>;

/// Bits that operands of a sum are shifted left by before they are brought to one scale.
fn sum_shift(dtype: DType) -> u32 {
    if dtype == DType::I16 { 15 } else { 20 }
}

impl QBinary {
    /// The factors of a sum or difference in fixed point, for the scales of both operands and the
    /// result: of the operands, shifted left by 20 bits (15 for int16), to their common scale (the
    /// second one's negative for a difference), and from there to the result's.
    ///
    /// # Errors
    /// For scales that give a factor not within 0 and 1.
    pub fn sum_factors(&self, dtype: DType, [a, b, out]: [f32; 3]) -> OpResult<[Multiplier; 3]> {
        let sum = Sum::new(a, b)?;
        let sign = if self.kind == QBinaryKind::Sub { -1 } else { 1 };
        let b = Multiplier { mantissa: sum.b.mantissa * sign, ..sum.b };
        let scale = sum.twice_max / (f64::from(out) * f64::from(1 << sum_shift(dtype)));
        Ok([sum.a, b, fraction(scale)?])
    }

    /// The op on one pair of stored integers of type `dtype`; `quants` are scale and zero point
    /// of the operands and of the result.
    ///
    /// # Errors
    /// For scales that it can't work with; when called, for a division by zero.
    pub fn evaluator(
        &self,
        dtype: DType,
        [a, b, out]: [(f32, i32); 3],
    ) -> OpResult<impl Fn(i32, i32) -> OpResult<i32> + Send + Sync + use<>> {
        let f = self.function(dtype, &Operands { a, b, out })?;
        let clamp = self.clamp;
        Ok(move |x, y| f(x, y).map(|z| clamp.apply(z)))
    }

    /// The op on one pair of stored integers, before clamping.
    fn function(&self, dtype: DType, q: &Operands) -> OpResult<Function> {
        match self.rescale {
            Rescale::Float => Ok(self.float_function(q)),
            Rescale::FixedPoint => self.fixed_function(dtype, q),
            Rescale::FixedPointOnce | Rescale::None => Err(products_only()),
        }
    }

    fn float_function(&self, q: &Operands) -> Function {
        let (a, b, out) = (q.a, q.b, q.out);
        let kind = self.kind;
        Box::new(move |x, y| {
            let real = |v: i32, (scale, zero): (f32, i32)| v.wrapping_sub(zero) as f32 * scale;
            let (x, y) = (real(x, a), real(y, b));
            let result = match kind {
                QBinaryKind::Add => x + y,
                QBinaryKind::Sub => x - y,
                QBinaryKind::Mul => x * y,
                QBinaryKind::Div => x / y,
                QBinaryKind::SquaredDifference => (x - y) * (x - y),
                QBinaryKind::Max => x.max(y),
                QBinaryKind::Min => x.min(y),
            };
            Ok(((result / out.0).round_ties_even() as i32).saturating_add(out.1))
        })
    }

    fn fixed_function(&self, dtype: DType, q: &Operands) -> OpResult<Function> {
        let (a_zero, b_zero, out_zero) = (q.a.1, q.b.1, q.out.1);
        match self.kind {
            QBinaryKind::Max | QBinaryKind::Min if q.a != q.out || q.b != q.out => {
                Err(OpError::new(
                    "the larger or smaller of numbers of different quantisation is not supported",
                ))
            }
            QBinaryKind::Max => Ok(Box::new(|x, y| Ok(x.max(y)))),
            QBinaryKind::Min => Ok(Box::new(|x, y| Ok(x.min(y)))),
            QBinaryKind::Mul => {
                let scale = multiplier(f64::from(q.a.0 * q.b.0 / q.out.0))?;
                Ok(Box::new(move |x, y| {
                    let product = x.wrapping_sub(a_zero).wrapping_mul(y.wrapping_sub(b_zero));
                    Ok(scale.apply(product).wrapping_add(out_zero))
                }))
            }
            QBinaryKind::Div => {
                let scale = multiplier(f64::from(q.a.0 / (q.b.0 * q.out.0)))?;
                Ok(Box::new(move |x, y| {
                    divide(x.wrapping_sub(a_zero), y.wrapping_sub(b_zero), scale)
                        .map(|v| v.wrapping_add(out_zero))
                }))
            }
            QBinaryKind::Add | QBinaryKind::Sub if self.power_of_two => {
                power_of_two_sum(self.kind, q)
            }
            QBinaryKind::Add | QBinaryKind::Sub => {
                let shift = sum_shift(dtype);
                let [a, b, out] = self.sum_factors(dtype, [q.a.0, q.b.0, q.out.0])?;
                Ok(Box::new(move |x, y| {
                    let x = a.apply(x.wrapping_sub(a_zero).wrapping_shl(shift));
                    let y = b.apply(y.wrapping_sub(b_zero).wrapping_shl(shift));
                    Ok(out.apply(x.wrapping_add(y)).wrapping_add(out_zero))
                }))
            }
            QBinaryKind::SquaredDifference => {
                let shift = if dtype == DType::I16 { 0 } else { 7 };
                let sum = Sum::new(q.a.0, q.b.0)?;
                let scale = sum.twice_max * sum.twice_max
                    / (f64::from(q.out.0) * f64::from(1i32 << (2 * shift)));
                let out = multiplier(scale)?;
                Ok(Box::new(move |x, y| {
                    let x = sum.a.apply(x.wrapping_sub(a_zero).wrapping_shl(shift));
                    let y = sum.b.apply(y.wrapping_sub(b_zero).wrapping_shl(shift));
                    let difference = x.wrapping_sub(y);
                    Ok(out.apply(difference.wrapping_mul(difference)).wrapping_add(out_zero))
                }))
            }
        }
    }
}

/// The operands' factors to a common scale, twice the larger one.
struct Sum {
    a: Multiplier,
    b: Multiplier,
    twice_max: f64,
}

impl Sum {
    fn new(a: f32, b: f32) -> OpResult<Sum> {
        let twice_max = f64::from(2.0 * a.max(b));
        Ok(Sum {
            a: fraction(f64::from(a) / twice_max)?,
            b: fraction(f64::from(b) / twice_max)?,
            twice_max,
        })
    }
}

/// Sums in which one operand has the result's scale and the other a smaller power of two of it.
fn power_of_two_sum(kind: QBinaryKind, q: &Operands) -> OpResult<Function> {
    let exponent = |scale: f32| -> OpResult<i32> {
        let log = scale.log2().round();
        if (f64::from(scale).log2() - f64::from(log)).abs() < 1e-3 {
            Ok(log as i32)
        } else {
            Err(OpError::new(format!("its scale {scale} is no power of two")))
        }
    };
    let out = exponent(q.out.0)?;
    let (a, b) = (out - exponent(q.a.0)?, out - exponent(q.b.0)?);
    if q.a.1 != 0 || q.b.1 != 0 || q.out.1 != 0 || a < 0 || b < 0 || (a != 0 && b != 0) {
        return Err(OpError::new("its 16-bit scales can't be added by shifting"));
    }
    let shift =
        |x: i32, by: i32| kinglet_kernels::fixed::rounding_divide_by_pot(x, by.min(31) as u32);
    Ok(Box::new(move |x, y| {
        let (x, y) = (shift(x, a), shift(y, b));
        let sum = if kind == QBinaryKind::Sub { x.wrapping_sub(y) } else { x.wrapping_add(y) };
        Ok(sum.clamp(i32::from(i16::MIN), i32::from(i16::MAX)))
    }))
}

/// x ÷ y by a fixed-point reciprocal.
fn divide(x: i32, y: i32, scale: Multiplier) -> OpResult<i32> {
    if y == 0 {
        return Err(OpError::new("division by zero"));
    }
    let (x, y) = if y < 0 { (x.wrapping_neg(), y.wrapping_neg()) } else { (x, y) };
    let (inverse, bits_over_unit) = reciprocal(y, 31);
    let headroom = i32::try_from((if x < 0 { !x } else { x }).leading_zeros()).unwrap_or(1) - 1;
    let quotient =
        kinglet_kernels::fixed::high_mul(x.wrapping_shl(headroom.max(0) as u32), inverse);
    let shift = scale.shift - bits_over_unit - headroom;
    if shift < -31 {
        return Ok(0);
    }
    Ok(Multiplier { mantissa: scale.mantissa, shift: shift.min(31) }.apply(quotient))
}

/// x, times a slope (input 1, broadcast) where x is negative: 8- or 16-bit tensors of one type.
#[derive(Clone, Debug)]
pub struct QPRelu {
    /// How the result is brought to the output's scale.
    pub rescale: Rescale,
}

impl Op for QPRelu {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (x, slope) = (quantized_input(cx, 0)?, quantized_input(cx, 1)?);
        Clamp::of(x.dtype)?;
        Clamp::of(slope.dtype)?;
        Ok(vec![ValueType::new(x.dtype, broadcast_inputs(cx, 0..2)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, slope) = (inputs.get(0)?, inputs.get(1)?);
        let (scale, zero) = single(inputs.quant(0)?)?;
        let (slope_scale, slope_zero) = single(inputs.quant(1)?)?;
        let (out_scale, out_zero) = single(outputs.quant(0)?)?;
        let scales = [scale / out_scale, scale * slope_scale / out_scale].map(f64::from);
        let factors = self.rescale.factors(scales.into_iter())?;
        let (xv, sv) = (Integers::of(&x)?, Integers::of(&slope)?);
        let dims = broadcast_dims(&[x.dims, slope.dims])?;
        let one = |[i, j]: [usize; 2]| {
            let x = xv.at(i).wrapping_sub(zero);
            let y = match x {
                0.. => factors.apply(0, x),
                _ => factors.apply(1, x.wrapping_mul(sv.at(j).wrapping_sub(slope_zero))),
            };
            y.saturating_add(out_zero)
        };
        let pairs = Offsets::broadcast(&dims, [x.dims, slope.dims]);
        store(outputs, 0, x.dtype, &dims, pairs.map(one))
    }
}
