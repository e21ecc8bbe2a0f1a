//! Units with AVX-512 VNNI: four taps of sixteen channels side by side in a vector, one byte
//! shuffle to bring each channel's taps together, one dot product.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{BLOCK, Strip, UNIT};
use crate::qconv::ConvShape;
use crate::window::Lines;

/// Byte `4 c + t` of the result is byte `16 t + c`.
#[target_feature(enable = "avx512f")]
#[inline]
fn interleave() -> __m512i {
    let first = _mm512_set1_epi32(0x3020_1000);
    let channel = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_add_epi32(first, _mm512_mullo_epi32(channel, _mm512_set1_epi32(0x0101_0101)))
}

/// Sixteen bytes, or as many as `mask` has, in all four quarters of a vector.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; the bytes are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<const WHOLE: bool>(from: *const u8, mask: __mmask16) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if WHOLE {
            _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast()))
        } else {
            _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8(mask, from.cast()))
        }
    }
}

/// # Safety
/// The CPU has AVX-512 F, BW, VL, VBMI and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn unit(strip: Strip, flip: u8) {
    // SAFETY: the caller's promise.
    unsafe {
        match (strip.halves, strip.channels == UNIT) {
            (false, true) => unit_of::<false, true>(strip, flip),
            (false, false) => unit_of::<false, false>(strip, flip),
            (true, true) => unit_of::<true, true>(strip, flip),
            (true, false) => unit_of::<true, false>(strip, flip),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn unit_of<const HALVES: bool, const WHOLE: bool>(strip: Strip, flip: u8) {
    let mask = ((1u32 << strip.channels) - 1) as __mmask16;
    let (flip, order) = (_mm512_set1_epi8(flip as i8), interleave());
    let group_bytes = if HALVES { 128 } else { 64 };
    let pixels = strip.taps.chunks_exact(strip.taps_per_pixel);
    // SAFETY: a tap points at all channels of a pixel; masks keep a partial unit inside.
    unsafe {
        let start = _mm512_loadu_si512(strip.start.as_ptr().cast());
        for (taps, out) in pixels.zip(strip.acc.chunks_mut(BLOCK)) {
            let mut acc = start;
            for (group, weights) in taps.chunks(4).zip(strip.weights.chunks_exact(group_bytes)) {
                let at = |i: usize| load::<WHOLE>(group[i].add(strip.channel), mask);
                // Taps that a last group lacks have zero weights.
                let mut bytes = at(0);
                if group.len() > 1 {
                    bytes = _mm512_mask_mov_epi32(bytes, 0x00f0, at(1));
                }
                if group.len() > 2 {
                    bytes = _mm512_mask_mov_epi32(bytes, 0x0f00, at(2));
                }
                if group.len() > 3 {
                    bytes = _mm512_mask_mov_epi32(bytes, 0xf000, at(3));
                }
                let bytes = _mm512_permutexvar_epi8(order, _mm512_xor_si512(bytes, flip));
                let weights = weights.as_ptr();
                acc = _mm512_dpbusd_epi32(acc, bytes, _mm512_loadu_si512(weights.cast()));
                if HALVES {
                    let second = _mm512_loadu_si512(weights.add(64).cast());
                    acc = _mm512_dpbusd_epi32(acc, bytes, second);
                }
            }
            _mm512_storeu_si512(out[..UNIT].as_mut_ptr().cast(), acc);
        }
    }
}

/// One unit of a 3 x 3 kernel.
pub(super) struct Square<'a> {
    /// The unit's first channel, and how many it has.
    pub(super) channel: (usize, usize),
    pub(super) weights: &'a [u8],
    pub(super) start: &'a [i32],
    pub(super) flip: u8,
    /// A pixel of the input's zero points.
    pub(super) zeros: &'a [u8],
}

/// A strip of a 3 x 3 kernel with a horizontal step of 1 or 2: `xs` of line `line`, accumulators
/// to rows of [`BLOCK`].
///
/// # Safety
/// The CPU has AVX-512 F, BW, VL, VBMI and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn square(
    shape: &ConvShape,
    halves: bool,
    line: usize,
    xs: Range<usize>,
    input: Lines<&[u8]>,
    args: &Square,
    acc: &mut [i32],
) {
    let whole = args.channel.1 == UNIT;
    // SAFETY: the caller's promise.
    unsafe {
        match (halves, whole) {
            (false, true) => square_of::<false, true>(shape, line, xs, input, args, acc),
            (false, false) => square_of::<false, false>(shape, line, xs, input, args, acc),
            (true, true) => square_of::<true, true>(shape, line, xs, input, args, acc),
            (true, false) => square_of::<true, false>(shape, line, xs, input, args, acc),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn square_of<const HALVES: bool, const WHOLE: bool>(
    shape: &ConvShape,
    line: usize,
    xs: Range<usize>,
    input: Lines<&[u8]>,
    args: &Square,
    acc: &mut [i32],
) {
    assert!(args.weights.len() >= 192 * (1 + usize::from(HALVES)) && args.start.len() >= UNIT);
    assert!(acc.len() >= (xs.len() - 1) * BLOCK + UNIT);
    let (image, oy) = (line / shape.output[0], line % shape.output[0]);
    let channels = shape.in_channels;
    let width = shape.input[1];
    // Each row of taps: its first pixel, and the step between pixels (none where it is outside).
    let rows = [0, 1, 2].map(|ky| {
        let y = (oy * shape.stride[0] + ky).wrapping_sub(shape.pad[0]);
        if y < shape.input[0] {
            let line = image * shape.input[0] + y - input.first;
            let row = &input.data[line * width * channels..][..width * channels];
            (row[args.channel.0..].as_ptr(), channels)
        } else {
            (args.zeros[..UNIT].as_ptr(), 0)
        }
    });
    let mask = ((1u32 << args.channel.1) - 1) as __mmask16;
    let (flip, order) = (_mm512_set1_epi8(args.flip as i8), interleave());
    let outside = _mm512_xor_si512(_mm512_set1_epi8(args.zeros[0] as i8), flip);
    // SAFETY: rows hold `width` pixels; masks keep a partial unit inside. Weights, first values
    // and accumulators were checked above.
    unsafe {
        let column = |x: usize| {
            if x >= width {
                return outside;
            }
            let at = |(row, step): (*const u8, usize)| load::<WHOLE>(row.add(x * step), mask);
            let bytes = _mm512_mask_mov_epi32(at(rows[0]), 0x00f0, at(rows[1]));
            let bytes = _mm512_mask_mov_epi32(bytes, 0x0f00, at(rows[2]));
            _mm512_permutexvar_epi8(order, _mm512_xor_si512(bytes, flip))
        };
        let weights = |i: usize| _mm512_loadu_si512(args.weights.as_ptr().add(64 * i).cast());
        let start = _mm512_loadu_si512(args.start.as_ptr().cast());
        let (w0, w1, w2) = if HALVES {
            (weights(0), weights(2), weights(4))
        } else {
            (weights(0), weights(1), weights(2))
        };
        let out = acc.as_mut_ptr();
        let apply = |index: usize, a: __m512i, b: __m512i, c: __m512i| {
            let mut acc = _mm512_dpbusd_epi32(start, a, w0);
            acc = _mm512_dpbusd_epi32(acc, b, w1);
            acc = _mm512_dpbusd_epi32(acc, c, w2);
            if HALVES {
                acc = _mm512_dpbusd_epi32(acc, a, weights(1));
                acc = _mm512_dpbusd_epi32(acc, b, weights(3));
                acc = _mm512_dpbusd_epi32(acc, c, weights(5));
            }
            _mm512_storeu_si512(out.add(index * BLOCK).cast(), acc);
        };
        // Columns before the first wrap round to huge ones, which are outside too.
        let first = (xs.start * shape.stride[1]).wrapping_sub(shape.pad[1]);
        let count = xs.len();
        if shape.stride[1] == 1 {
            let (mut a, mut b) = (column(first), column(first.wrapping_add(1)));
            for index in 0..count {
                let c = column(first.wrapping_add(index + 2));
                apply(index, a, b, c);
                (a, b) = (b, c);
            }
        } else {
            let mut a = column(first);
            for index in 0..count {
                let b = column(first.wrapping_add(2 * index + 1));
                let c = column(first.wrapping_add(2 * index + 2));
                apply(index, a, b, c);
                a = c;
            }
        }
    }
}
