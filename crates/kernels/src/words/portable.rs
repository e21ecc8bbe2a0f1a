//! Words in plain Rust.

use super::Words;
use crate::requant::Byte;

/// Eight words, which compilers turn into whatever vectors there are.
#[derive(Clone, Copy)]
pub(super) struct Plain([i32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(i32, i32) -> i32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY: plain Rust needs no instructions.
unsafe impl Words for Plain {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, kind: Byte) -> Self {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[u8; 8]>().read() };
        Self(bytes.map(|byte| kind.value(byte)))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, i32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, i32::wrapping_mul)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, i32::max)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, i32::min)
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn shift_left(self, by: i32) -> Self {
        Self(self.0.map(|x| x.wrapping_shl(by as u32)))
    }
    #[inline(always)]
    unsafe fn shift_right(self, by: i32) -> Self {
        Self(self.0.map(|x| x.wrapping_shr(by as u32)))
    }
    #[inline(always)]
    unsafe fn high_mul(self, other: Self) -> Self {
        self.zip(other, crate::fixed::high_mul)
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u8; 8]>().write(self.0.map(|x| x as u8)) }
    }
}
