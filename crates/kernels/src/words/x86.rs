//! Words with AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::{Kernel, Words};
use crate::requant::Byte;

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn on_avx2(kernel: impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Y>() }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn on_avx512(kernel: impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Z>() }
}

/// Eight words.
#[derive(Clone, Copy)]
pub(super) struct Y(__m256i);

/// Sixteen words.
#[derive(Clone, Copy)]
pub(super) struct Z(__m512i);

macro_rules! binary {
    ($($name:ident $intrinsic:ident),*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            unsafe { Self($intrinsic(self.0, other.0)) }
        }
    )*};
}

// SAFETY: the methods keep to AVX2.
unsafe impl Words for Y {
    const N: usize = 8;
    binary!(
        add _mm256_add_epi32, sub _mm256_sub_epi32, mul _mm256_mullo_epi32,
        max _mm256_max_epi32, min _mm256_min_epi32, and _mm256_and_si256
    );
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, kind: Byte) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let bytes = _mm_loadl_epi64(from.cast());
            Self(match kind {
                Byte::Signed => _mm256_cvtepi8_epi32(bytes),
                Byte::Unsigned => _mm256_cvtepu8_epi32(bytes),
            })
        }
    }
    #[inline(always)]
    unsafe fn shift_left(self, by: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm256_sll_epi32(self.0, _mm_cvtsi32_si128(by))) }
    }
    #[inline(always)]
    unsafe fn shift_right(self, by: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm256_sra_epi32(self.0, _mm_cvtsi32_si128(by))) }
    }
    #[inline(always)]
    unsafe fn high_mul(self, other: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let round = _mm256_set1_epi64x(1 << 30);
            let upper = |x| _mm256_srli_epi64::<32>(x);
            let even = _mm256_add_epi64(_mm256_mul_epi32(self.0, other.0), round);
            let odd = _mm256_add_epi64(_mm256_mul_epi32(upper(self.0), upper(other.0)), round);
            let (even, odd) = (_mm256_srli_epi64::<31>(even), _mm256_slli_epi64::<1>(odd));
            Self(_mm256_blend_epi32::<0xaa>(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // SAFETY: the trait's contract.
        unsafe {
            let low = _mm256_and_si256(self.0, _mm256_set1_epi32(255));
            let words = _mm256_packus_epi32(low, low);
            let words = _mm256_permute4x64_epi64::<0b10_00>(words);
            let words = _mm256_castsi256_si128(words);
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
        }
    }
}

// SAFETY: the methods keep to AVX-512 F, BW, DQ and VL.
unsafe impl Words for Z {
    const N: usize = 16;
    binary!(
        add _mm512_add_epi32, sub _mm512_sub_epi32, mul _mm512_mullo_epi32,
        max _mm512_max_epi32, min _mm512_min_epi32, and _mm512_and_si512
    );
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, kind: Byte) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            Self(match kind {
                Byte::Signed => _mm512_cvtepi8_epi32(bytes),
                Byte::Unsigned => _mm512_cvtepu8_epi32(bytes),
            })
        }
    }
    #[inline(always)]
    unsafe fn shift_left(self, by: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm512_sll_epi32(self.0, _mm_cvtsi32_si128(by))) }
    }
    #[inline(always)]
    unsafe fn shift_right(self, by: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm512_sra_epi32(self.0, _mm_cvtsi32_si128(by))) }
    }
    #[inline(always)]
    unsafe fn high_mul(self, other: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let round = _mm512_set1_epi64(1 << 30);
            let upper = |x| _mm512_srli_epi64::<32>(x);
            let even = _mm512_add_epi64(_mm512_mul_epi32(self.0, other.0), round);
            let odd = _mm512_add_epi64(_mm512_mul_epi32(upper(self.0), upper(other.0)), round);
            let (even, odd) = (_mm512_srli_epi64::<31>(even), _mm512_slli_epi64::<1>(odd));
            Self(_mm512_mask_mov_epi32(even, 0xaaaa, odd))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // SAFETY: the trait's contract.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(self.0)) }
    }
}
