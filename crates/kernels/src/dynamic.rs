//! Floats quantised to signed bytes as they come, with the scale that fits them: what TensorFlow
//! Lite's hybrid operators do with their inputs.

use crate::isa::Isa;
use crate::words::{Kernel, Words, on};

/// The quantisation that fits some floats: `real = scale * (stored - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The scale.
    pub scale: f32,
    /// The stored value of zero.
    pub zero_point: i32,
    /// What floats are multiplied by: 0 where all are zero.
    inverse: f32,
    /// The lowest stored value.
    low: f32,
}

impl Fit {
    /// Symmetric about zero: the largest magnitude becomes 127. NaN counts for nothing.
    pub fn symmetric(isa: Isa, reals: &[f32]) -> Fit {
        let [min, max] = range(isa, reals);
        let range = max.max(-min);
        if range == 0.0 {
            return Fit { scale: 1.0, zero_point: 0, inverse: 0.0, low: -127.0 };
        }
        Fit { scale: range / 127.0, zero_point: 0, inverse: 127.0 / range, low: -127.0 }
    }

    /// From the smallest to the largest number, zero among them. NaN counts for nothing.
    pub fn asymmetric(isa: Isa, reals: &[f32]) -> Fit {
        let [min, max] = range(isa, reals).map(f64::from);
        if min == max {
            return Fit { scale: 1.0, zero_point: 0, inverse: 0.0, low: -128.0 };
        }
        let scale = (max - min) / 255.0;
        let (from_min, from_max) = (-128.0 - min / scale, 127.0 - max / scale);
        let (min_error, max_error) = (128.0 + (min / scale).abs(), 127.0 + (max / scale).abs());
        let zero = if min_error < max_error { from_min } else { from_max };
        let zero = zero.clamp(-128.0, 127.0).round();
        let scale = scale as f32;
        Fit { scale, zero_point: zero as i32, inverse: 1.0 / scale, low: -128.0 }
    }

    /// Writes the stored values of `reals` as bytes; NaN becomes 0.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantise(&self, isa: Isa, reals: &[f32], out: &mut [u8]) {
        assert_eq!(reals.len(), out.len(), "length");
        on(isa, Quantise { fit: self, reals, out });
    }
}

/// The smallest and the largest of the numbers and zero.
fn range(isa: Isa, reals: &[f32]) -> [f32; 2] {
    let mut range = [0.0; 2];
    on(isa, Range { reals, range: &mut range });
    range
}

struct Range<'a> {
    reals: &'a [f32],
    range: &'a mut [f32; 2],
}

impl Kernel for Range<'_> {
    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        const LANES: usize = 32;
        let (mut min, mut max) = ([0f32; LANES], [0f32; LANES]);
        let mut take = |reals: &[f32]| {
            for ((min, max), &x) in min.iter_mut().zip(&mut max).zip(reals) {
                // Not `min` and `max`: this form is one instruction, and passes over NaN.
                *min = if x < *min { x } else { *min };
                *max = if x > *max { x } else { *max };
            }
        };
        let (chunks, rest) = self.reals.as_chunks::<LANES>();
        chunks.iter().for_each(|chunk| take(chunk));
        take(rest);
        *self.range = [min.into_iter().fold(0.0, f32::min), max.into_iter().fold(0.0, f32::max)];
    }
}

struct Quantise<'a> {
    fit: &'a Fit,
    reals: &'a [f32],
    out: &'a mut [u8],
}

impl Kernel for Quantise<'_> {
    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        let Fit { inverse, low, zero_point, .. } = *self.fit;
        let zero = zero_point as f32;
        for (out, &x) in self.out.iter_mut().zip(self.reals) {
            let steps = zero + x * inverse;
            let steps = if steps.is_nan() { 0.0 } else { steps };
            let steps = steps.max(low).min(127.0);
            // Halves go away from zero: the largest number below a half carries them over, and
            // nothing below them.
            let steps = (steps + 0.499_999_97f32.copysign(steps)).trunc();
            // SAFETY: within -128 to 127.
            *out = unsafe { steps.to_int_unchecked::<i32>() } as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    #[test]
    fn every_isa_rounds_as_written() {
        let mut random = Random::new(6);
        let mut reals: Vec<f32> = (0..203).map(|_| (random.unit() * 7.0 - 2.0) as f32).collect();
        reals.extend([f32::NAN, 0.0, -0.0, 1e-30, 2.5, -1.5]);
        for isa in Isa::available() {
            for fit in [Fit::symmetric(isa, &reals), Fit::asymmetric(isa, &reals)] {
                let mut out = vec![0; reals.len()];
                fit.quantise(isa, &reals, &mut out);
                for (&x, &got) in reals.iter().zip(&out) {
                    let steps = (fit.zero_point as f32 + x * fit.inverse).round();
                    let want = (steps as i32).clamp(fit.low as i32, 127);
                    assert_eq!(i32::from(got as i8), want, "{isa:?} {x}");
                    let back = fit.scale * (want - fit.zero_point) as f32;
                    assert!(x.is_nan() || (back - x).abs() <= fit.scale, "{isa:?} {x} {back}");
                }
            }
        }
    }

    #[test]
    fn the_largest_number_is_met_and_zero_is_exact() {
        let isa = Isa::Portable;
        let fit = Fit::symmetric(isa, &[0.5, -2.0]);
        let mut out = [0; 3];
        fit.quantise(isa, &[0.5, -2.0, 0.0], &mut out);
        assert_eq!(out.map(|x| x as i8), [32, -127, 0]);
        let fit = Fit::asymmetric(isa, &[2.0, 5.0]);
        fit.quantise(isa, &[5.0, 0.0, 0.0], &mut out);
        assert_eq!(out.map(|x| i32::from(x as i8)), [127, fit.zero_point, fit.zero_point]);
        assert_eq!(Fit::asymmetric(isa, &[0.0, f32::NAN]).scale, 1.0);
    }
}
