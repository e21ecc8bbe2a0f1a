//! Kernels for ops on quantised integers, mostly of 8 bits.

mod binary;
mod conv;
mod elementwise;
mod hybrid;
mod image;
mod lstm;
mod resize;
mod sums;
mod svdf;
mod transposed;
mod wide;

use super::{Family, LowerCx};
use crate::kernel::{Io, Lowered};
use kinglet_graph::ops::quantized::{Clamp, Factors};
use kinglet_graph::{DType, OpError, OpResult, TensorView, ValueType};
use kinglet_kernels::requant::{Byte, ByteOutput, Rescale};
use std::ops::Range;

const FAMILIES: &[Family] = &[
    conv::lower_conv,
    conv::lower_matmul,
    wide::lower_conv,
    wide::lower_matmul,
    transposed::lower,
    hybrid::lower_conv,
    hybrid::lower_matmul,
    svdf::lower,
    lstm::lower,
    resize::lower,
    binary::lower,
    elementwise::lower_unary,
    elementwise::lower_quantize,
    elementwise::lower_dequantize,
    image::lower_pool,
    image::lower_mean,
    image::lower_softmax,
];

/// The first of these families that has a kernel.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    for family in FAMILIES {
        if let Some(lowered) = family(cx)? {
            return Ok(Some(lowered));
        }
    }
    Ok(None)
}

/// The kernels' name for an 8-bit element type.
fn byte(dtype: DType) -> Option<Byte> {
    match dtype {
        DType::I8 => Some(Byte::Signed),
        DType::U8 => Some(Byte::Unsigned),
        _ => None,
    }
}

/// Type, scale and zero point of a value of bytes with one scale and a zero point that its type
/// holds.
fn byte_value(value: &ValueType) -> Option<(Byte, f32, i32)> {
    let kind = byte(value.dtype)?;
    let (scale, zero_point) = value.quant.as_ref()?.single()?;
    let (low, high) = kind.limits();
    (scale.is_finite() && (low..=high).contains(&zero_point)).then_some((kind, scale, zero_point))
}

/// What the kernels write for an output of bytes; `None` where the clamp leaves the type.
fn byte_output(value: &ValueType, clamp: Clamp) -> Option<ByteOutput> {
    let (kind, _, zero_point) = byte_value(value)?;
    let (low, high) = kind.limits();
    let (min, max) = (clamp.low.max(low), clamp.high.min(high));
    (min <= max).then_some(ByteOutput { kind, zero_point, min, max })
}

/// The kernels' form of factors; `None` where one is not finite or there are none.
fn rescale(factors: Factors) -> Option<Rescale> {
    match factors {
        Factors::Fixed(all) => Some(Rescale::Fixed(all)),
        Factors::FixedOnce(all) => Some(Rescale::FixedOnce(all)),
        Factors::Float(all) => all.iter().all(|f| f.is_finite()).then_some(Rescale::Float(all)),
        Factors::None => None,
    }
}

/// The bytes of input `i`, which must be there.
fn input_bytes<'a>(io: &Io<'a>, i: usize) -> OpResult<&'a [u8]> {
    bytes_of(io.inputs, i)
}

/// The bytes of number `i` of a step's inputs, which must be there.
fn bytes_of<'a>(inputs: &[Option<TensorView<'a>>], i: usize) -> OpResult<&'a [u8]> {
    match inputs.get(i).copied().flatten() {
        Some(view) => Ok(view.bytes),
        None => Err(OpError::new(format!("input {i} is missing"))),
    }
}

/// Part `i` of `0..total` split into `parts` nearly equal ranges.
fn part(total: usize, parts: usize, i: usize) -> Range<usize> {
    total * i / parts..total * (i + 1) / parts
}

/// Into how many tasks to split work of `total` units and `cost` (multiply-adds, or as much work
/// as that) for `threads` threads: several for each, so that one thread's delay is shared out, but
/// none of less than a few microseconds.
fn tasks(total: usize, cost: usize, threads: usize) -> usize {
    const LEAST: usize = 500_000;
    if threads <= 1 {
        return 1;
    }
    (cost / LEAST).clamp(1, 4 * threads).min(total.max(1))
}
