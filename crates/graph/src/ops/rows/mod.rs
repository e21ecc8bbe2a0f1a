//! Ops over the rows of a language model's step.
//!
//! A step takes n rows. Each is a token with its position, its sequence, and its parent: the row
//! of the same step that it follows, or −1 where it follows what its sequence holds already.
//! Chunks of a prompt, one token of each of many conversations and trees of guesses are all just
//! rows. What sequences hold lies in state that these ops change in place:
//!
//! - Attention's keys and values lie in *cells*, [`PAGE`] to a page. A table of pages, [sequences,
//!   pages], says where each sequence's cells lie: position p is cell p mod [`PAGE`] of page
//!   p / [`PAGE`]. Before a row's step its *slot* says which cell takes it in: the one of its
//!   position, unless several rows of one position try different ways on.
//! - Recurrent ops hold one memory a sequence, cleared by the row of position 0.
//!
//! Row inputs are i32. A row of sequence −1 is padding: its outputs are 0, and it changes nothing.

mod attention;
mod attention_gradient;
mod embedding;
mod linear;
mod recurrent;
mod rope;
mod weights;

pub use attention::{PAGE, RowAttention, RowTables};
pub use attention_gradient::RowAttentionGradient;
pub use embedding::Embedding;
pub use kinglet_kernels::rows_attention::{Pages, Part};
pub use linear::{ExpertLinear, Linear, LinearTranspose, Linears, RowNorm};
pub use recurrent::{DeltaRule, RowConv, SelectiveScan};
pub use rope::{Angles, Rotate};

use crate::{DType, Dim, InferCx, Inputs, OpError, OpResult, ValueType};

/// The sizes of input `i`, checked to be an f32 tensor of `rank` dimensions.
fn floats<'a>(cx: &InferCx<'a>, i: usize, rank: usize) -> OpResult<&'a [Dim]> {
    typed(cx, i, DType::F32, rank)
}

/// The element type and the sizes of input `i`, checked to be an f32 or f64 tensor of `rank`
/// dimensions. Kernels compute in f32; references also in f64, which gradients are checked in.
fn reals<'a>(cx: &InferCx<'a>, i: usize, rank: usize) -> OpResult<(DType, &'a [Dim])> {
    match cx.dtype(i)? {
        DType::F64 => Ok((DType::F64, typed(cx, i, DType::F64, rank)?)),
        _ => Ok((DType::F32, floats(cx, i, rank)?)),
    }
}

/// Checks that inputs `range` are i32 vectors: one number a row.
fn row_numbers(cx: &InferCx<'_>, range: std::ops::Range<usize>) -> OpResult {
    range.into_iter().try_for_each(|i| typed(cx, i, DType::I32, 1).map(|_| ()))
}

fn typed<'a>(cx: &InferCx<'a>, i: usize, dtype: DType, rank: usize) -> OpResult<&'a [Dim]> {
    let ty = cx.ty(i)?;
    match ty.shape.dims() {
        Some(dims) if dims.len() == rank && ty.dtype == dtype => Ok(dims),
        _ => Err(OpError::new(format!("input {i} is {ty}: must be {dtype} of rank {rank}"))),
    }
}

/// Checks that a size, where it is known, is `want`.
fn expect(what: &str, found: &Dim, want: usize) -> OpResult {
    match found.fixed() {
        Some(n) if n != want => Err(OpError::new(format!("{what} is {n}, must be {want}"))),
        _ => Ok(()),
    }
}

fn f32_of(dims: Vec<Dim>) -> Vec<ValueType> {
    vec![ValueType::new(DType::F32, dims)]
}

/// The sequence of each row, `None` for padding. Fails where one is not below `sequences`.
fn sequences(
    inputs: &Inputs<'_>,
    i: usize,
    sequences: usize,
) -> OpResult<impl Iterator<Item = Option<usize>>> {
    let rows = inputs.slice::<i32>(i)?;
    match rows.iter().find(|s| **s >= sequences as i32) {
        Some(s) => Err(OpError::new(format!("sequence {s} of {sequences}"))),
        None => Ok(rows.iter().map(|s| usize::try_from(*s).ok())),
    }
}
