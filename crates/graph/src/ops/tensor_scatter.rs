//! New entries written into a cache.

use super::broadcast::{AroundAxis, axis_of};
use crate::{InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Input 0 with input 1 written into it along an axis, for each index of dimension 0 from the place
/// that input 2 tells (0 where it is left out) (ONNX `TensorScatter`).
#[derive(Clone, Debug)]
pub struct TensorScatter {
    /// The axis, not 0; negative counts from the back.
    pub axis: i64,
    /// Whether what passes the end goes on from the start.
    pub circular: bool,
}

impl Op for TensorScatter {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (cache, update) = (cx.ty(0)?, cx.ty(1)?);
        match cache.dtype == update.dtype && cache.dtype.bits() >= 8 {
            true => Ok(vec![ValueType::new(cache.dtype, cache.shape.clone())]),
            false => Err(OpError::new(format!("{} into {}", update.dtype, cache.dtype))),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (cache, update) = (inputs.get(0)?, inputs.get(1)?);
        let axis = axis_of(self.axis, cache.dims.len())?;
        let fits = |(i, (c, u)): (usize, (&usize, &usize))| if i == axis { u <= c } else { u == c };
        if axis == 0
            || update.dims.len() != cache.dims.len()
            || !cache.dims.iter().zip(update.dims).enumerate().all(fits)
        {
            let (c, u) = (cache.dims, update.dims);
            return Err(OpError::new(format!("sizes {u:?} into {c:?} along axis {axis}")));
        }
        let batch = cache.dims[0];
        let starts = match inputs.opt(2) {
            Some(starts) => starts.ints()?,
            None => vec![0; batch],
        };
        if starts.len() != batch {
            return Err(OpError::new(format!("{} places for {batch} entries", starts.len())));
        }
        let AroundAxis { outer, len, inner } = AroundAxis::new(cache.dims, axis);
        let width = cache.dtype.bits() / 8 * inner;
        let steps = update.dims[axis];
        outputs.put(0, &cache)?;
        let out = outputs.bytes(0, cache.dtype, cache.dims)?;
        for o in 0..outer {
            let start = starts[o / (outer / batch)];
            for step in 0..steps {
                let place = start.saturating_add(step as i64);
                let place = if self.circular { place.rem_euclid(len.max(1) as i64) } else { place };
                let Some(place) = usize::try_from(place).ok().filter(|p| *p < len) else {
                    return Err(OpError::new(format!("place {place} is outside of {len}")));
                };
                let from = &update.bytes[(o * steps + step) * width..][..width];
                out[(o * len + place) * width..][..width].copy_from_slice(from);
            }
        }
        Ok(())
    }
}
