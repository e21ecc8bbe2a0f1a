//! Affine quantisation as ops whose scales and zero points are inputs (ONNX's `QuantizeLinear` and
//! its kin). A graph where they are constant can hold them in the types of its values instead.

use super::broadcast::{AroundAxis, axis_of};
use super::convert::{self, Number, Rounding};
use crate::{DType, Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, TensorView, ValueType};
use half::{bf16, f16};

/// Which scale belongs to which element.
///
/// A scale of one element is for all; a 1-D scale has one for each index of `axis`; a scale of the
/// tensor's rank has one for each block of `block_size` indices of `axis`.
#[derive(Clone, Copy, Debug)]
pub struct Granularity {
    /// The axis along which scales differ; negative counts from the back.
    pub axis: i64,
    /// Indices of the axis that share a scale; 0 means that there are no blocks.
    pub block_size: usize,
}

impl Granularity {
    /// The place in the scale of element `i` of a tensor of sizes `dims`.
    fn places(&self, dims: &[usize], scale: &[usize]) -> OpResult<impl Fn(usize) -> usize> {
        let (around, block, strides) = self.strides(dims, scale)?;
        Ok(move |i| {
            let (len, inner) = (around.len, around.inner);
            let (outer, along, rest) = (i / inner / len, i / inner % len, i % inner);
            outer * strides[0] + along / block * strides[1] + rest * strides[2]
        })
    }

    /// The axis, how many of its indices share a scale, and how far apart scales lie for one step
    /// before, along and after it.
    fn strides(
        &self,
        dims: &[usize],
        scale: &[usize],
    ) -> OpResult<(AroundAxis, usize, [usize; 3])> {
        if scale.iter().product::<usize>() == 1 {
            return Ok((AroundAxis { outer: 1, len: 1, inner: 1 }, 1, [0; 3]));
        }
        let axis = axis_of(self.axis, dims.len())?;
        let around = AroundAxis::new(dims, axis);
        let misfit = || {
            OpError::new(format!("a scale of sizes {scale:?} does not fit {dims:?}, axis {axis}"))
        };
        if self.block_size == 0 {
            return match scale {
                [n] if *n == around.len => Ok((around, 1, [0, 1, 0])),
                _ => Err(misfit()),
            };
        }
        let blocks = around.len.div_ceil(self.block_size);
        let same =
            |(d, (a, b)): (usize, (&usize, &usize))| *b == if d == axis { blocks } else { *a };
        if scale.len() != dims.len() || !dims.iter().zip(scale).enumerate().all(same) {
            return Err(misfit());
        }
        Ok((around, self.block_size, [blocks * around.inner, around.inner, 1]))
    }
}

/// A value rounded to a float type's precision.
fn round_to(dtype: DType, value: f64) -> OpResult<f64> {
    Ok(match dtype {
        DType::F64 => value,
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).into(),
        DType::BF16 => bf16::from_f64(value).into(),
        DType::F8E8M0 => f64::from(value as f32),
        other => return Err(OpError::new(format!("{other} is no precision to compute in"))),
    })
}

/// The smallest and largest integer of a quantised type; `None` for floats.
fn range(dtype: DType) -> Option<(f64, f64)> {
    let bits = dtype.bits() as i32;
    match dtype {
        DType::U2 | DType::U4 | DType::U8 | DType::U16 => Some((0.0, 2f64.powi(bits) - 1.0)),
        DType::I2 | DType::I4 | DType::I8 | DType::I16 | DType::I32 => {
            Some((-2f64.powi(bits - 1), 2f64.powi(bits - 1) - 1.0))
        }
        _ => None,
    }
}

/// Element `i` of an optional zero point, 0 where it is left out.
fn zero_points<'a>(view: Option<TensorView<'a>>) -> OpResult<impl Fn(usize) -> f64 + 'a> {
    let numbers = view.map(|view| convert::numbers(&view)).transpose()?;
    Ok(move |i| numbers.as_ref().map_or(0.0, |numbers| numbers.at(i).as_f64()))
}

fn check_zero_point(scale: &[usize], zero_point: Option<TensorView<'_>>) -> OpResult {
    match zero_point {
        Some(z) if z.len() != scale.iter().product::<usize>() => Err(OpError::new(format!(
            "a zero point of sizes {:?} does not go with a scale of sizes {scale:?}",
            z.dims
        ))),
        _ => Ok(()),
    }
}

/// Real numbers to quantised ones: `saturate(round(x / scale) + zero point)`, ties to even.
///
/// Inputs: x, scale, zero point (may be left out).
#[derive(Clone, Debug)]
pub struct QuantizeLinear {
    /// Which scale belongs to which element.
    pub granularity: Granularity,
    /// The quantised type.
    pub to: DType,
    /// The float type in which x is divided; by default the scale's.
    pub precision: Option<DType>,
    /// Whether numbers too large for an 8-bit float become its largest.
    pub saturate: bool,
}

impl Op for QuantizeLinear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(1)?;
        Ok(vec![ValueType::new(self.to, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, scale) = (inputs.get(0)?, inputs.get(1)?);
        check_zero_point(scale.dims, inputs.opt(2))?;
        let place = self.granularity.places(x.dims, scale.dims)?;
        let precision = self.precision.unwrap_or(scale.dtype);
        round_to(precision, 0.0)?;
        let (value, scale) = (convert::numbers(&x)?, convert::numbers(&scale)?);
        let zero_point = zero_points(inputs.opt(2))?;
        let out = outputs.bytes(0, self.to, x.dims)?;
        let quantize = |i: usize| {
            let at = place(i);
            let (x, s) = (value.at(i).as_f64(), scale.at(at).as_f64());
            let divided = match precision {
                DType::F64 => x / s,
                // Both are exact in f32, in which the quotient rounds once.
                _ => round_to(precision, f64::from(x as f32 / s as f32)).unwrap_or(f64::NAN),
            };
            Number::Float(match range(self.to) {
                Some((low, high)) => (divided.round_ties_even() + zero_point(at)).clamp(low, high),
                None => divided + zero_point(at),
            })
        };
        let rounding = Rounding { saturate: self.saturate, ..Rounding::default() };
        convert::write(self.to, out, rounding, (0..x.len()).map(quantize))
    }
}

/// Quantised numbers to real ones: `(x − zero point) × scale`.
///
/// Inputs: x, scale, zero point (may be left out).
#[derive(Clone, Debug)]
pub struct DequantizeLinear {
    /// Which scale belongs to which element.
    pub granularity: Granularity,
    /// The float type of the result, in which it is computed.
    pub to: DType,
}

impl Op for DequantizeLinear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(1)?;
        Ok(vec![ValueType::new(self.to, cx.ty(0)?.shape.clone())])
    }

    fn decodes(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, scale) = (inputs.get(0)?, inputs.get(1)?);
        check_zero_point(scale.dims, inputs.opt(2))?;
        let place = self.granularity.places(x.dims, scale.dims)?;
        let (value, scale) = (convert::numbers(&x)?, convert::numbers(&scale)?);
        let zero_point = zero_points(inputs.opt(2))?;
        let out = outputs.bytes(0, self.to, x.dims)?;
        let single = self.to != DType::F64;
        let dequantize = |i: usize| {
            let at = place(i);
            let (steps, s) = (value.at(i).as_f64() - zero_point(at), scale.at(at).as_f64());
            match single {
                true => f64::from(steps as f32 * s as f32),
                false => steps * s,
            }
        };
        convert::write_floats(self.to, out, (0..x.len()).map(dequantize))
    }
}

/// Quantises to 8 unsigned bits by the range of the data itself, which is widened to hold 0.
///
/// Input: x (f32). Outputs: y (u8), its scale (f32), its zero point (u8).
#[derive(Clone, Debug)]
pub struct DynamicQuantizeLinear;

impl Op for DynamicQuantizeLinear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let scalar: [Dim; 0] = [];
        let types = [
            ValueType::new(DType::U8, cx.ty(0)?.shape.clone()),
            ValueType::new(DType::F32, scalar.to_vec()),
            ValueType::new(DType::U8, scalar.to_vec()),
        ];
        Ok(types.into_iter().take(cx.outputs()).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x: &[f32] = inputs.slice(0)?;
        let high = x.iter().copied().fold(0f32, f32::max);
        let low = x.iter().copied().fold(0f32, f32::min);
        // All zeros have no range; any scale serves them.
        let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
        let zero_point = (-low / scale).round_ties_even().clamp(0.0, 255.0);
        let quantize =
            |v: &f32| ((v / scale).round_ties_even() + zero_point).clamp(0.0, 255.0) as u8;
        let y = outputs.slice::<u8>(0, inputs.get(0)?.dims)?;
        for (out, v) in y.iter_mut().zip(x) {
            *out = quantize(v);
        }
        if outputs.len() > 1 {
            outputs.slice::<f32>(1, &[])?[0] = scale;
        }
        if outputs.len() > 2 {
            outputs.slice::<u8>(2, &[])?[0] = zero_point as u8;
        }
        Ok(())
    }
}
