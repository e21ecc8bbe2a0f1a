//! Rows of stored weights as numbers.

use crate::number::Number;
use crate::{DType, OpError, OpResult, TensorView};
use half::{bf16, f16};

/// Checks that weights of `dtype` can be decoded by [`decode_row`].
pub(super) fn check(dtype: DType) -> OpResult {
    match dtype {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::Encoded(_) => Ok(()),
        _ => {
            Err(OpError::new(format!("weights of {dtype}: must be floats or an encoding of them")))
        }
    }
}

/// Writes row `row` of `weights`, seen as rows of `out.len()` elements, to `out`.
pub(super) fn decode_row(weights: &TensorView<'_>, row: usize, out: &mut [f64]) -> OpResult {
    fn copy<T: Number>(row: &[T], out: &mut [f64]) {
        out.iter_mut().zip(row).for_each(|(o, w)| *o = w.to_f64());
    }
    let n = out.len();
    let part = row * n..(row + 1) * n;
    match weights.dtype {
        DType::F64 => copy(&weights.slice::<f64>()?[part], out),
        DType::F32 => copy(&weights.slice::<f32>()?[part], out),
        DType::F16 => copy(&weights.slice::<f16>()?[part], out),
        DType::BF16 => copy(&weights.slice::<bf16>()?[part], out),
        DType::Encoded(encoding) => {
            let row_bytes = n / encoding.block_len() * encoding.block_bytes();
            let mut decoded = vec![0.0; n];
            encoding.decode(&weights.bytes[row * row_bytes..][..row_bytes], &mut decoded);
            copy(&decoded, out);
        }
        other => check(other)?,
    }
    Ok(())
}
