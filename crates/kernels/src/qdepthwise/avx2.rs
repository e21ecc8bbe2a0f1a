//! Units with AVX2: `vpmaddwd` on pairs of taps.

use std::arch::x86_64::*;

use super::{BLOCK, Strip, UNIT};
use crate::requant::Byte;

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
unsafe fn unit_of<const SIGNED: bool, const WHOLE: bool>(strip: Strip) {
    // SAFETY: a tap points at all channels of a pixel; a partial unit is copied first.
    unsafe {
        let load = |tap: *const u8| {
            let tap = tap.add(strip.channel);
            let bytes = if WHOLE {
                _mm_loadu_si128(tap.cast())
            } else {
                let mut buffer = [0u8; UNIT];
                tap.copy_to_nonoverlapping(buffer.as_mut_ptr(), strip.channels);
                _mm_loadu_si128(buffer.as_ptr().cast())
            };
            if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) }
        };
        let start = strip.start.as_ptr();
        let first = _mm256_loadu_si256(start.cast());
        let second = _mm256_loadu_si256(start.add(8).cast());
        // Accumulators in the order of unpacked channels: 0-3 and 8-11, 4-7 and 12-15.
        let start = (
            _mm256_permute2x128_si256::<0x20>(first, second),
            _mm256_permute2x128_si256::<0x31>(first, second),
        );
        let pixels = strip.taps.chunks_exact(strip.taps_per_pixel);
        for (taps, out) in pixels.zip(strip.acc.chunks_mut(BLOCK)) {
            let (mut low, mut high) = start;
            for (pair, weights) in taps.chunks(2).zip(strip.weights.chunks_exact(4 * UNIT)) {
                let a = load(pair[0]);
                // An odd last tap pairs with itself; its second weight is zero.
                let b = if pair.len() == 2 { load(pair[1]) } else { a };
                let weights = weights.as_ptr().cast::<__m256i>();
                let product =
                    _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_loadu_si256(weights));
                low = _mm256_add_epi32(low, product);
                let product = _mm256_madd_epi16(
                    _mm256_unpackhi_epi16(a, b),
                    _mm256_loadu_si256(weights.add(1)),
                );
                high = _mm256_add_epi32(high, product);
            }
            let out = &mut out[..UNIT];
            let first = _mm256_permute2x128_si256::<0x20>(low, high);
            let second = _mm256_permute2x128_si256::<0x31>(low, high);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), first);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), second);
        }
    }
}
