//! Diagonals of matrices.

use super::movement::{count, fail, whole, write_whole};
use crate::op::{OpError, OpResult};
use crate::{Dims, InferCx, Inputs, Op, Outputs, Shape, ValueType};

/// Input: diagonals `[…, n]`. Output: matrices `[…, n, n]`, zero off the diagonal (TFLite
/// `MATRIX_DIAG`).
#[derive(Clone, Debug, Default)]
pub struct MatrixDiag;

/// Inputs: matrices `[…, rows, columns]`, diagonals `[…, the smaller of both]`. Output: the
/// matrices with these diagonals (TFLite `MATRIX_SET_DIAG`).
#[derive(Clone, Debug, Default)]
pub struct MatrixSetDiag;

impl Op for MatrixDiag {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let shape = match ty.shape.dims() {
            None => Shape::unknown(),
            Some([]) => return fail("a scalar is no diagonal"),
            Some(dims @ [.., n]) => [dims, std::slice::from_ref(n)].concat().into(),
        };
        Ok(vec![ValueType::new(ty.dtype, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let Some(n) = data.dims.last().copied() else {
            return fail("a scalar is no diagonal");
        };
        let mut dims = Dims::from_slice(data.dims);
        dims.push(n);
        count(&dims)?;
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            dst.fill(0);
            for (k, v) in src.bytes.chunks_exact(src.width).enumerate() {
                dst[(k * n + k % n) * src.width..][..src.width].copy_from_slice(v);
            }
            Ok(())
        })
    }
}

impl Op for MatrixSetDiag {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        if cx.dtype(0)? != cx.dtype(1)? {
            return fail(format!("a diagonal of {} in matrices of {}", cx.dtype(1)?, cx.dtype(0)?));
        }
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, diagonal) = (inputs.get(0)?, inputs.get(1)?);
        let [batch @ .., rows, columns] = data.dims else {
            return fail(format!("{:?} is no matrix", data.dims));
        };
        let n = *rows.min(columns);
        let fits = diagonal.dims.split_last() == Some((&n, batch));
        if !fits || data.dtype != diagonal.dtype {
            return Err(OpError::new(format!(
                "a diagonal {}{:?} in matrices {}{:?}",
                diagonal.dtype, diagonal.dims, data.dtype, data.dims
            )));
        }
        let (src, new) = (whole(&data), whole(&diagonal));
        write_whole(outputs, 0, data.dtype, data.dims, |dst| {
            dst.copy_from_slice(&src.bytes);
            for (k, v) in new.bytes.chunks_exact(src.width).enumerate() {
                let at = (k / n * rows + k % n) * columns + k % n;
                dst[at * src.width..][..src.width].copy_from_slice(v);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, t};
    use super::*;

    #[test]
    fn diagonals_are_made_and_set() {
        let x = t(&[2, 2], &[1i32, 2, 3, 4]);
        check(&MatrixDiag, &[&x], &[2, 2, 2], &[1, 0, 0, 2, 3, 0, 0, 4]);
        let m = t(&[2, 1, 2], &[5i32, 6, 7, 8]);
        check(&MatrixSetDiag, &[&m, &t(&[2, 1], &[1i32, 2])], &[2, 1, 2], &[1, 6, 2, 8]);
        assert!(error(&MatrixSetDiag, &[&m, &x]).contains("diagonal"));
        assert!(error(&MatrixDiag, &[&t(&[], &[1i32])]).contains("scalar"));
    }
}
