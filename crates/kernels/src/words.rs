//! Vectors of 32-bit words for kernels on 8-bit integers that need no layout of their own.
//!
//! A kernel is written once over [`Words`] and compiled for each instruction set by [`on`].

use crate::fixed::Multiplier;
use crate::isa::Isa;
use crate::requant::{Byte, ByteOutput};

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// A vector of `N` 32-bit words.
///
/// # Safety
/// Every method needs a CPU that has the implementing type's instructions, and must be compiled
/// into a function for which they are enabled: [`on`] sees to both. Loads and stores need `N`
/// valid elements.
pub(crate) unsafe trait Words: Copy {
    const N: usize;
    unsafe fn splat(x: i32) -> Self;
    /// `N` bytes of the type.
    unsafe fn load_bytes(from: *const u8, kind: Byte) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// The low half of the product.
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    /// Shifts by `by`, in `0..=31`.
    unsafe fn shift_left(self, by: i32) -> Self;
    unsafe fn shift_right(self, by: i32) -> Self;
    /// [`crate::fixed::high_mul`], but for both operands being `MIN`.
    unsafe fn high_mul(self, other: Self) -> Self;
    /// Stores the low bytes of words in `-128..=255`.
    unsafe fn store_bytes(self, to: *mut u8);
}

/// A kernel written over [`Words`].
pub(crate) trait Kernel {
    /// # Safety
    /// As [`Words`].
    unsafe fn run<W: Words>(self);
}

/// Runs a kernel with the vectors of `isa`.
pub(crate) fn on(isa: Isa, kernel: impl Kernel) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token proves the instructions.
        Isa::Avx2(_) => unsafe { x86::on_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512(_) | Isa::Avx512Vnni(_) => unsafe { x86::on_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_) => unsafe { neon::on_neon(kernel) },
        // SAFETY: plain Rust.
        _ => unsafe { kernel.run::<portable::Plain>() },
    }
}

/// [`Multiplier::apply`] on vectors: exact while products before the right shift stay below
/// `2^30` in magnitude, or the multiplier does not shift right.
#[derive(Clone, Copy)]
pub(crate) struct Scale<W> {
    left: i32,
    right: i32,
    mantissa: W,
    round: W,
    sign: W,
}

impl<W: Words> Scale<W> {
    /// # Safety
    /// As [`Words`].
    #[inline(always)]
    pub(crate) unsafe fn new(multiplier: Multiplier) -> Self {
        let right = (-multiplier.shift).max(0);
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                left: multiplier.shift.max(0),
                right,
                mantissa: W::splat(multiplier.mantissa),
                round: W::splat(if right > 0 { 1 << (right - 1) } else { 0 }),
                sign: W::splat(if right > 0 { -1 } else { 0 }),
            }
        }
    }

    /// # Safety
    /// As [`Words`].
    #[inline(always)]
    pub(crate) unsafe fn apply(self, x: W) -> W {
        // SAFETY: the caller's promise.
        unsafe {
            let high = x.shift_left(self.left).high_mul(self.mantissa);
            // Ties go away from zero: down, where negative.
            let sign = high.shift_right(31).and(self.sign);
            high.add(sign).add(self.round).shift_right(self.right)
        }
    }
}

/// Adds an output's zero point and clamps.
#[derive(Clone, Copy)]
pub(crate) struct Finish<W> {
    zero_point: W,
    min: W,
    max: W,
}

impl<W: Words> Finish<W> {
    /// # Safety
    /// As [`Words`].
    #[inline(always)]
    pub(crate) unsafe fn new(output: &ByteOutput) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                zero_point: W::splat(output.zero_point),
                min: W::splat(output.min),
                max: W::splat(output.max),
            }
        }
    }

    /// # Safety
    /// As [`Words`].
    #[inline(always)]
    pub(crate) unsafe fn apply(self, x: W) -> W {
        // SAFETY: the caller's promise.
        unsafe { x.add(self.zero_point).max(self.min).min(self.max) }
    }
}
