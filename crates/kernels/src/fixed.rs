//! Fixed-point arithmetic of gemmlowp and TensorFlow Lite, bit for bit.
//!
//! An integer model's meaning is fixed by these functions: real factors become a 31-bit mantissa
//! and a power of two ([`Multiplier`]), products are rounded twice (once when the high half is
//! taken, once when it is shifted), and transcendental functions are evaluated in `Q` formats
//! ([`exp_on_negative_values`], [`logistic`], [`tanh`]). Arithmetic that overflows in the original
//! is undefined there; here it wraps, so no input panics.
//!
//! See `fixedpoint/fixedpoint.h` of gemmlowp and `kernels/internal/common.h`,
//! `quantization_util.cc` of TensorFlow Lite.

mod lut;
mod math;
mod multiplier;

pub use lut::{InputScaling16, Lut16, logistic_i16, lut8, sigmoid_table, tanh_i16};
pub use math::{
    Raw, exp_on_negative_values, inverse_sqrt_multiplier, logistic, one_over_one_plus_x,
    reciprocal, tanh,
};
pub use multiplier::{
    Multiplier, activation_range, high_mul, high_mul_i16, input_radius, rounding_divide_by_pot,
    saturating_left_shift, softmax_multiplier,
};
