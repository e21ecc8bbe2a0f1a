//! Softmax of quantised numbers along the last dimension.

use super::{Clamp, Integers, Rescale, quantized_input, single, store};
use crate::{DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, TensorView, ValueType};
use kinglet_kernels::fixed::{
    Lut16, Multiplier, exp_on_negative_values, input_radius, reciprocal, rounding_divide_by_pot,
    softmax_multiplier,
};

/// Softmax along the last dimension of an int8, uint8 or int16 tensor.
#[derive(Clone, Debug)]
pub struct QSoftmax {
    /// Factor on the inputs.
    pub beta: f32,
    /// Element type of the output. Under [`Rescale::FixedPoint`] its scale is 1/256 (8 bits) or
    /// 1/32768 (16 bits), with the lowest stored value standing for zero.
    pub to: DType,
    /// In which arithmetic.
    pub rescale: Rescale,
}

/// Integer bits of scaled input differences.
const DIFF_BITS: u32 = 5;
/// Integer bits of the sum of exponentials.
const SUM_BITS: u32 = 12;

impl Op for QSoftmax {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        Clamp::of(self.to)?;
        if ty.shape.rank() == Some(0) {
            return Err(OpError::new("softmax needs at least one dimension"));
        }
        Ok(vec![ValueType::new(self.to, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let input = inputs.get(0)?;
        let (scale, _) = single(inputs.quant(0)?)?;
        let rows = rows(&input)?;
        match (self.rescale, input.dtype, self.to) {
            (Rescale::Float, ..) => {
                let (out_scale, out_zero) = single(outputs.quant(0)?)?;
                let row = |row| float_row(row, scale * self.beta, out_scale, out_zero);
                store(outputs, 0, self.to, input.dims, rows.flat_map(row))
            }
            (Rescale::FixedPoint, DType::I16, DType::I16) => {
                let tables = Tables16::new();
                let factor = tables.factor(self.beta, scale)?;
                let rows = rows.flat_map(|row| tables.row(row, factor));
                store(outputs, 0, self.to, input.dims, rows)
            }
            (Rescale::FixedPoint, DType::I8 | DType::U8, DType::I8 | DType::U8 | DType::I16) => {
                let factor = softmax_multiplier(f64::from(self.beta), f64::from(scale), DIFF_BITS)
                    .ok_or_else(|| {
                        OpError::new(format!("softmax can't scale by {scale} × {}", self.beta))
                    })?;
                let smallest = -input_radius(DIFF_BITS, factor.shift.max(0) as u32, 31);
                let rows = rows.flat_map(|row| fixed_row(row, factor, smallest, self.to));
                store(outputs, 0, self.to, input.dims, rows)
            }
            (_, from, to) => {
                Err(OpError::new(format!("softmax from {from} to {to} is not supported")))
            }
        }
    }
}

/// Some neighbouring integers of a tensor.
#[derive(Clone, Copy)]
struct Row<'a> {
    all: Integers<'a>,
    first: usize,
    len: usize,
}

/// The rows along the last dimension.
fn rows<'a>(view: &TensorView<'a>) -> OpResult<impl Iterator<Item = Row<'a>> + use<'a>> {
    let all = Integers::of(view)?;
    let len = view.dims.last().copied().unwrap_or(1).max(1);
    Ok((0..view.len()).step_by(len).map(move |first| Row { all, first, len }))
}

impl<'a> Row<'a> {
    fn values(self) -> impl Iterator<Item = i32> + use<'a> {
        (self.first..self.first + self.len).map(move |i| self.all.at(i))
    }

    fn max(self) -> i32 {
        self.values().max().unwrap_or(0)
    }
}

fn fixed_row<'a>(
    row: Row<'a>,
    factor: Multiplier,
    smallest: i32,
    to: DType,
) -> impl Iterator<Item = i32> + use<'a> {
    let max = row.max();
    let exp = move |x: i32| -> Option<i32> {
        let diff = x.wrapping_sub(max);
        (diff >= smallest).then(|| exp_on_negative_values(factor.apply(diff), DIFF_BITS))
    };
    let sum = row
        .values()
        .filter_map(exp)
        .fold(0i32, |sum, e| sum.wrapping_add(rounding_divide_by_pot(e, SUM_BITS)));
    let (inverse, bits_over_unit) = reciprocal(sum, SUM_BITS);
    let (bits, low) = match to {
        DType::I8 => (8, i32::from(i8::MIN)),
        DType::U8 => (8, 0),
        _ => (16, i32::from(i16::MIN)),
    };
    let shift = (bits_over_unit + 31 - bits).clamp(0, 31) as u32;
    row.values().map(move |x| match exp(x) {
        Some(e) => {
            let product = kinglet_kernels::fixed::high_mul(inverse, e);
            rounding_divide_by_pot(product, shift).wrapping_add(low)
        }
        None => low,
    })
}

fn float_row<'a>(
    row: Row<'a>,
    scale: f32,
    out_scale: f32,
    out_zero: i32,
) -> impl Iterator<Item = i32> + use<'a> {
    let max = row.max();
    let exp = move |x: i32| (x.wrapping_sub(max) as f32 * scale).exp();
    let sum: f32 = row.values().map(exp).sum();
    let quantise = move |e: f32| ((e / sum) / out_scale).round_ties_even() as i32;
    row.values().map(move |x| quantise(exp(x)).saturating_add(out_zero))
}

/// The two interpolated tables of 16-bit softmax: exp on [−10, 0] and 1 / (1 + x) on [0, 1].
struct Tables16 {
    exp: Lut16,
    one_over_one_plus: Lut16,
}

impl Tables16 {
    fn new() -> Tables16 {
        let unit = 1.0 / 32768.0;
        Tables16 {
            exp: Lut16::new((10.0 / 65535.0, 32767), (2.0 / 65535.0, 0), f32::exp),
            one_over_one_plus: Lut16::new(
                (1.0 / 65535.0, -32768),
                (2.0 * unit * 32768.0 / 65535.0, 0),
                |x| 1.0 / (1.0 + x),
            ),
        }
    }

    fn factor(&self, beta: f32, scale: f32) -> OpResult<Multiplier> {
        super::multiplier(f64::from(beta) * f64::from(scale) / (10.0 / 65535.0))
    }

    fn row<'a>(&'a self, row: Row<'a>, factor: Multiplier) -> impl Iterator<Item = i32> + 'a {
        let max = row.max();
        let exp = move |x: i32| {
            let scaled = factor.apply(x.wrapping_sub(max)).saturating_add(32767);
            i32::from(self.exp.at(scaled.clamp(-32768, 32767) as i16))
        };
        // Q16.15; the largest element alone makes it at least 1.
        let sum = row.values().map(exp).fold(0i32, i32::wrapping_add).max(1);
        let headroom = sum.leading_zeros();
        let shifted = ((i64::from(sum) << (headroom - 1)) + (1 << 13)) >> 14;
        let index = (shifted - (1 << 16)).saturating_sub(32768).clamp(-32768, 32767);
        let reciprocal = i32::from(self.one_over_one_plus.at(index as i16));
        let right = 31 - headroom;
        row.values().map(move |x| {
            let product = i64::from(exp(x)) * i64::from(reciprocal);
            let rounded = (product + (1i64 << (right - 1))) >> right;
            rounded.clamp(0, 32767) as i32
        })
    }
}

/// The logarithm of softmax along the last dimension of an int8 or uint8 tensor; the output's
/// scale is 16/256 with the highest stored value for zero. At most one step from TFLite's
/// reference kernel.
#[derive(Clone, Debug)]
pub struct QLogSoftmax;

impl Op for QLogSoftmax {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        if ty.shape.rank() == Some(0) {
            return Err(OpError::new("log softmax needs at least one dimension"));
        }
        Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let input = inputs.get(0)?;
        let (scale, _) = single(inputs.quant(0)?)?;
        let (out_scale, out_zero) = single(outputs.quant(0)?)?;
        let row = |row| log_row(row, scale, out_scale, out_zero);
        store(outputs, 0, input.dtype, input.dims, rows(&input)?.flat_map(row))
    }
}

fn log_row<'a>(
    row: Row<'a>,
    scale: f32,
    out_scale: f32,
    out_zero: i32,
) -> impl Iterator<Item = i32> + use<'a> {
    let max = row.max();
    let real = move |x: i32| x.wrapping_sub(max) as f32 * scale;
    let log_sum = row.values().map(|x| real(x).exp()).sum::<f32>().ln();
    row.values().map(move |x| {
        let log = real(x) - log_sum;
        ((log / out_scale).round() as i32).saturating_add(out_zero)
    })
}
