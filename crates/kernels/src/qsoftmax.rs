//! Softmax of 8-bit integers in fixed point, as TensorFlow Lite's reference kernel computes it.

use crate::fixed::{
    exp_on_negative_values, high_mul, input_radius, reciprocal, rounding_divide_by_pot,
    softmax_multiplier,
};
use crate::requant::Byte;

/// Integer bits of scaled input differences.
const DIFF_BITS: u32 = 5;
/// Integer bits of the sum of exponentials.
const SUM_BITS: u32 = 12;

/// Softmax over rows of one 8-bit type; the output has the same type, the scale 1/256 and its
/// lowest value for zero.
#[derive(Clone, Debug)]
pub struct QSoftmax {
    kind: Byte,
    /// The exponential of each difference from the largest, 0 to -255, without integer bits.
    exps: Box<[i32; 256]>,
}

impl QSoftmax {
    /// For inputs of scale `scale`, times `beta`. `None` where the product is too small or large
    /// to scale by.
    pub fn new(kind: Byte, beta: f32, scale: f32) -> Option<Self> {
        let factor = softmax_multiplier(f64::from(beta), f64::from(scale), DIFF_BITS)?;
        let smallest = -input_radius(DIFF_BITS, factor.shift.max(0) as u32, 31);
        let mut exps = Box::new([0; 256]);
        for (diff, exp) in (0..).zip(exps.iter_mut()) {
            if -diff >= smallest {
                *exp = exp_on_negative_values(factor.apply(-diff), DIFF_BITS);
            }
        }
        Some(Self { kind, exps })
    }

    /// One row.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn run(&self, input: &[u8], out: &mut [u8]) {
        assert_eq!(input.len(), out.len());
        let low = self.kind.limits().0;
        let value = |&byte: &u8| self.kind.value(byte);
        let max = input.iter().map(value).max().unwrap_or(0);
        let exp = |byte: &u8| self.exps[(max - value(byte)) as usize];
        let sum = input
            .iter()
            .fold(0i32, |sum, byte| sum.wrapping_add(rounding_divide_by_pot(exp(byte), SUM_BITS)));
        let (inverse, bits_over_unit) = reciprocal(sum, SUM_BITS);
        let shift = (bits_over_unit + 31 - 8).clamp(0, 31) as u32;
        for (out, byte) in out.iter_mut().zip(input) {
            let steps = rounding_divide_by_pot(high_mul(inverse, exp(byte)), shift);
            *out = (steps + low).clamp(low, low + 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    #[test]
    fn rows_are_close_to_the_real_function() {
        let mut random = Random::new(2);
        for scale in [0.02, 0.1, 1.0, 4.0] {
            for kind in [Byte::Signed, Byte::Unsigned] {
                let softmax = QSoftmax::new(kind, 1.0, scale).unwrap();
                let input = random.bytes(100);
                let mut out = vec![0; 100];
                softmax.run(&input, &mut out);
                let max = input.iter().map(|&x| kind.value(x)).max().unwrap();
                let exps: Vec<f64> = input
                    .iter()
                    .map(|&x| (f64::from(kind.value(x) - max) * f64::from(scale)).exp())
                    .collect();
                let sum: f64 = exps.iter().sum();
                for (exp, &got) in exps.iter().zip(&out) {
                    let want = (exp / sum * 256.0).min(255.0);
                    let got = f64::from(kind.value(got) - kind.limits().0);
                    assert!((got - want).abs() < 0.6, "{scale} {got} {want}");
                }
            }
        }
    }

    #[test]
    fn scales_too_small_are_refused() {
        assert!(QSoftmax::new(Byte::Signed, 1.0, 1e-12).is_none());
        assert!(QSoftmax::new(Byte::Signed, f32::NAN, 1.0).is_none());
    }
}
