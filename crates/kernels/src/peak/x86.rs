//! Loops of AVX2 and AVX-512.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

use crate::isa::{Avx2, Avx512, Avx512Vnni, Bf16};

/// `$name(token, rounds)`: `$chains` sums of vectors, added to as `$add` says, in a function with
/// the features.
macro_rules! sums {
    (
        $(#[$doc:meta])*
        $name:ident($token:ty, $features:literal), $chains:literal of $zero:ident, ones $ones:expr,
        |$sum:ident, $one:ident| $add:expr, $lanes:ident
    ) => {
        $(#[$doc])*
        pub(super) fn $name(_: $token, rounds: u32) -> u64 {
            #[inline(never)]
            #[target_feature(enable = $features)]
            fn run(rounds: u32) -> u64 {
                let $one = $ones;
                let mut sums = [$zero(); $chains];
                for _ in 0..rounds {
                    for $sum in &mut sums {
                        *$sum = $add;
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
    /// `vpmaddubsw`, `vpmaddwd`, `vpaddd` on 256 bits.
    int8_avx2(Avx2, "avx2"), 10 of _mm256_setzero_si256,
    ones _mm256_set1_epi8(black_box(1)),
    |sum, one| {
        let pairs = _mm256_maddubs_epi16(anew_256(one), one);
        _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    },
    lanes_256
}

sums! {
    /// The same on 512 bits.
    int8_avx512(Avx512, "avx512f,avx512bw"), 24 of _mm512_setzero_si512,
    ones _mm512_set1_epi8(black_box(1)),
    |sum, one| {
        let pairs = _mm512_maddubs_epi16(anew_512(one), one);
        _mm512_add_epi32(*sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    },
    lanes_512
}

sums! {
    /// `vpdpbusd` on 512 bits.
    int8_vnni(Avx512Vnni, "avx512f,avx512vnni"), 24 of _mm512_setzero_si512,
    ones _mm512_set1_epi8(black_box(1)),
    |sum, one| _mm512_dpbusd_epi32(*sum, one, one),
    lanes_512
}

sums! {
    /// `vdpbf16ps` on 512 bits.
    bf16(Bf16, "avx512f,avx512bf16"), 24 of _mm512_setzero_ps,
    // Ones, by their bits.
    ones brain_floats(_mm512_set1_epi16(black_box(0x3f80))),
    |sum, one| _mm512_dpbf16_ps(*sum, one, one),
    float_lanes_512
}

/// The same vector, of which the compiler does not know that: what is computed of it stays in the
/// loop.
#[inline]
#[target_feature(enable = "avx2")]
fn anew_256(mut x: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
    x
}

/// See [`anew_256`].
#[inline]
#[target_feature(enable = "avx512f")]
fn anew_512(mut x: __m512i) -> __m512i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(zmm_reg) x, options(nomem, nostack, preserves_flags)) };
    x
}

#[inline]
#[target_feature(enable = "avx512f")]
fn brain_floats(x: __m512i) -> __m512bh {
    // SAFETY: any bits are brain floats.
    unsafe { std::mem::transmute(x) }
}

fn lanes_256(x: __m256i) -> u64 {
    // SAFETY: any bits are integers.
    let lanes: [u32; 8] = unsafe { std::mem::transmute(x) };
    lanes.into_iter().map(u64::from).sum()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn lanes_512(x: __m512i) -> u64 {
    // SAFETY: any bits are integers.
    let lanes: [u32; 16] = unsafe { std::mem::transmute(x) };
    lanes.into_iter().map(u64::from).sum()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn float_lanes_512(x: __m512) -> u64 {
    // SAFETY: any bits are floats.
    let lanes: [f32; 16] = unsafe { std::mem::transmute(x) };
    lanes.into_iter().map(|x| x as u64).sum()
}
