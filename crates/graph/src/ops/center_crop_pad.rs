//! The middle of a tensor, cropped or padded to given sizes.

use super::broadcast::{Offsets, axes_of, strides};
use crate::{Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Input 0 cropped, or padded with zeros, around its centre to the sizes in input 1, of which there
/// is one for each of `axes` (ONNX `CenterCropPad`). An odd element more or less stands at the end.
#[derive(Clone, Debug)]
pub struct CenterCropPad {
    /// The dimensions that change; `None`: all. Negative ones count from the back.
    pub axes: Option<Vec<i64>>,
}

impl CenterCropPad {
    fn axes(&self, rank: usize) -> OpResult<Vec<usize>> {
        match &self.axes {
            Some(axes) => Ok(axes_of(axes, rank)?.to_vec()),
            None => Ok((0..rank).collect()),
        }
    }
}

fn sizes(values: &[i64], count: usize) -> OpResult<Vec<usize>> {
    let sizes: Option<Vec<usize>> = values.iter().map(|v| usize::try_from(*v).ok()).collect();
    sizes
        .filter(|s| s.len() == count)
        .ok_or_else(|| OpError::new(format!("sizes {values:?} for {count} dimensions")))
}

impl Op for CenterCropPad {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if ty.dtype.bits() < 8 {
            return Err(OpError::new(format!("CenterCropPad does not take {}", ty.dtype)));
        }
        let Some(dims) = ty.shape.dims() else {
            return Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())]);
        };
        let mut out = dims.to_vec();
        let axes = self.axes(dims.len())?;
        let known = cx.ints(1)?.map(|v| sizes(&v, axes.len())).transpose()?;
        for (i, axis) in axes.into_iter().enumerate() {
            out[axis] = known.as_ref().map_or_else(|| cx.unknown_dim(), |k| Dim::from(k[i]));
        }
        Ok(vec![ValueType::new(ty.dtype, out)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let axes = self.axes(x.dims.len())?;
        let wanted = sizes(&inputs.get(1)?.ints()?, axes.len())?;
        let mut dims = x.dims.to_vec();
        for (axis, size) in axes.iter().zip(wanted) {
            dims[*axis] = size;
        }
        let width = x.dtype.bits() / 8;
        let out = outputs.bytes(0, x.dtype, &dims)?;
        out.fill(0);
        // What both have, and where it starts in each.
        let shared: Vec<usize> = x.dims.iter().zip(&dims).map(|(a, b)| *a.min(b)).collect();
        let start = |own: &[usize]| -> usize {
            let places = own.iter().zip(&shared).zip(strides(own));
            places.map(|((own, shared), step)| (own - shared) / 2 * step).sum()
        };
        let (from, to) = (start(x.dims), start(&dims));
        let steps = [strides(x.dims), strides(&dims)];
        for [a, b] in Offsets::new(&shared, [&steps[0], &steps[1]]) {
            let source = &x.bytes[(from + a) * width..][..width];
            out[(to + b) * width..][..width].copy_from_slice(source);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::eval;

    #[test]
    fn crops_and_pads_around_the_middle() {
        let x = Tensor::from_slice(&[2, 3], &[1i32, 2, 3, 4, 5, 6]).unwrap();
        let to = Tensor::from_slice(&[2], &[3i64, 2]).unwrap();
        let y = eval(&CenterCropPad { axes: None }, &[x, to]);
        assert_eq!(y[0].slice::<i32>().unwrap(), [1, 2, 4, 5, 0, 0]);
    }
}
