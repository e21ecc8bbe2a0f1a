//! Loops of Advanced SIMD and its extensions.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use crate::isa::{Bf16, Neon, NeonDot, NeonI8mm};

/// `smull`, `smlal`, `sadalp`: two products are summed in 16 bits, as they can be where no two are
/// (−128)², then four in 32.
pub(super) fn int8(_: Neon, rounds: u32) -> u64 {
    // SAFETY: every aarch64 CPU has these instructions.
    unsafe {
        let one = vdupq_n_s8(black_box(1));
        let mut sums = [vdupq_n_s32(0); 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                let x = anew(one);
                let pairs = vmull_s8(vget_low_s8(x), vget_low_s8(one));
                *sum = vpadalq_s16(*sum, vmlal_high_s8(pairs, x, one));
            }
        }
        sums.into_iter().map(|sum| lanes(sum)).sum()
    }
}

/// `$name(token, rounds)`: 24 sums, each added to by one instruction.
macro_rules! sums {
    (
        $(#[$doc:meta])*
        $name:ident($token:ty, $features:literal), $instruction:literal,
        $zero:expr, $ones:expr, $lanes:ident
    ) => {
        $(#[$doc])*
        pub(super) fn $name(_: $token, rounds: u32) -> u64 {
            #[inline(never)]
            #[target_feature(enable = $features)]
            fn run(rounds: u32) -> u64 {
                let one = $ones;
                let mut sums = [$zero; 24];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        // SAFETY: arithmetic on registers, and the CPU has the instruction.
                        unsafe {
                            asm!(
                                $instruction,
                                sum = inout(vreg) *sum,
                                one = in(vreg) one,
                                options(pure, nomem, nostack, preserves_flags)
                            );
                        }
                    }
                }
                sums.into_iter().map(|sum| $lanes(sum)).sum()
            }
            // SAFETY: the token proves the features.
            unsafe { run(rounds) }
        }
    };
}

sums! {
    /// `sdot`.
    int8_dot(NeonDot, "neon,dotprod"), "sdot {sum:v}.4s, {one:v}.16b, {one:v}.16b",
    vdupq_n_s32(0), vdupq_n_s8(black_box(1)), lanes
}

sums! {
    /// `smmla`.
    int8_i8mm(NeonI8mm, "neon,i8mm"), "smmla {sum:v}.4s, {one:v}.16b, {one:v}.16b",
    vdupq_n_s32(0), vdupq_n_s8(black_box(1)), lanes
}

sums! {
    /// `bfmmla`.
    bf16(Bf16, "neon,bf16"), "bfmmla {sum:v}.4s, {one:v}.8h, {one:v}.8h",
    // Ones, by their bits.
    vdupq_n_f32(0.0), vdupq_n_u16(black_box(0x3f80)), float_lanes
}

/// The same vector, of which the compiler does not know that: what is computed of it stays in the
/// loop.
#[inline(always)]
fn anew(mut x: int8x16_t) -> int8x16_t {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0:v} */", inout(vreg) x, options(nomem, nostack, preserves_flags)) };
    x
}

fn lanes(x: int32x4_t) -> u64 {
    // SAFETY: any bits are integers.
    let lanes: [u32; 4] = unsafe { std::mem::transmute(x) };
    lanes.into_iter().map(u64::from).sum()
}

fn float_lanes(x: float32x4_t) -> u64 {
    // SAFETY: any bits are floats.
    let lanes: [f32; 4] = unsafe { std::mem::transmute(x) };
    lanes.into_iter().map(|x| x as u64).sum()
}
