//! Dimensions in another order.

use super::movement::{Walk, axes_of, fail, ints_of, row_major, whole, write_whole};
use crate::op::OpResult;
use crate::{Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, ValueType};

/// Inputs: data, permutation (integers, optional: the reverse order). Dimension `i` of the output
/// is dimension `permutation[i]` of the data.
#[derive(Clone, Debug, Default)]
pub struct Transpose;

fn order(permutation: Option<&[i64]>, rank: usize) -> OpResult<Dims> {
    match permutation {
        None => Ok((0..rank).rev().collect()),
        Some(p) if p.len() == rank => axes_of(p, rank),
        Some(p) => fail(format!("{p:?} is no permutation of {rank} dimensions")),
    }
}

impl Op for Transpose {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let permutation = cx.ints(1)?;
        let unknown = cx.opt(1).is_some() && permutation.is_none();
        let Some(dims) = ty.shape.dims() else {
            let rank = permutation.map(|p| cx.unknown_dims(p.len()));
            return Ok(vec![ValueType::new(ty.dtype, rank.unwrap_or_default())]);
        };
        let one_scale = ty.quant.clone().filter(|q| q.axis.is_none());
        let shape = if unknown {
            cx.unknown_dims(dims.len())
        } else {
            let order = order(permutation.as_deref(), dims.len())?;
            order.iter().map(|i| dims[*i].clone()).collect::<Vec<_>>().into()
        };
        Ok(vec![ValueType { dtype: ty.dtype, shape, quant: one_scale }])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let order = order(g.constant_ints(1)?.as_deref(), g.rank(x)?)?;
        let mut back = vec![0; order.len()];
        for (i, from) in order.iter().enumerate() {
            back[*from] = i;
        }
        let dx = g.transposed(dy, &back)?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let permutation = inputs.opt(1).map(|p| ints_of(&p)).transpose()?;
        let order = order(permutation.as_deref(), data.dims.len())?;
        let strides = row_major(data.dims);
        let walk = Walk {
            start: 0,
            dims: order.iter().map(|i| data.dims[*i]).collect(),
            strides: order.iter().map(|i| strides[*i]).collect(),
        };
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, &walk.dims, |dst| {
            walk.copy(&src.bytes, dst, src.width);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, run, shape, t, ty};
    use super::*;
    use crate::{DType, Tensor};

    #[test]
    fn dimensions_are_permuted() {
        let data = t(&[1, 2, 3], &[0i16, 1, 2, 3, 4, 5]);
        check(&Transpose, &[&data], &[3, 2, 1], &[0i16, 3, 1, 4, 2, 5]);
        check(&Transpose, &[&data, &i(&[1, 2, 0])], &[2, 3, 1], &[0i16, 1, 2, 3, 4, 5]);
        assert!(error(&Transpose, &[&data, &i(&[0, 1])]).contains("permutation"));
        assert!(error(&Transpose, &[&data, &i(&[0, 1, 1])]).contains("twice"));
        assert_eq!(
            shape(&Transpose, &ty(DType::F32, "n, 3, h, w"), &[&i(&[0, 2, 3, 1])]),
            "[n, h, w, 3]"
        );
    }

    #[test]
    fn nibbles_are_permuted() {
        let mut data = Tensor::zeros(DType::U4, &[2, 3]).unwrap();
        data.bytes_mut().copy_from_slice(&[0x10, 0x32, 0x54]);
        let out = run(&Transpose, &[&data]).unwrap();
        assert_eq!((out.dims(), out.raw()), (&[3, 2][..], &[0x30, 0x41, 0x52][..]));
    }
}
