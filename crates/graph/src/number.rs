//! Arithmetic for reference implementations: every float through f64, every integer through i128.
//!
//! Sums, products, quotients and square roots of f32, f16 and bf16 computed in f64 and rounded
//! once are the correctly rounded ones. Integers wrap when they are narrowed, as they do on
//! every machine that models run on.

use crate::{Bool, Element};
use half::{bf16, f16};

/// A wide type to compute in: `f64` or `i128`.
pub(crate) trait Wide: Copy + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    fn sub(self, other: Self) -> Self;
    /// The quotient by a count, of integers rounded to zero; `None`: there is none.
    fn divided_by(self, count: usize) -> Option<Self>;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
}

impl Wide for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    fn sub(self, other: f64) -> f64 {
        self - other
    }
    fn divided_by(self, count: usize) -> Option<f64> {
        Some(self / count as f64)
    }
    fn add(self, other: f64) -> f64 {
        self + other
    }
    fn mul(self, other: f64) -> f64 {
        self * other
    }
}

impl Wide for i128 {
    const ZERO: i128 = 0;
    const ONE: i128 = 1;
    fn sub(self, other: i128) -> i128 {
        self.wrapping_sub(other)
    }
    fn divided_by(self, count: usize) -> Option<i128> {
        self.checked_div(count as i128)
    }
    fn add(self, other: i128) -> i128 {
        self.wrapping_add(other)
    }
    fn mul(self, other: i128) -> i128 {
        self.wrapping_mul(other)
    }
}

/// An element that is a number.
pub(crate) trait Number: Element + PartialOrd {
    /// What to compute in.
    type Wide: Wide;
    /// The largest value, infinity for floats.
    const MAX: Self;
    /// The smallest value, minus infinity for floats.
    const MIN: Self;
    fn wide(self) -> Self::Wide;
    /// Rounds to nearest even (floats) or wraps (integers).
    fn narrow(wide: Self::Wide) -> Self;
    /// The nearest f64.
    fn to_f64(self) -> f64;
    /// The nearest float, or the integer that `as` gives: rounded to zero and clamped.
    fn of_f64(v: f64) -> Self;
    /// The integer that this is; `None` for float types.
    fn to_integer(self) -> Option<i128>;
    /// Wraps (integers) or rounds (floats).
    fn of_integer(v: i128) -> Self;
    /// Whether this is a NaN.
    fn is_nan(self) -> bool;
}

macro_rules! integers {
    ($($T:ty)*) => {$(
        impl Number for $T {
            type Wide = i128;
            const MAX: $T = <$T>::MAX;
            const MIN: $T = <$T>::MIN;
            fn wide(self) -> i128 {
                self as i128
            }
            fn narrow(wide: i128) -> $T {
                wide as $T
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn of_f64(v: f64) -> $T {
                v as $T
            }
            fn to_integer(self) -> Option<i128> {
                Some(self as i128)
            }
            fn of_integer(v: i128) -> $T {
                v as $T
            }
            fn is_nan(self) -> bool {
                false
            }
        }
    )*};
}
integers!(i64 i32 i16 i8 u64 u32 u16 u8);

macro_rules! floats {
    ($($T:ty: $wide:expr, $narrow:expr;)*) => {$(
        impl Number for $T {
            type Wide = f64;
            const MAX: $T = <$T>::INFINITY;
            const MIN: $T = <$T>::NEG_INFINITY;
            fn wide(self) -> f64 {
                $wide(self)
            }
            fn narrow(wide: f64) -> $T {
                $narrow(wide)
            }
            fn to_f64(self) -> f64 {
                $wide(self)
            }
            fn of_f64(v: f64) -> $T {
                $narrow(v)
            }
            fn to_integer(self) -> Option<i128> {
                None
            }
            fn of_integer(v: i128) -> $T {
                $narrow(v as f64)
            }
            fn is_nan(self) -> bool {
                <$T>::is_nan(self)
            }
        }
    )*};
}
floats! {
    f64: |v: f64| v, |v: f64| v;
    f32: f64::from, |v: f64| v as f32;
    f16: f16::to_f64, f16::from_f64;
    bf16: bf16::to_f64, bf16::from_f64;
}

/// Reads any real number type, or booleans as 0 and 1, into f64.
pub(crate) fn to_f64s(view: &crate::TensorView<'_>) -> crate::OpResult<Vec<f64>> {
    if view.dtype == crate::DType::Bool {
        return Ok(view.slice::<Bool>()?.iter().map(|b| f64::from(b.get() as u8)).collect());
    }
    crate::dispatch_number!(view.dtype, T => {
        Ok(view.slice::<T>()?.iter().map(|v| v.to_f64()).collect())
    }, else => Err(crate::OpError::new(format!("{} is not a number type", view.dtype))))
}

/// Writes f64 numbers into output `i` of a number type.
pub(crate) fn put_f64s(
    outputs: &mut crate::Outputs<'_>,
    i: usize,
    dtype: crate::DType,
    dims: &[usize],
    values: &[f64],
) -> crate::OpResult {
    crate::dispatch_number!(dtype, T => {
        for (to, v) in outputs.slice::<T>(i, dims)?.iter_mut().zip(values) {
            *to = T::of_f64(*v);
        }
        Ok(())
    }, else => Err(crate::OpError::new(format!("{dtype} is not a number type"))))
}
