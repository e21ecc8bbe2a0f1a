//! Concatenation of quantised tensors whose scales may differ.

use super::{quantized_input, single, store, stored};
use crate::ops::broadcast::{AroundAxis, axis_of};
use crate::{Dim, Dims, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

/// Joins tensors along an axis. An input of another quantisation than the output's is rescaled in
/// floats, as TFLite does: `round(x × s + (−zero × s)) + output zero`, s the ratio of scales.
#[derive(Clone, Debug)]
pub struct QConcat {
    /// Along which axis; negative counts from the back.
    pub axis: i64,
}

impl Op for QConcat {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let first = quantized_input(cx, 0)?;
        let Some(dims) = first.shape.dims() else {
            return Ok(vec![ValueType::new(first.dtype, Shape::unknown())]);
        };
        let axis = axis_of(self.axis, dims.len())?;
        let mut dims = dims.to_vec();
        let mut along = Dim::from(0);
        for i in 0..cx.len() {
            let ty = quantized_input(cx, i)?;
            if ty.dtype != first.dtype {
                return Err(OpError::new(format!(
                    "its inputs are {} and {}",
                    first.dtype, ty.dtype
                )));
            }
            let Some(own) = ty.shape.dims() else {
                return Ok(vec![ValueType::new(first.dtype, Shape::unknown())]);
            };
            if own.len() != dims.len() {
                return Err(OpError::new("its inputs differ in rank"));
            }
            along = &along + &own[axis];
            for (at, (all, own)) in dims.iter_mut().zip(own).enumerate() {
                match (all.fixed(), own.fixed()) {
                    (Some(a), Some(b)) if at != axis && a != b => {
                        return Err(OpError::new(format!("its inputs differ in dimension {at}")));
                    }
                    (None, Some(_)) => *all = own.clone(),
                    _ => {}
                }
            }
        }
        dims[axis] = along;
        Ok(vec![ValueType::new(first.dtype, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (out_scale, out_zero) = single(outputs.quant(0)?)?;
        let first = inputs.get(0)?;
        let axis = axis_of(self.axis, first.dims.len())?;
        let mut parts = Vec::with_capacity(inputs.len());
        let mut dims: Dims = first.dims.into();
        dims[axis] = 0;
        for i in 0..inputs.len() {
            let view = inputs.get(i)?;
            let (scale, zero) = single(inputs.quant(i)?)?;
            let mut values = stored(&view)?;
            if (scale, zero) != (out_scale, out_zero) {
                let ratio = scale * (1.0 / out_scale);
                let bias = -(zero as f32) * ratio;
                for value in &mut values {
                    *value =
                        ((*value as f32 * ratio + bias).round() as i32).saturating_add(out_zero);
                }
            }
            let around = AroundAxis::new(view.dims, axis);
            dims[axis] += around.len;
            parts.push((values, around.len * around.inner));
        }
        let outer = AroundAxis::new(&dims, axis).outer;
        let mut result = Vec::new();
        for o in 0..outer {
            for (values, run) in &parts {
                result.extend_from_slice(&values[o * run..(o + 1) * run]);
            }
        }
        store(outputs, 0, first.dtype, &dims, &result)
    }
}
