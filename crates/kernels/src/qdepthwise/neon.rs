//! Units with NEON: widening multiply-adds.

use std::arch::aarch64::*;

use super::{BLOCK, Strip, UNIT};
use crate::requant::Byte;

/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn unit(strip: Strip, kind: Byte) {
    // SAFETY: the caller's promise.
    unsafe {
        match (kind, strip.channels == UNIT) {
            (Byte::Signed, true) => unit_of::<true, true>(strip),
            (Byte::Signed, false) => unit_of::<true, false>(strip),
            (Byte::Unsigned, true) => unit_of::<false, true>(strip),
            (Byte::Unsigned, false) => unit_of::<false, false>(strip),
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn unit_of<const SIGNED: bool, const WHOLE: bool>(strip: Strip) {
    // SAFETY: a tap points at all channels of a pixel; a partial unit is copied first.
    unsafe {
        let load = |tap: *const u8| {
            let tap = tap.add(strip.channel);
            let bytes = if WHOLE {
                vld1q_u8(tap)
            } else {
                let mut buffer = [0u8; UNIT];
                tap.copy_to_nonoverlapping(buffer.as_mut_ptr(), strip.channels);
                vld1q_u8(buffer.as_ptr())
            };
            if SIGNED {
                let bytes = vreinterpretq_s8_u8(bytes);
                [vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)]
            } else {
                [vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes)]
                    .map(|words| vreinterpretq_s16_u16(words))
            }
        };
        let start = strip.start.as_ptr();
        let start = [0, 4, 8, 12].map(|i| vld1q_s32(start.add(i)));
        let pixels = strip.taps.chunks_exact(strip.taps_per_pixel);
        for (taps, out) in pixels.zip(strip.acc.chunks_mut(BLOCK)) {
            let mut acc = start;
            for (&tap, weights) in taps.iter().zip(strip.weights.chunks_exact(2 * UNIT)) {
                let values = load(tap);
                let weights = weights.as_ptr().cast::<i16>();
                for (half, values) in values.into_iter().enumerate() {
                    let weights = vld1q_s16(weights.add(8 * half));
                    let (low, high) = (2 * half, 2 * half + 1);
                    acc[low] = vmlal_s16(acc[low], vget_low_s16(values), vget_low_s16(weights));
                    acc[high] = vmlal_high_s16(acc[high], values, weights);
                }
            }
            let out = &mut out[..UNIT];
            for (i, acc) in acc.into_iter().enumerate() {
                vst1q_s32(out.as_mut_ptr().add(4 * i), acc);
            }
        }
    }
}
