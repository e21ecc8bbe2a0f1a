//! Tiles with NEON: widening multiply-adds everywhere, four-byte dot products where the CPU has
//! them.

use std::arch::aarch64::*;
use std::arch::asm;

use super::micro::{Element, Micro, Tile, dispatch};

/// For every aarch64 CPU.
pub(super) const WIDENING: Micro = Micro {
    element: Element::Wide,
    lanes: 8,
    depth_step: 1,
    most_rows: &[8],
    flips: false,
    lines: false,
    seconds: false,
    run: run_widening,
};

/// For CPUs with `dotprod`.
pub(super) const DOT: Micro = Micro {
    element: Element::Signed,
    lanes: 4,
    depth_step: 4,
    most_rows: &[8, 8, 8, 6],
    flips: false,
    lines: false,
    seconds: true,
    run: run_dot,
};

#[target_feature(enable = "neon")]
unsafe fn run_widening(shape: (usize, usize), args: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(shape, tile_widening(args), { 1: [1 2 3 4 5 6 7 8] }) }
}

#[target_feature(enable = "neon")]
unsafe fn tile_widening<const VECTORS: usize, const ROWS: usize>(args: &Tile) {
    // SAFETY: operands are as `Tile` says.
    unsafe {
        let start = [vld1q_s32(args.start), vld1q_s32(args.start.add(4))];
        let mut acc = [start; ROWS];
        let at = |row: usize, step: usize| args.a.add(row * args.a_stride).cast::<i16>().add(step);
        let mut step = 0;
        while step + 4 <= args.steps {
            let mut a = [vdup_n_s16(0); ROWS];
            for (row, a) in a.iter_mut().enumerate() {
                *a = vld1_s16(at(row, step));
            }
            let weights = [0, 8, 16, 24].map(|i| vmovl_s8(vld1_s8(args.b.add(8 * step + i))));
            for (acc, a) in acc.iter_mut().zip(a) {
                macro_rules! lane {
                    ($lane:literal) => {
                        let low = vget_low_s16(weights[$lane]);
                        acc[0] = vmlal_lane_s16::<$lane>(acc[0], low, a);
                        acc[1] = vmlal_high_lane_s16::<$lane>(acc[1], weights[$lane], a);
                    };
                }
                lane!(0);
                lane!(1);
                lane!(2);
                lane!(3);
            }
            step += 4;
        }
        while step < args.steps {
            let weights = vmovl_s8(vld1_s8(args.b.add(8 * step)));
            for (row, acc) in acc.iter_mut().enumerate() {
                let a = at(row, step).read_unaligned();
                acc[0] = vmlal_n_s16(acc[0], vget_low_s16(weights), a);
                acc[1] = vmlal_high_n_s16(acc[1], weights, a);
            }
            step += 1;
        }
        for (row, acc) in acc.iter().enumerate() {
            vst1q_s32(args.out.add(8 * row), acc[0]);
            vst1q_s32(args.out.add(8 * row + 4), acc[1]);
        }
    }
}

/// `acc` plus, in each lane, the dot product of that lane's four bytes of `b` with the four bytes
/// in lane `LANE` of `a`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: usize>(acc: int32x4_t, b: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: plain arithmetic on registers, and the CPU has the instruction.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            b = in(vreg) b,
            a = in(vreg) a,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn run_dot(shape: (usize, usize), args: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        dispatch!(shape, tile_dot(args), {
            1: [1 2 3 4 5 6 7 8]
            2: [1 2 3 4 5 6 7 8]
            3: [1 2 3 4 5 6 7 8]
            4: [1 2 3 4 5 6]
        })
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn tile_dot<const VECTORS: usize, const ROWS: usize>(args: &Tile) {
    // SAFETY: operands are as `Tile` says.
    unsafe {
        let mut start = [vdupq_n_s32(0); VECTORS];
        for (vector, start) in start.iter_mut().enumerate() {
            *start = vld1q_s32(args.start.add(4 * vector));
        }
        let mut acc = [start; ROWS];
        let load = |step: usize| {
            let mut weights = [vdupq_n_s8(0); VECTORS];
            for (vector, weights) in weights.iter_mut().enumerate() {
                *weights = vld1q_s8(args.b.add(16 * (step * VECTORS + vector)));
            }
            weights
        };
        let at = |row: usize, step: usize| args.a.add(row * args.a_stride + 4 * step);
        let mut step = 0;
        while step + 4 <= args.steps {
            let mut a = [vdupq_n_s8(0); ROWS];
            for (row, a) in a.iter_mut().enumerate() {
                *a = vld1q_s8(at(row, step).cast());
            }
            macro_rules! lane {
                ($lane:literal) => {
                    let weights = load(step + $lane);
                    for (acc, a) in acc.iter_mut().zip(a) {
                        for (acc, weights) in acc.iter_mut().zip(weights) {
                            *acc = dot::<$lane>(*acc, weights, a);
                        }
                    }
                };
            }
            lane!(0);
            lane!(1);
            lane!(2);
            lane!(3);
            step += 4;
        }
        let last = (step..args.steps).map(|step| 4 * step);
        for at in last.chain(args.seconds.iter().map(|second| second.at)) {
            let weights = load(step);
            for (row, acc) in acc.iter_mut().enumerate() {
                let a = args.a.add(row * args.a_stride + at).cast::<i32>().read_unaligned();
                let a = vreinterpretq_s8_s32(vdupq_n_s32(a));
                for (acc, weights) in acc.iter_mut().zip(weights) {
                    *acc = dot::<0>(*acc, weights, a);
                }
            }
            step += 1;
        }
        for (row, acc) in acc.iter().enumerate() {
            for (vector, &acc) in acc.iter().enumerate() {
                vst1q_s32(args.out.add(4 * (row * VECTORS + vector)), acc);
            }
        }
    }
}
