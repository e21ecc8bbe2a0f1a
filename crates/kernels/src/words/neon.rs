//! Words with NEON.

use std::arch::aarch64::*;

use super::{Kernel, Words};
use crate::requant::Byte;

/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn on_neon(kernel: impl Kernel) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Q>() }
}

/// Eight words.
#[derive(Clone, Copy)]
pub(super) struct Q([int32x4_t; 2]);

impl Q {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(int32x4_t, int32x4_t) -> int32x4_t) -> Self {
        Self([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
    }
}

macro_rules! binary {
    ($($name:ident $intrinsic:ident),*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            // SAFETY: the trait's contract.
            self.zip(other, |a, b| unsafe { $intrinsic(a, b) })
        }
    )*};
}

// SAFETY: the methods keep to NEON.
unsafe impl Words for Q {
    const N: usize = 8;
    binary!(
        add vaddq_s32, sub vsubq_s32, mul vmulq_s32, max vmaxq_s32, min vminq_s32, and vandq_s32,
        high_mul vqrdmulhq_s32
    );
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self([vdupq_n_s32(x); 2]) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, kind: Byte) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let bytes = vld1_u8(from);
            let words = match kind {
                Byte::Signed => vmovl_s8(vreinterpret_s8_u8(bytes)),
                Byte::Unsigned => vreinterpretq_s16_u16(vmovl_u8(bytes)),
            };
            Self([vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)])
        }
    }
    #[inline(always)]
    unsafe fn shift_left(self, by: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(self.0.map(|x| vshlq_s32(x, vdupq_n_s32(by)))) }
    }
    #[inline(always)]
    unsafe fn shift_right(self, by: i32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(self.0.map(|x| vshlq_s32(x, vdupq_n_s32(-by)))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // SAFETY: the trait's contract.
        unsafe {
            let words = vcombine_s16(vmovn_s32(self.0[0]), vmovn_s32(self.0[1]));
            vst1_u8(to, vreinterpret_u8_s8(vmovn_s16(words)));
        }
    }
}
