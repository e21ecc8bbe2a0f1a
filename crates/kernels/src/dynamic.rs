//! Floats quantised to signed bytes as they come, with the scale that fits them: what TensorFlow
//! Lite's hybrid operators do with their inputs.

use crate::elementwise::Unary;
use crate::isa::Isa;
use crate::simd::{self, Simd, dispatch};
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

/// What becomes of sums of products of quantised floats with weights. Every slice has an element
/// for each channel.
#[derive(Clone, Copy, Debug)]
pub struct Restore<'a> {
    /// The sum of each channel's weights.
    pub weight_sums: &'a [i32],
    /// Their scales.
    pub scales: &'a [f32],
    /// Added to the products.
    pub bias: &'a [f32],
    /// The order of factors, which rounding tells: weights' scale, then the floats'; else the
    /// product of the two first.
    pub floats_last: bool,
    /// Applied to the results.
    pub activation: Unary,
}

impl Restore<'_> {
    /// Replaces sums, the bits of `rows`, by results. The floats' scale and zero point are `fit`.
    ///
    /// # Panics
    /// If the slices differ in length, or `rows` are not rows of as many channels.
    pub fn run(&self, isa: Isa, fit: (f32, i32), rows: &mut [f32]) {
        let channels = self.scales.len();
        assert!(self.weight_sums.len() == channels && self.bias.len() == channels, "channels");
        assert!(channels > 0 && rows.len().is_multiple_of(channels), "whole rows");
        let clamp = self.activation.as_clamp();
        let bounds = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        dispatch(isa, Restoring { restore: self, fit, clamp: bounds, rows });
        if clamp.is_none() {
            self.activation.run(isa, rows);
        }
    }
}

struct Restoring<'a> {
    restore: &'a Restore<'a>,
    fit: (f32, i32),
    clamp: (f32, f32),
    rows: &'a mut [f32],
}

impl simd::Kernel for Restoring<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Restoring { restore, fit: (scale, zero), clamp, rows } = self;
        let channels = restore.scales.len();
        let (scale, zero) = (s.splat(scale), s.isplat(zero));
        let (low, high) = (s.splat(clamp.0), s.splat(clamp.1));
        for row in rows.chunks_exact_mut(channels) {
            for c in (0..channels).step_by(S::LANES) {
                let n = (channels - c).min(S::LANES);
                // SAFETY: every slice has `channels` elements, of which `n` follow.
                unsafe {
                    let at = row.as_mut_ptr().add(c);
                    let weights = s.bits(s.load_n(restore.weight_sums.as_ptr().add(c).cast(), n));
                    let of_weights = s.load_n(restore.scales.as_ptr().add(c), n);
                    let bias = s.load_n(restore.bias.as_ptr().add(c), n);
                    let sum = s.isub(s.bits(s.load_n(at, n)), s.imul(zero, weights));
                    let sum = s.to_float(sum);
                    let product = match restore.floats_last {
                        true => s.mul(s.mul(sum, of_weights), scale),
                        false => s.mul(sum, s.mul(scale, of_weights)),
                    };
                    s.store_n(at, s.min(high, s.max(low, s.add(product, bias))), n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    #[test]
    fn every_isa_restores_as_written() {
        let mut random = Random::new(9);
        for channels in [1, 3, 16, 37, 64] {
            let rows = 3;
            let mut floats = || (0..channels).map(|_| random.unit() as f32 - 0.3).collect();
            let (scales, bias): (Vec<f32>, Vec<f32>) = (floats(), floats());
            let mut ints =
                |n: usize| (0..n).map(|_| random.range(-90_000, 90_000) as i32).collect();
            let (weight_sums, sums): (Vec<i32>, Vec<i32>) = (ints(channels), ints(rows * channels));
            for (floats_last, scale, zero) in [(false, 1e-3, 0), (true, 1e-2, -7)] {
                for activation in [Unary::Identity, Unary::RELU6, Unary::Tanh] {
                    let restore = Restore {
                        weight_sums: &weight_sums,
                        scales: &scales,
                        bias: &bias,
                        floats_last,
                        activation,
                    };
                    let want: Vec<f32> = sums
                        .iter()
                        .enumerate()
                        .map(|(i, &sum)| {
                            let c = i % channels;
                            let sum = (sum - zero * weight_sums[c]) as f32;
                            match floats_last {
                                true => sum * scales[c] * scale + bias[c],
                                false => bias[c] + sum * (scale * scales[c]),
                            }
                        })
                        .collect();
                    for isa in Isa::available() {
                        let mut got: Vec<f32> =
                            sums.iter().map(|&sum| f32::from_bits(sum as u32)).collect();
                        restore.run(isa, (scale, zero), &mut got);
                        let mut want = want.clone();
                        activation.run(isa, &mut want);
                        assert_eq!(got, want, "{isa:?} {channels} {activation:?}");
                    }
                }
            }
        }
    }

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
