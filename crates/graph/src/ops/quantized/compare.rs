//! Comparisons between quantised tensors of different scales.

use super::{Integers, quantized_input, single};
use crate::ops::broadcast::{Offsets, broadcast_dims, broadcast_inputs};
use crate::ops::logic::Compare;
use crate::{Bool, DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Compares two 8-bit quantised tensors of one type, broadcast like NumPy's, in TFLite's fixed
/// point: both are brought to one scale with eight more bits, and rounded.
#[derive(Clone, Debug)]
pub struct QCompare {
    /// Which relation.
    pub relation: Compare,
}

impl Op for QCompare {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (a, b) = (quantized_input(cx, 0)?, quantized_input(cx, 1)?);
        if a.dtype != b.dtype {
            return Err(OpError::new(format!(
                "its inputs are {} and {}, not of one type",
                a.dtype, b.dtype
            )));
        }
        Ok(vec![ValueType::new(DType::Bool, broadcast_inputs(cx, 0..2)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let (a_scale, a_zero) = single(inputs.quant(0)?)?;
        let (b_scale, b_zero) = single(inputs.quant(1)?)?;
        // Scales of 1 and more pass unscaled where they agree.
        let (a_factor, b_factor) = match a_scale == b_scale {
            true => (None, None),
            false => {
                (Some(super::fraction(a_scale.into())?), Some(super::fraction(b_scale.into())?))
            }
        };
        let scaled = |x: i32, zero: i32, factor: Option<kinglet_kernels::fixed::Multiplier>| {
            let x = x.wrapping_sub(zero);
            factor.map_or(x, |f| f.apply(x.wrapping_shl(8)))
        };
        let (x, y) = (Integers::of(&a)?, Integers::of(&b)?);
        let dims = broadcast_dims(&[a.dims, b.dims])?;
        let offsets = Offsets::broadcast(&dims, [a.dims, b.dims]);
        let out = outputs.slice::<Bool>(0, &dims)?;
        for (out, [i, j]) in out.iter_mut().zip(offsets) {
            let order = scaled(x.at(i), a_zero, a_factor).cmp(&scaled(y.at(j), b_zero, b_factor));
            *out = Bool::from(match self.relation {
                Compare::Equal => order.is_eq(),
                Compare::NotEqual => order.is_ne(),
                Compare::Greater => order.is_gt(),
                Compare::GreaterOrEqual => order.is_ge(),
                Compare::Less => order.is_lt(),
                Compare::LessOrEqual => order.is_le(),
            });
        }
        Ok(())
    }
}
