//! Between real and quantised numbers.

use super::{Clamp, Integers, store};
use crate::ops::broadcast::AroundAxis;
use crate::{DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, Quant, ValueType};
use half::f16;

/// Which of two equally near integers is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundTo {
    /// The one farther from zero: TFLite.
    AwayFromZero,
    /// The even one: ONNX.
    Even,
}

/// From f32 to integers of the output's quantisation, which may be along an axis.
#[derive(Clone, Debug)]
pub struct Quantize {
    /// Element type of the output.
    pub to: DType,
    /// What becomes of halves.
    pub round: RoundTo,
}

impl Op for Quantize {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if ty.dtype != DType::F32 {
            return Err(OpError::new(format!("quantises f32, not {}", ty.dtype)));
        }
        Clamp::of(self.to)?;
        Ok(vec![ValueType::new(self.to, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let quant = outputs.quant(0)?;
        let channel = Channels::of(quant, view.dims)?;
        let one = |(i, x): (usize, &f32)| {
            let at = channel.at(i);
            let steps = x / quant.scale_at(at);
            let steps = match self.round {
                RoundTo::AwayFromZero => steps.round(),
                RoundTo::Even => steps.round_ties_even(),
            };
            (steps as i32).saturating_add(quant.zero_point_at(at))
        };
        let reals = view.slice::<f32>()?;
        store(outputs, 0, self.to, view.dims, reals.iter().enumerate().map(one))
    }
}

/// From quantised integers, or f16, to f32.
#[derive(Clone, Debug)]
pub struct Dequantize;

impl Op for Dequantize {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if ty.dtype != DType::F16 && ty.quant.is_none() {
            return Err(OpError::new(format!("its input {ty} has no quantisation")));
        }
        Ok(vec![ValueType::new(DType::F32, ty.shape.clone())])
    }

    fn decodes(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        if view.dtype == DType::F16 {
            let values = view.slice::<f16>()?;
            let out = outputs.slice::<f32>(0, view.dims)?;
            out.iter_mut().zip(values).for_each(|(out, v)| *out = v.to_f32());
            return Ok(());
        }
        let quant = inputs.quant(0)?;
        let channel = Channels::of(quant, view.dims)?;
        let values = Integers::of(&view)?;
        let out = outputs.slice::<f32>(0, view.dims)?;
        for (i, out) in out.iter_mut().enumerate() {
            let at = channel.at(i);
            let steps = i64::from(values.at(i)) - i64::from(quant.zero_point_at(at));
            *out = (f64::from(quant.scale_at(at)) * steps as f64) as f32;
        }
        Ok(())
    }
}

/// Which scale belongs to an element: its index along the quantisation's axis.
struct Channels {
    inner: usize,
    len: usize,
}

impl Channels {
    fn of(quant: &Quant, dims: &[usize]) -> OpResult<Channels> {
        let axis = match quant.axis {
            _ if quant.scale.len() == 1 => return Ok(Channels { inner: 1, len: 1 }),
            Some(axis) if dims.get(axis) == Some(&quant.scale.len()) => axis,
            _ => {
                let m = format!("{} scales do not fit sizes {dims:?}", quant.scale.len());
                return Err(OpError::new(m));
            }
        };
        let around = AroundAxis::new(dims, axis);
        Ok(Channels { inner: around.inner.max(1), len: around.len.max(1) })
    }

    fn at(&self, element: usize) -> usize {
        element / self.inner % self.len
    }
}

/// Rounds f32 to the values that an unsigned integer of `bits` bits could stand for, within
/// `min..max` nudged so that zero is one of them.
#[derive(Clone, Debug)]
pub struct FakeQuant {
    /// Lowest real value.
    pub min: f32,
    /// Highest real value.
    pub max: f32,
    /// 2 to 16.
    pub bits: u32,
    /// Leave the lowest integer unused.
    pub narrow: bool,
}

impl Op for FakeQuant {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if ty.dtype != DType::F32 || !(2..=16).contains(&self.bits) || self.min >= self.max {
            return Err(OpError::new(format!("can't fake-quantise {ty} to {} bits", self.bits)));
        }
        Ok(vec![ValueType::new(DType::F32, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let (lowest, highest) =
            (f32::from(u8::from(self.narrow)), ((1u32 << self.bits) - 1) as f32);
        let scale = (self.max - self.min) / (highest - lowest);
        let zero = (lowest - self.min / scale).clamp(lowest, highest).round();
        let (min, max) = ((lowest - zero) * scale, (highest - zero) * scale);
        let inverse = 1.0 / scale;
        let out = outputs.slice::<f32>(0, view.dims)?;
        for (out, x) in out.iter_mut().zip(view.slice::<f32>()?) {
            let steps = ((x.max(min).min(max) - min) * inverse).round();
            *out = steps * scale + min;
        }
        Ok(())
    }
}
