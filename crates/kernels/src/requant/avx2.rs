//! Requantisation with AVX2.

use std::arch::x86_64::*;

use super::{Byte, ByteOutput, FixedFactors, Tile};

/// # Safety
/// The CPU has AVX2; `tile` is checked.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn fixed(factors: &FixedFactors, output: &ByteOutput, first: usize, tile: Tile) {
    // SAFETY: the factors are padded to whole vectors beyond the tile's channels.
    unsafe {
        rows(output, tile, |column, x| fixed_steps(factors, first + column, x));
    }
}

/// # Safety
/// The CPU has AVX2; `tile` is checked.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn float(scales: &[f32], output: &ByteOutput, first: usize, tile: Tile) {
    let low = _mm256_set1_ps((output.min - output.zero_point) as f32);
    let high = _mm256_set1_ps((output.max - output.zero_point) as f32);
    // SAFETY: the scales are padded to whole vectors beyond the tile's channels.
    unsafe {
        rows(output, tile, |column, x| {
            let scale = _mm256_loadu_ps(scales.as_ptr().add(first + column));
            let steps = _mm256_mul_ps(_mm256_cvtepi32_ps(x), scale);
            _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(steps, low), high))
        });
    }
}

/// The rounded products of 8 accumulators of the channels from `channel` on; see
/// [`FixedFactors`].
///
/// # Safety
/// The CPU has AVX2; the factors cover the channels, and one more.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fixed_steps(factors: &FixedFactors, channel: usize, mut x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let mantissa = factors.mantissa.as_ptr().add(channel);
        let round = factors.round.as_ptr().add(channel);
        if factors.general {
            x = _mm256_sllv_epi32(x, load(factors.left.as_ptr().add(channel)));
        }
        let mut sign = _mm256_srai_epi32::<31>(x);
        if factors.general || factors.once {
            sign = _mm256_and_si256(sign, load(factors.sign.as_ptr().add(channel)));
        }
        let twice = _mm256_add_epi32(x, x);
        // Loaded one further on, the odd channels' mantissas lie in the even lanes.
        let even = _mm256_mul_epi32(twice, load(mantissa));
        let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(twice), load(mantissa.add(1)));
        let even = _mm256_add_epi64(even, load(round.cast()));
        let odd = _mm256_add_epi64(odd, load(round.add(4).cast()));
        let high = _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd);
        let shift = load(factors.shift.as_ptr().add(channel));
        _mm256_srav_epi32(_mm256_add_epi32(high, sign), shift)
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const i32) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// Adds the zero point, clamps and stores; `steps(column, accumulators)` rescales 8 values.
///
/// # Safety
/// The CPU has AVX2; `tile` is checked.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn rows(output: &ByteOutput, tile: Tile, steps: impl Fn(usize, __m256i) -> __m256i) {
    let zero = _mm256_set1_epi16(output.zero_point as i16);
    let min = _mm256_set1_epi16(output.min as i16);
    let max = _mm256_set1_epi16(output.max as i16);
    for row in 0..tile.rows {
        // SAFETY: `tile` is checked; a partial vector goes through a buffer.
        unsafe {
            let acc = tile.acc.add(row * tile.acc_stride);
            let out = tile.out.add(row * tile.out_stride);
            let mut column = 0;
            while column < tile.columns {
                let left = tile.columns - column;
                let mut acc = acc.add(column);
                let mut buffer = [0i32; 16];
                if left < 16 {
                    acc.copy_to_nonoverlapping(buffer.as_mut_ptr(), left);
                    acc = buffer.as_ptr();
                }
                let low = steps(column, load(acc));
                let high = if left > 8 { steps(column + 8, load(acc.add(8))) } else { low };
                let words = _mm256_adds_epi16(_mm256_packs_epi32(low, high), zero);
                let words = _mm256_min_epi16(_mm256_max_epi16(words, min), max);
                // Words are in the order of lanes: low 0-3, high 0-3, low 4-7, high 4-7.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                let (first, second) =
                    (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                let bytes = match output.kind {
                    Byte::Signed => _mm_packs_epi16(first, second),
                    Byte::Unsigned => _mm_packus_epi16(first, second),
                };
                if left >= 16 {
                    _mm_storeu_si128(out.add(column).cast(), bytes);
                } else {
                    let mut buffer = [0u8; 16];
                    _mm_storeu_si128(buffer.as_mut_ptr().cast(), bytes);
                    buffer.as_ptr().copy_to_nonoverlapping(out.add(column), left);
                }
                column += 16;
            }
        }
    }
}
