//! Tiles with AVX-512 VNNI: dot products of four unsigned with four signed bytes.

use std::arch::x86_64::*;

use super::micro::{Element, Micro, Tile, dispatch};

// 24 accumulators, the weights of a step and one broadcast row fill the 32 registers.
pub(super) const MICRO: Micro = Micro {
    element: Element::Unsigned,
    lanes: 16,
    depth_step: 4,
    most_rows: &[12, 12, 8, 6],
    flips: true,
    lines: true,
    seconds: true,
    run,
};

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn run(shape: (usize, usize), args: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        dispatch!(shape, tile(args), {
            1: [1 2 3 4 5 6 7 8 9 10 11 12]
            2: [1 2 3 4 5 6 7 8 9 10 11 12]
            3: [1 2 3 4 5 6 7 8]
            4: [1 2 3 4 5 6]
        })
    }
}

/// Adds the products of a step: four bytes of each row, `stride` apart, by the weights at `b`.
///
/// # Safety
/// The CPU has AVX-512 F and VNNI; the operands are as [`Tile`] says.
#[inline(always)]
unsafe fn step<const VECTORS: usize, const ROWS: usize>(
    acc: &mut [[__m512i; VECTORS]; ROWS],
    (a, stride): (*const u8, usize),
    flip: __m512i,
    b: *const i8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut weights = [_mm512_setzero_si512(); VECTORS];
        for (vector, weights) in weights.iter_mut().enumerate() {
            *weights = _mm512_loadu_si512(b.add(64 * vector).cast());
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            let bytes = a.add(row * stride).cast::<i32>().read_unaligned();
            let bytes = _mm512_xor_si512(_mm512_set1_epi32(bytes), flip);
            for (acc, weights) in acc.iter_mut().zip(weights) {
                *acc = _mm512_dpbusd_epi32(*acc, bytes, weights);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile<const VECTORS: usize, const ROWS: usize>(args: &Tile) {
    // SAFETY: operands are as `Tile` says.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for vector in 0..VECTORS {
            let start = _mm512_loadu_si512(args.start.add(16 * vector).cast());
            for acc in &mut acc {
                acc[vector] = start;
            }
        }
        let flip = _mm512_set1_epi8(args.flip as i8);
        let mut b = args.b;
        for segment in 0..args.segments.0 {
            let mut a = args.a.add(segment * args.segments.1);
            for _ in 0..args.steps {
                step(&mut acc, (a, args.a_stride), flip, b);
                a = a.add(4);
                b = b.add(64 * VECTORS);
            }
        }
        for second in args.seconds {
            let a = args.a.add(second.segment * args.segments.1 + second.at);
            step(&mut acc, (a, args.a_stride), flip, b);
            b = b.add(64 * VECTORS);
        }
        for (row, acc) in acc.iter().enumerate() {
            for (vector, &acc) in acc.iter().enumerate() {
                _mm512_storeu_si512(args.out.add(16 * (row * VECTORS + vector)).cast(), acc);
            }
        }
    }
}
