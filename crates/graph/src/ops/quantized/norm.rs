//! Normalisation of quantised numbers.

use super::{Integers, quantized_input, single, store};
use crate::{InferCx, Inputs, Op, OpResult, Outputs, ValueType};
use kinglet_kernels::fixed::{Multiplier, inverse_sqrt_multiplier};

/// Divides each vector along the last dimension by its Euclidean length. The output's scale is
/// 1/128 and its zero point the middle of the type's range (TFLite's `L2_NORMALIZATION`).
#[derive(Clone, Debug)]
pub struct QL2Norm;

impl Op for QL2Norm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let (_, out_zero) = single(outputs.quant(0)?)?;
        let depth = view.dims.last().copied().unwrap_or(1).max(1);
        let (_, zero) = single(inputs.quant(0)?)?;
        let values = Integers::of(&view)?;
        let rows = (0..view.len()).step_by(depth).flat_map(|first| {
            let row = (first..first + depth).map(move |i| values.at(i).wrapping_sub(zero));
            let square = row.clone().fold(0i32, |sum, x| sum.wrapping_add(x.wrapping_mul(x)));
            let (mantissa, shift) = inverse_sqrt_multiplier(square, -1);
            let inverse = Multiplier { mantissa, shift };
            row.map(move |x| inverse.apply(x.wrapping_mul(128)).saturating_add(out_zero))
        });
        store(outputs, 0, view.dtype, view.dims, rows)
    }
}
