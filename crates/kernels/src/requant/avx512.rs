//! Requantisation with AVX-512.

use std::arch::x86_64::*;

use super::{Byte, ByteOutput, FixedFactors, Tile};

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; `tile` is checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn fixed(factors: &FixedFactors, output: &ByteOutput, first: usize, tile: Tile) {
    // SAFETY: the factors are padded to whole vectors beyond the tile's channels.
    unsafe {
        if factors.general {
            rows(output, tile, |column, x| fixed_steps::<true>(factors, first + column, x));
        } else {
            rows(output, tile, |column, x| fixed_steps::<false>(factors, first + column, x));
        }
    }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; `tile` is checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn float(scales: &[f32], output: &ByteOutput, first: usize, tile: Tile) {
    let low = _mm512_set1_ps((output.min - output.zero_point) as f32);
    let high = _mm512_set1_ps((output.max - output.zero_point) as f32);
    // SAFETY: the scales are padded to whole vectors beyond the tile's channels.
    unsafe {
        rows(output, tile, |column, x| {
            let scale = _mm512_loadu_ps(scales.as_ptr().add(first + column));
            let steps = _mm512_mul_ps(_mm512_cvtepi32_ps(x), scale);
            _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(steps, low), high))
        });
    }
}

/// The rounded products of 16 accumulators of the channels from `channel` on; see
/// [`FixedFactors`].
///
/// # Safety
/// The CPU has AVX-512 F; the factors cover the channels, and one more.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn fixed_steps<const GENERAL: bool>(
    factors: &FixedFactors,
    channel: usize,
    mut x: __m512i,
) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let mantissa = factors.mantissa.as_ptr().add(channel);
        let round = factors.round.as_ptr().add(channel);
        if GENERAL {
            x = _mm512_sllv_epi32(x, load(factors.left.as_ptr().add(channel)));
        }
        let mut sign = _mm512_srai_epi32::<31>(x);
        if GENERAL {
            sign = _mm512_and_si512(sign, load(factors.sign.as_ptr().add(channel)));
        }
        let twice = _mm512_add_epi32(x, x);
        // Loaded one further on, the odd channels' mantissas lie in the even lanes.
        let even = _mm512_mul_epi32(twice, load(mantissa));
        let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(twice), load(mantissa.add(1)));
        let even = _mm512_add_epi64(even, _mm512_loadu_si512(round.cast()));
        let odd = _mm512_add_epi64(odd, _mm512_loadu_si512(round.add(8).cast()));
        let high = _mm512_mask_shuffle_epi32::<0xf5>(odd, 0x5555, even);
        let shift = load(factors.shift.as_ptr().add(channel));
        _mm512_srav_epi32(_mm512_add_epi32(high, sign), shift)
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const i32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// Adds the zero point, clamps and stores; `steps(column, accumulators)` rescales 16 values.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; `tile` is checked.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows(output: &ByteOutput, tile: Tile, steps: impl Fn(usize, __m512i) -> __m512i) {
    match output.kind {
        // SAFETY: the caller's promise.
        Byte::Signed => unsafe { rows_of::<true>(output, tile, steps) },
        // SAFETY: the caller's promise.
        Byte::Unsigned => unsafe { rows_of::<false>(output, tile, steps) },
    }
}

/// # Safety
/// As [`rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows_of<const SIGNED: bool>(
    output: &ByteOutput,
    tile: Tile,
    steps: impl Fn(usize, __m512i) -> __m512i,
) {
    let zero = _mm512_set1_epi16(output.zero_point as i16);
    let min = _mm512_set1_epi8(output.min as i8);
    let max = _mm512_set1_epi8(output.max as i8);
    // Packing interleaves 128-bit lanes: dword 4 l + v of the result belongs at 4 v + l.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for row in 0..tile.rows {
        // SAFETY: `tile` is checked; masks keep the last loads and stores within the row.
        unsafe {
            let acc = tile.acc.add(row * tile.acc_stride);
            let out = tile.out.add(row * tile.out_stride);
            let mut column = 0;
            while column < tile.columns {
                let left = tile.columns - column;
                let at = |vector: usize| {
                    let c = column + 16 * vector;
                    if left >= 16 * (vector + 1) {
                        steps(c, load(acc.add(c)))
                    } else if left > 16 * vector {
                        let mask = ((1u32 << (left - 16 * vector)) - 1) as __mmask16;
                        steps(c, _mm512_maskz_loadu_epi32(mask, acc.add(c)))
                    } else {
                        _mm512_setzero_si512()
                    }
                };
                let low = _mm512_adds_epi16(_mm512_packs_epi32(at(0), at(1)), zero);
                let high = if left > 32 {
                    _mm512_adds_epi16(_mm512_packs_epi32(at(2), at(3)), zero)
                } else {
                    low
                };
                let bytes = if SIGNED {
                    let bytes = _mm512_packs_epi16(low, high);
                    _mm512_min_epi8(_mm512_max_epi8(bytes, min), max)
                } else {
                    let bytes = _mm512_packus_epi16(low, high);
                    _mm512_min_epu8(_mm512_max_epu8(bytes, min), max)
                };
                let bytes = _mm512_permutexvar_epi32(order, bytes);
                let mask = if left >= 64 { u64::MAX } else { (1u64 << left) - 1 };
                _mm512_mask_storeu_epi8(out.add(column).cast(), mask, bytes);
                column += 64;
            }
        }
    }
}
