//! Transcendental functions in `Q` formats: a raw integer of `integer_bits` integer bits, a sign
//! bit and the rest fraction bits. Results have no integer bits: 31 (or 15) fraction bits.

use super::multiplier::{high_mul, high_mul_i16, rounding_divide_by_pot};

/// The raw integers that fixed-point functions work on: `i32`, and `i16` for integer LSTMs.
pub trait Raw: Copy + Ord + sealed::Sealed {
    /// Bits below the sign.
    const BITS: u32;
    /// Zero.
    const ZERO: Self;
    /// The largest value, which stands for 1 where there are no integer bits.
    const MAX: Self;
    /// A constant given as a 32-bit raw value, rounded to this width.
    fn constant(raw: i32) -> Self;
    /// `2^bit`, wrapping to the sign bit at the top.
    fn bit(bit: u32) -> Self;
    /// Wrapping sum.
    fn add(self, other: Self) -> Self;
    /// Sum, saturating if 16 bits wide and wrapping otherwise (`AddSaturatingIf16Bit`).
    fn add_saturating_if_16(self, other: Self) -> Self;
    /// Wrapping difference.
    fn sub(self, other: Self) -> Self;
    /// Bitwise and.
    fn and(self, other: Self) -> Self;
    /// Rounding, doubling high product.
    fn high_mul(self, other: Self) -> Self;
    /// `(self + other) / 2`, rounded away from zero.
    fn half_sum(self, other: Self) -> Self;
    /// `self * 2^exponent`: saturating to the left, rounding to the right.
    fn scale(self, exponent: i32) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for i32 {}
    impl Sealed for i16 {}
}

macro_rules! raw {
    ($type:ty, $wide:ty, $high_mul:path, $add:ident) => {
        impl Raw for $type {
            const BITS: u32 = <$type>::BITS - 1;
            const ZERO: Self = 0;
            const MAX: Self = <$type>::MAX;

            fn constant(raw: i32) -> Self {
                rounding_divide_by_pot(raw, 32 - <$type>::BITS) as $type
            }
            fn bit(bit: u32) -> Self {
                (1 as $type).wrapping_shl(bit)
            }
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn add_saturating_if_16(self, other: Self) -> Self {
                self.$add(other)
            }
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn and(self, other: Self) -> Self {
                self & other
            }
            fn high_mul(self, other: Self) -> Self {
                $high_mul(self, other)
            }
            fn half_sum(self, other: Self) -> Self {
                let sum = <$wide>::from(self) + <$wide>::from(other);
                ((sum + if sum >= 0 { 1 } else { -1 }) / 2) as $type
            }
            fn scale(self, exponent: i32) -> Self {
                if exponent >= 0 {
                    let wide = <$wide>::from(self) << exponent;
                    wide.clamp(<$type>::MIN.into(), <$type>::MAX.into()) as $type
                } else {
                    rounding_divide_by_pot(self.into(), (-exponent) as u32) as $type
                }
            }
        }
    };
}
raw!(i32, i64, high_mul, wrapping_add);
raw!(i16, i32, high_mul_i16, saturating_add);

/// `exp(a)` for `a` in `[-1/4, 0)`, no integer bits.
fn exp_on_last_quarter<R: Raw>(a: R) -> R {
    let exp_minus_eighth = R::constant(1_895_147_668);
    let third = R::constant(715_827_883);
    // A Taylor series around -1/8.
    let x = a.add(R::bit(R::BITS - 3));
    let x2 = x.high_mul(x);
    let x3 = x2.high_mul(x);
    let x4_over_4 = x2.high_mul(x2).scale(-2);
    let rest = x4_over_4.add(x3).high_mul(third).add(x2).scale(-1);
    exp_minus_eighth.add_saturating_if_16(exp_minus_eighth.high_mul(x.add(rest)))
}

/// `exp(a)` for `a <= 0` in `Q(integer_bits)`.
pub fn exp_on_negative_values<R: Raw>(a: R, integer_bits: u32) -> R {
    // exp(-2^k) for k = -2, -1, ...
    const FACTORS: [i32; 7] =
        [1_672_461_947, 1_302_514_674, 790_015_084, 290_630_308, 39_332_535, 720_401, 242];
    let fraction_bits = R::BITS - integer_bits;
    if a == R::ZERO {
        return R::MAX;
    }
    // Below -32 every bit of the result is zero.
    if integer_bits > 5 && a < R::ZERO.sub(R::bit(fraction_bits + 5)) {
        return R::ZERO;
    }
    let quarter = R::bit(fraction_bits - 2);
    let part = a.and(quarter.sub(R::bit(0))).sub(quarter);
    let remainder = part.sub(a);
    let mut result = exp_on_last_quarter(part.scale(integer_bits as i32));
    for (index, factor) in (0..).zip(FACTORS) {
        let in_range = integer_bits + 2 > index;
        if in_range && remainder.and(R::bit(fraction_bits - 2 + index)) != R::ZERO {
            result = result.high_mul(R::constant(factor));
        }
    }
    result
}

/// `2 / (1 + a)` for `a` in `(0, 1)` with no integer bits; the result has two
/// (Newton-Raphson division, three steps).
fn two_over_one_plus_x<R: Raw>(a: R) -> R {
    let half_denominator = a.half_sum(R::MAX);
    let one = R::bit(R::BITS - 2);
    let mut x =
        R::constant(1_515_870_810).add(half_denominator.high_mul(R::constant(-1_010_580_540)));
    for _ in 0..3 {
        let error = one.sub(half_denominator.high_mul(x));
        x = x.add(x.high_mul(error).scale(2));
    }
    x
}

/// `1 / (1 + a)` for `a` in `(0, 1)`, no integer bits.
pub fn one_over_one_plus_x<R: Raw>(a: R) -> R {
    // Halving changes the format from two integer bits to one; rescale that to none.
    two_over_one_plus_x(a).scale(1)
}

/// `(1 - a) / (1 + a)` for `a` in `(0, 1)`, no integer bits.
fn one_minus_x_over_one_plus_x<R: Raw>(a: R) -> R {
    two_over_one_plus_x(a).sub(R::bit(R::BITS - 2)).scale(2)
}

/// The logistic function of `a` in `Q(integer_bits)`.
pub fn logistic<R: Raw>(a: R, integer_bits: u32) -> R {
    if a == R::ZERO {
        return R::bit(R::BITS - 1);
    }
    let negative = if a > R::ZERO { R::ZERO.sub(a) } else { a };
    let positive_result = one_over_one_plus_x(exp_on_negative_values(negative, integer_bits));
    if a > R::ZERO { positive_result } else { R::MAX.sub(positive_result) }
}

/// The hyperbolic tangent of `a` in `Q(integer_bits)`.
pub fn tanh<R: Raw>(a: R, integer_bits: u32) -> R {
    if a == R::ZERO {
        return R::ZERO;
    }
    let negative = if a < R::ZERO { a } else { R::ZERO.sub(a) };
    // Reading the same bits with one more integer bit doubles the value.
    let result = one_minus_x_over_one_plus_x(exp_on_negative_values(negative, integer_bits + 1));
    if a < R::ZERO { R::ZERO.sub(result) } else { result }
}

/// `1 / x` for positive `x` in `Q(integer_digits)`: a mantissa without integer bits and the
/// number of bits of `x` above one (`GetReciprocal`).
pub fn reciprocal(x: i32, integer_digits: u32) -> (i32, i32) {
    let headroom = (x as u32).leading_zeros();
    let normalised = (x as u32).wrapping_shl(headroom).wrapping_sub(1 << 31) as i32;
    (one_over_one_plus_x(normalised), integer_digits as i32 - headroom as i32)
}

/// `1 / sqrt(x)` as a mantissa and a shift (`GetInvSqrtQuantizedMultiplierExp`); `reverse` is the
/// sign convention of the returned shift: -1 makes a right shift negative, as everywhere else
/// in this module. Values below 1 count as 1.
pub fn inverse_sqrt_multiplier(mut x: i32, reverse: i32) -> (i32, i32) {
    if x <= 1 {
        return (i32::MAX, 0);
    }
    let mut shift = 11;
    while x >= 1 << 29 {
        x /= 4;
        shift += 1;
    }
    let pairs = (x.leading_zeros() as i32 - 1) / 2 - 1;
    shift -= pairs;
    x <<= 2 * pairs;
    // Newton-Raphson with three integer bits.
    let half_input = (x >> 1).scale(-1);
    let three_halves = (1 << 28) + (1 << 27);
    let mut y = 1 << 28;
    for _ in 0..5 {
        let cube = y.high_mul(y).high_mul(y).scale(6);
        y = three_halves.high_mul(y).sub(half_input.high_mul(cube)).scale(3);
    }
    let mut mantissa = y.high_mul(1_518_500_250);
    if shift < 0 {
        mantissa = mantissa.wrapping_shl((-shift) as u32);
        shift = 0;
    }
    (mantissa, shift * reverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(value: f64, integer_bits: u32) -> i32 {
        (value * 2f64.powi(31 - integer_bits as i32)).round() as i32
    }

    fn close(raw: i32, want: f64) {
        let got = f64::from(raw) / 2f64.powi(31);
        assert!((got - want).abs() < 1e-6, "{got} is not {want}");
    }

    #[test]
    fn functions_approximate_the_real_ones() {
        for bits in [3u32, 4, 5, 6, 12] {
            for step in 0..400 {
                let x = -8.0 * f64::from(step) / 400.0;
                if bits == 3 && step == 0 {
                    continue;
                }
                close(exp_on_negative_values(q(x, bits), bits), x.exp());
                for y in [x * 0.99, -x * 0.99] {
                    close(logistic(q(y, bits), bits), 1.0 / (1.0 + (-y).exp()));
                    close(tanh(q(y, bits), bits), y.tanh());
                }
            }
        }
        close(one_over_one_plus_x(q(0.25, 0)), 0.8);
    }

    #[test]
    fn sixteen_bits_are_close() {
        for raw in (i16::MIN + 1..=i16::MAX).step_by(7) {
            let x = f64::from(raw) / 4096.0;
            let logistic_error = f64::from(logistic(raw, 3)) / 32768.0 - 1.0 / (1.0 + (-x).exp());
            let tanh_error = f64::from(tanh(raw, 3)) / 32768.0 - x.tanh();
            assert!(logistic_error.abs() < 8.0 / 32768.0, "{raw} {logistic_error}");
            assert!(tanh_error.abs() < 12.0 / 32768.0, "{raw} {tanh_error}");
        }
    }

    #[test]
    fn edges() {
        assert_eq!(exp_on_negative_values(0i32, 5), i32::MAX);
        assert_eq!(exp_on_negative_values(i32::MIN, 6), 0);
        assert_eq!(logistic(0i32, 4), 1 << 30);
        assert_eq!(tanh(0i16, 3), 0);
        assert_eq!(tanh(5i32, 4), -tanh(-5i32, 4));
        for raw in [i32::MIN, i32::MAX] {
            logistic(raw, 4);
            tanh(raw, 4);
            logistic(raw as i16, 3);
        }
    }

    #[test]
    fn reciprocals() {
        let one_and_a_quarter = 5 << 17; // 1.25 in Q12.19
        let (mantissa, above) = reciprocal(one_and_a_quarter, 12);
        assert_eq!(above, 0);
        close(mantissa, 0.8);
        let (mantissa, above) = reciprocal(3 << 19, 12);
        assert_eq!(above, 1);
        close(mantissa, 2.0 / 3.0);
    }

    #[test]
    fn inverse_square_roots() {
        for x in [2, 3, 100, 4096, 123_456_789, 1 << 29, i32::MAX] {
            let (mantissa, shift) = inverse_sqrt_multiplier(x, -1);
            let got = f64::from(mantissa) * 2f64.powi(shift - 31);
            let want = 1.0 / f64::from(x).sqrt();
            assert!((got / want - 1.0).abs() < 1e-5, "{x}: {got} {want}");
        }
        assert_eq!(inverse_sqrt_multiplier(1, -1), (i32::MAX, 0));
        assert_eq!(inverse_sqrt_multiplier(-5, -1), (i32::MAX, 0));
    }
}
