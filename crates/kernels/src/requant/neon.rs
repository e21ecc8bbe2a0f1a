//! Requantisation with NEON.

use std::arch::aarch64::*;

use super::{Byte, ByteOutput, FixedFactors, Tile};

/// # Safety
/// `tile` is checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn fixed(factors: &FixedFactors, output: &ByteOutput, first: usize, tile: Tile) {
    // SAFETY: the factors are padded to whole vectors beyond the tile's channels.
    unsafe {
        rows(output, tile, |column, x| {
            let channel = first + column;
            let at = |values: &[i32]| vld1q_s32(values.as_ptr().add(channel));
            let x = vshlq_s32(x, at(&factors.left));
            if factors.once {
                let right = vaddq_s32(at(&factors.shift), vdupq_n_s32(31));
                return round_once(x, at(&factors.mantissa), right);
            }
            let high = vqrdmulhq_s32(x, at(&factors.mantissa));
            // The rounding shift rounds ties up; take one off negative values to round them away
            // from zero, where there is a shift.
            let sign = vandq_s32(vshrq_n_s32::<31>(high), at(&factors.sign));
            vrshlq_s32(vaddq_s32(high, sign), vnegq_s32(at(&factors.shift)))
        });
    }
}

/// `x * mantissa / 2^right`, rounded once, halves up.
#[inline]
#[target_feature(enable = "neon")]
fn round_once(x: int32x4_t, mantissa: int32x4_t, right: int32x4_t) -> int32x4_t {
    let left = vnegq_s32(right);
    let low = vmull_s32(vget_low_s32(x), vget_low_s32(mantissa));
    let high = vmull_high_s32(x, mantissa);
    let low = vrshlq_s64(low, vmovl_s32(vget_low_s32(left)));
    let high = vrshlq_s64(high, vmovl_high_s32(left));
    vcombine_s32(vmovn_s64(low), vmovn_s64(high))
}

/// # Safety
/// `tile` is checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn float(scales: &[f32], output: &ByteOutput, first: usize, tile: Tile) {
    let low = vdupq_n_f32((output.min - output.zero_point) as f32);
    let high = vdupq_n_f32((output.max - output.zero_point) as f32);
    // SAFETY: the scales are padded to whole vectors beyond the tile's channels.
    unsafe {
        rows(output, tile, |column, x| {
            let scale = vld1q_f32(scales.as_ptr().add(first + column));
            let steps = vmulq_f32(vcvtq_f32_s32(x), scale);
            vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(steps, low), high))
        });
    }
}

/// Adds the zero point, clamps and stores; `steps(column, accumulators)` rescales 4 values.
///
/// # Safety
/// `tile` is checked.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn rows(output: &ByteOutput, tile: Tile, steps: impl Fn(usize, int32x4_t) -> int32x4_t) {
    let zero = vdupq_n_s16(output.zero_point as i16);
    let min = vdupq_n_s16(output.min as i16);
    let max = vdupq_n_s16(output.max as i16);
    for row in 0..tile.rows {
        // SAFETY: `tile` is checked; a partial vector goes through a buffer.
        unsafe {
            let acc = tile.acc.add(row * tile.acc_stride);
            let out = tile.out.add(row * tile.out_stride);
            let mut column = 0;
            while column < tile.columns {
                let left = tile.columns - column;
                let mut acc = acc.add(column);
                let mut buffer = [0i32; 8];
                if left < 8 {
                    acc.copy_to_nonoverlapping(buffer.as_mut_ptr(), left);
                    acc = buffer.as_ptr();
                }
                let low = steps(column, vld1q_s32(acc));
                let high = steps(column + 4, vld1q_s32(acc.add(4)));
                let words = vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
                let words = vminq_s16(vmaxq_s16(vqaddq_s16(words, zero), min), max);
                let bytes = match output.kind {
                    Byte::Signed => vreinterpret_u8_s8(vqmovn_s16(words)),
                    Byte::Unsigned => vqmovun_s16(words),
                };
                if left >= 8 {
                    vst1_u8(out.add(column), bytes);
                } else {
                    let mut buffer = [0u8; 8];
                    vst1_u8(buffer.as_mut_ptr(), bytes);
                    buffer.as_ptr().copy_to_nonoverlapping(out.add(column), left);
                }
                column += 8;
            }
        }
    }
}
