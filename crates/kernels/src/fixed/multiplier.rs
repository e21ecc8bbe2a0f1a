//! Real factors as a mantissa and a shift, and the rounding products they are applied with.

/// A real factor `mantissa * 2^(shift - 31)`, as TensorFlow Lite's `QuantizeMultiplier` makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Multiplier {
    /// In `[2^30, 2^31)` in magnitude, or 0.
    pub mantissa: i32,
    /// In `-31..=31`; positive shifts left before the product, negative right after it.
    pub shift: i32,
}

impl Multiplier {
    /// One half.
    pub const HALF: Multiplier = Multiplier { mantissa: 1 << 30, shift: 0 };

    /// The nearest multiplier to `real`. Magnitudes below about `2^-32` are flushed to zero.
    /// `None` when `real` is not finite or its magnitude is `2^31` or more.
    pub fn new(real: f64) -> Option<Self> {
        if !real.is_finite() {
            return None;
        }
        let bits = real.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        // Zero and subnormal numbers are far below 2^-32.
        if exponent == 0 {
            return Some(Self::default());
        }
        let mut shift = exponent - 1022;
        let fraction = f64::from_bits((bits & !(0x7ff << 52)) | (1022 << 52));
        let mut mantissa = (fraction * (1i64 << 31) as f64).round() as i64;
        if mantissa.abs() == 1i64 << 31 {
            mantissa /= 2;
            shift += 1;
        }
        if shift < -31 {
            return Some(Self::default());
        }
        (shift <= 31).then_some(Self { mantissa: mantissa as i32, shift })
    }

    /// [`Multiplier::new`] for a factor that must lie in `(0, 1)`
    /// (`QuantizeMultiplierSmallerThanOneExp`); `None` otherwise.
    pub fn smaller_than_one(real: f64) -> Option<Self> {
        (real > 0.0 && real < 1.0).then(|| Self::new(real)).flatten()
    }

    /// The real factor this multiplier stands for.
    pub fn to_f64(self) -> f64 {
        f64::from(self.mantissa) * 2f64.powi(self.shift - 31)
    }

    /// `x` times the factor, rounded twice: `MultiplyByQuantizedMultiplier` for 32-bit `x`.
    #[inline]
    pub fn apply(self, x: i32) -> i32 {
        let left = self.shift.max(0) as u32;
        let right = (-self.shift).max(0) as u32;
        rounding_divide_by_pot(
            high_mul(x.wrapping_mul(1i32.wrapping_shl(left)), self.mantissa),
            right,
        )
    }

    /// `x` times the factor, rounded once, halves up: what TensorFlow Lite's fully connected layers
    /// do, whose products come from ruy.
    #[inline]
    pub fn apply_once(self, x: i32) -> i32 {
        let shift = 31 - self.shift;
        if shift <= 0 {
            return i64::from(x).wrapping_mul(i64::from(self.mantissa)).wrapping_shl(-shift as u32)
                as i32;
        }
        ((i64::from(x) * i64::from(self.mantissa) + (1i64 << (shift - 1))) >> shift) as i32
    }

    /// [`Multiplier::apply_once`] for the 64-bit accumulators of fully connected layers.
    #[inline]
    pub fn apply_once_i64(self, x: i64) -> i32 {
        let product = i128::from(x) * i128::from(self.mantissa);
        let shift = 31 - self.shift;
        if shift <= 0 {
            return product.wrapping_shl(-shift as u32) as i32;
        }
        let rounded = (product + (1i128 << (shift - 1))) >> shift;
        rounded.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }

    /// `x` times the factor with a mantissa cut to 16 bits and one rounding:
    /// `MultiplyByQuantizedMultiplier` for the 64-bit accumulators of int16 operators.
    /// The original requires `|x| < 2^47` and `shift < 8`; beyond that the result wraps.
    #[inline]
    pub fn apply_i64(self, x: i64) -> i32 {
        let reduced = if self.mantissa < 0x7fff_0000 {
            (i64::from(self.mantissa) + (1 << 15)) >> 16
        } else {
            0x7fff
        };
        let product = x.wrapping_mul(reduced);
        let shift = 15 - self.shift;
        if shift <= 0 {
            return product.wrapping_shl((-shift) as u32) as i32;
        }
        (product.wrapping_add(1i64 << (shift - 1)) >> shift) as i32
    }
}

/// `round(a * b / 2^31)`, ties upward; the one overflow (`MIN * MIN`) saturates.
/// gemmlowp's `SaturatingRoundingDoublingHighMul`, Arm's `sqrdmulh`.
#[inline]
pub fn high_mul(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        return i32::MAX;
    }
    ((i64::from(a) * i64::from(b) + (1 << 30)) >> 31) as i32
}

/// [`high_mul`] for 16-bit values: `round(a * b / 2^15)`.
#[inline]
pub fn high_mul_i16(a: i16, b: i16) -> i16 {
    if a == i16::MIN && b == i16::MIN {
        return i16::MAX;
    }
    ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16
}

/// `x / 2^exponent`, rounded to nearest, ties away from zero (gemmlowp's `RoundingDivideByPOT`).
/// `exponent` must be in `0..=31`.
#[inline]
pub fn rounding_divide_by_pot(x: i32, exponent: u32) -> i32 {
    let mask = ((1i64 << exponent) - 1) as i32;
    let remainder = x & mask;
    let threshold = (mask >> 1) + i32::from(x < 0);
    (x >> exponent).wrapping_add(i32::from(remainder > threshold))
}

/// `x * 2^exponent`, saturating (gemmlowp's `SaturatingRoundingMultiplyByPOT` for positive
/// exponents). `exponent` must be in `0..=31`.
#[inline]
pub fn saturating_left_shift(x: i32, exponent: u32) -> i32 {
    (i64::from(x) << exponent).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// The multiplier that turns a quantised softmax input difference into `Q(integer_bits)`
/// (`PreprocessSoftmaxScaling`): `beta * input_scale * 2^(31 - integer_bits)`, capped at
/// `2^31 - 1`. `None` unless the product is above 1.
pub fn softmax_multiplier(beta: f64, input_scale: f64, integer_bits: u32) -> Option<Multiplier> {
    let real = beta * input_scale * (1i64 << (31 - integer_bits)) as f64;
    (real > 1.0).then(|| Multiplier::new(real.min((1i64 << 31) as f64 - 1.0))).flatten()
}

/// The largest input magnitude that, shifted left by `left_shift`, stays within
/// `integer_bits` of a number with `total_bits` bits below the sign
/// (`CalculateInputRadius`; `total_bits` is 31 there unless told otherwise).
pub fn input_radius(integer_bits: u32, left_shift: u32, total_bits: u32) -> i32 {
    let largest = ((1i64 << integer_bits) - 1) as f64
        * (1i64 << (total_bits - integer_bits)) as f64
        / (1i64 << left_shift) as f64;
    largest.floor() as i32
}

/// The quantised limits of an output: the type's own range `(lowest, highest)`, narrowed to the
/// real bounds of a fused activation (either may be absent), as
/// `CalculateActivationRangeQuantized` does.
pub fn activation_range(
    (lowest, highest): (i32, i32),
    (real_min, real_max): (Option<f32>, Option<f32>),
    scale: f32,
    zero_point: i32,
) -> (i32, i32) {
    let quantize = |real: f32| zero_point.saturating_add((real / scale).round() as i32);
    (
        real_min.map_or(lowest, |real| lowest.max(quantize(real))),
        real_max.map_or(highest, |real| highest.min(quantize(real))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_splits_like_quantize_multiplier() {
        // The first six are the cases of TensorFlow Lite's quantization_util_test.
        let cases = [
            (0.0, 0, 0),
            (0.25, 1 << 30, -1),
            (0.5, 1 << 30, 0),
            (-0.5, -(1 << 30), 0),
            (1.0, 1 << 30, 1),
            (-1.0, -(1 << 30), 1),
            (1.0 - 1e-12, 1 << 30, 1),
            (2f64.powi(-32), 1 << 30, -31),
            (2f64.powi(-33), 0, 0),
            (f64::MIN_POSITIVE / 4.0, 0, 0),
            (0.75 * 2f64.powi(-3), 0x6000_0000, -3),
        ];
        for (real, mantissa, shift) in cases {
            assert_eq!(Multiplier::new(real), Some(Multiplier { mantissa, shift }), "{real}");
        }
        for real in [f64::NAN, f64::INFINITY, 2f64.powi(31)] {
            assert_eq!(Multiplier::new(real), None, "{real}");
        }
        assert_eq!(Multiplier::smaller_than_one(1.0), None);
        assert_eq!(Multiplier::smaller_than_one(0.25), Multiplier::new(0.25));
    }

    #[test]
    fn high_mul_rounds_ties_up_and_saturates() {
        let cases = [
            (1 << 30, 1, 1),   // 0.5 -> 1
            (1 << 30, -1, 0),  // -0.5 -> 0
            (1 << 30, 3, 2),   // 1.5 -> 2
            (1 << 30, -3, -1), // -1.5 -> -1
            (i32::MIN, i32::MIN, i32::MAX),
            (i32::MIN, i32::MAX, -i32::MAX),
            (i32::MAX, i32::MAX, i32::MAX - 1),
        ];
        for (a, b, want) in cases {
            assert_eq!(high_mul(a, b), want, "{a} {b}");
        }
        assert_eq!(high_mul_i16(i16::MIN, i16::MIN), i16::MAX);
        assert_eq!(high_mul_i16(1 << 14, -3), -1);
    }

    #[test]
    fn divide_rounds_ties_away_from_zero() {
        let cases = [
            (5, 1, 3),
            (-5, 1, -3),
            (-4, 1, -2),
            (6, 2, 2),
            (-6, 2, -2),
            (7, 0, 7),
            (i32::MAX, 31, 1),
            (i32::MIN, 31, -1),
            (-(1 << 30), 31, -1),
            (1 << 30, 31, 1),
            ((1 << 30) - 1, 31, 0),
        ];
        for (x, exponent, want) in cases {
            assert_eq!(rounding_divide_by_pot(x, exponent), want, "{x} >> {exponent}");
        }
    }

    #[test]
    fn apply_rounds_twice() {
        let third = Multiplier::new(1.0 / 3.0).unwrap();
        assert_eq!(third, Multiplier { mantissa: 1431655765, shift: -1 });
        // 100 thirds: 66.67 becomes 67, and half of that 34.
        assert_eq!(third.apply(100), 34);
        assert_eq!(third.apply(-100), -34);
        assert_eq!(third.apply(300), 100);
        // 0.49999 * 1 rounds to 1 in the high product (0.99998) and then, halved, to 1.
        let nearly_half = Multiplier::new(0.49999).unwrap();
        assert_eq!(nearly_half.apply(1), 1);
        assert_eq!(Multiplier::new(4.0).unwrap().apply(-7), -28);
        assert_eq!(Multiplier::new(0.0).unwrap().apply(i32::MIN), 0);
        // Overflowing products wrap, they do not panic.
        Multiplier::new(2f64.powi(30)).unwrap().apply(i32::MAX);
    }

    #[test]
    fn apply_once_keeps_what_rounding_twice_loses() {
        let nearly_half = Multiplier::new(0.49999).unwrap();
        assert_eq!((nearly_half.apply(1), nearly_half.apply_once(1)), (1, 0));
        assert_eq!(Multiplier::new(0.5).unwrap().apply_once(-3), -1);
        assert_eq!(Multiplier::new(4.0).unwrap().apply_once(-7), -28);
        Multiplier { mantissa: i32::MAX, shift: 31 }.apply_once(i32::MIN);
        Multiplier { mantissa: i32::MAX, shift: -31 }.apply_once(i32::MIN);
    }

    #[test]
    fn apply_i64_rounds_once_with_sixteen_bits() {
        let half = Multiplier::new(0.5).unwrap();
        assert_eq!(half.apply_i64(3), 2);
        assert_eq!(half.apply_i64(-3), -1);
        let one = Multiplier { mantissa: i32::MAX, shift: 0 };
        assert_eq!(one.apply_i64(1 << 20), (1 << 20) - (1 << 5));
        assert_eq!(Multiplier { mantissa: 1 << 30, shift: 20 }.apply_i64(3), 3 << 19);
    }

    #[test]
    fn softmax_scaling_is_capped() {
        let multiplier = softmax_multiplier(1.0, 1.0 / 256.0, 5).unwrap();
        assert_eq!(multiplier, Multiplier { mantissa: 1 << 30, shift: 19 });
        assert_eq!(input_radius(5, 19, 31), 3968);
        let capped = softmax_multiplier(1e9, 1.0, 5).unwrap();
        assert_eq!(capped, Multiplier { mantissa: i32::MAX, shift: 31 });
        assert_eq!(softmax_multiplier(1.0, 0.0, 5), None);
        assert_eq!(input_radius(4, 27, 31), 15);
    }

    #[test]
    fn activation_range_narrows() {
        let int8 = (-128, 127);
        assert_eq!(activation_range(int8, (None, None), 0.1, 3), (-128, 127));
        assert_eq!(activation_range(int8, (Some(0.0), None), 0.1, 3), (3, 127));
        assert_eq!(activation_range(int8, (Some(0.0), Some(6.0)), 0.1, 3), (3, 63));
        assert_eq!(activation_range(int8, (Some(0.0), Some(6.0)), 0.0235, -128), (-128, 127));
        assert_eq!(activation_range(int8, (Some(-1.0), Some(1.0)), 0.0, 3), (-128, 127));
    }
}
