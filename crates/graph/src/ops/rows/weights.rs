//! Rows of stored weights as f32.

use crate::{DType, OpError, OpResult, TensorView};
use half::{bf16, f16};

/// Checks that weights of `dtype` can be decoded by [`decode_row`].
pub(super) fn check(dtype: DType) -> OpResult {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::Encoded(_) => Ok(()),
        _ => {
            Err(OpError::new(format!("weights of {dtype}: must be floats or an encoding of them")))
        }
    }
}

/// Writes row `row` of `weights`, seen as rows of `out.len()` elements, to `out`.
pub(super) fn decode_row(weights: &TensorView<'_>, row: usize, out: &mut [f32]) -> OpResult {
    let n = out.len();
    let at = row * n;
    match weights.dtype {
        DType::F32 => out.copy_from_slice(&weights.slice::<f32>()?[at..at + n]),
        DType::F16 => {
            let row = &weights.slice::<f16>()?[at..at + n];
            out.iter_mut().zip(row).for_each(|(o, w)| *o = w.to_f32());
        }
        DType::BF16 => {
            let row = &weights.slice::<bf16>()?[at..at + n];
            out.iter_mut().zip(row).for_each(|(o, w)| *o = w.to_f32());
        }
        DType::Encoded(encoding) => {
            let row_bytes = n / encoding.block_len() * encoding.block_bytes();
            encoding.decode(&weights.bytes[row * row_bytes..][..row_bytes], out);
        }
        other => check(other)?,
    }
    Ok(())
}
