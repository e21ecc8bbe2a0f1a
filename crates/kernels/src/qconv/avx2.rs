//! Tiles with AVX2: `vpmaddwd` on 16-bit pairs, which cannot overflow here
//! (`vpmaddubsw` would saturate).

use std::arch::x86_64::*;

use super::micro::{Element, Micro, Tile, dispatch};

// 12 accumulators, two vectors of weights, a row and a product fill the 16 registers.
pub(super) const MICRO: Micro = Micro {
    element: Element::Wide,
    lanes: 8,
    depth_step: 2,
    most_rows: &[6, 6],
    flips: false,
    lines: false,
    seconds: false,
    run,
};

#[target_feature(enable = "avx2")]
unsafe fn run(shape: (usize, usize), args: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(shape, tile(args), { 1: [1 2 3 4 5 6] 2: [1 2 3 4 5 6] }) }
}

#[target_feature(enable = "avx2")]
unsafe fn tile<const VECTORS: usize, const ROWS: usize>(args: &Tile) {
    // SAFETY: operands are as `Tile` says.
    unsafe {
        let mut acc = [[_mm256_setzero_si256(); VECTORS]; ROWS];
        for vector in 0..VECTORS {
            let start = _mm256_loadu_si256(args.start.add(8 * vector).cast());
            for acc in &mut acc {
                acc[vector] = start;
            }
        }
        let mut a = args.a;
        let mut b = args.b;
        for _ in 0..args.steps {
            let mut weights = [_mm256_setzero_si256(); VECTORS];
            for (vector, weights) in weights.iter_mut().enumerate() {
                *weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(16 * vector).cast()));
            }
            for (row, acc) in acc.iter_mut().enumerate() {
                let pair = a.add(row * args.a_stride).cast::<i32>().read_unaligned();
                let pair = _mm256_set1_epi32(pair);
                for (acc, weights) in acc.iter_mut().zip(weights) {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pair, weights));
                }
            }
            a = a.add(4);
            b = b.add(16 * VECTORS);
        }
        for (row, acc) in acc.iter().enumerate() {
            for (vector, &acc) in acc.iter().enumerate() {
                _mm256_storeu_si256(args.out.add(8 * (row * VECTORS + vector)).cast(), acc);
            }
        }
    }
}
