//! Normalisation of channels by the batch's own mean and variance, as in training, and its gradient.
//! Images are channels-last: rows of a pixel's channels.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// Sums over rows, one for each channel.
#[derive(Clone, Copy)]
pub enum Sums<'a> {
    /// Of x.
    Values,
    /// Of (x − mean)².
    Squares {
        /// The means.
        mean: &'a [f32],
    },
    /// Of (x − mean)², of dy, and of dy (x − mean), one after the other.
    Gradient {
        /// The means.
        mean: &'a [f32],
        /// As many rows as x.
        dy: &'a [f32],
    },
}

impl Sums<'_> {
    /// How many sums there are for each channel.
    pub fn count(&self) -> usize {
        if let Sums::Gradient { .. } = self { 3 } else { 1 }
    }

    /// Sums up rows of `channels` elements of `x` into `out`.
    ///
    /// # Panics
    /// Where lengths do not fit each other.
    pub fn run(&self, isa: Isa, x: &[f32], channels: usize, out: &mut [f32]) {
        assert!(channels > 0 && x.len().is_multiple_of(channels), "incomplete rows");
        assert_eq!(out.len(), self.count() * channels, "sums");
        if let Sums::Squares { mean } | Sums::Gradient { mean, .. } = self {
            assert_eq!(mean.len(), channels, "means");
        }
        if let Sums::Gradient { dy, .. } = self {
            assert_eq!(dy.len(), x.len(), "gradients");
        }
        dispatch(isa, SumUp { sums: *self, x, channels, out });
    }
}

struct SumUp<'a> {
    sums: Sums<'a>,
    x: &'a [f32],
    channels: usize,
    out: &'a mut [f32],
}

impl Kernel for SumUp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let SumUp { sums, x, channels, out } = self;
        let rows = x.len() / channels;
        for first in (0..channels).step_by(S::LANES) {
            let n = (channels - first).min(S::LANES);
            // SAFETY: every row, and every list of means and sums, has `channels` elements, of which
            // `n` are left from `first` on; `Sums::run` has checked the lengths.
            unsafe {
                let at =
                    |of: &[f32], row: usize| s.load_n(of.as_ptr().add(row * channels + first), n);
                let mut found = [s.zero(); 3];
                match sums {
                    Sums::Values => {
                        for row in 0..rows {
                            found[0] = s.add(found[0], at(x, row));
                        }
                    }
                    Sums::Squares { mean } => {
                        let mean = at(mean, 0);
                        for row in 0..rows {
                            let off = s.sub(at(x, row), mean);
                            found[0] = s.fma(off, off, found[0]);
                        }
                    }
                    Sums::Gradient { mean, dy } => {
                        let mean = at(mean, 0);
                        for row in 0..rows {
                            let (off, dy) = (s.sub(at(x, row), mean), at(dy, row));
                            found[0] = s.fma(off, off, found[0]);
                            found[1] = s.add(found[1], dy);
                            found[2] = s.fma(dy, off, found[2]);
                        }
                    }
                }
                for (i, sum) in found.into_iter().enumerate().take(sums.count()) {
                    s.store_n(out.as_mut_ptr().add(i * channels + first), sum, n);
                }
            }
        }
    }
}

/// Writes `by_x` · x + `by_dy` · dy + `shift`, rows of as many elements as each of the three has.
///
/// # Panics
/// Where lengths do not fit each other.
pub fn combine(
    isa: Isa,
    (x, by_x): (&[f32], &[f32]),
    (dy, by_dy): (&[f32], &[f32]),
    shift: &[f32],
    out: &mut [f32],
) {
    let channels = shift.len();
    assert!(by_x.len() == channels && by_dy.len() == channels, "factors");
    assert!(x.len() == out.len() && dy.len() == out.len(), "rows");
    assert!(channels > 0 && out.len().is_multiple_of(channels), "incomplete rows");
    dispatch(isa, Combine { x, by_x, dy, by_dy, shift, out });
}

struct Combine<'a> {
    x: &'a [f32],
    by_x: &'a [f32],
    dy: &'a [f32],
    by_dy: &'a [f32],
    shift: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Combine { x, by_x, dy, by_dy, shift, out } = self;
        let channels = shift.len();
        for (row, out) in out.chunks_exact_mut(channels).enumerate() {
            for first in (0..channels).step_by(S::LANES) {
                let n = (channels - first).min(S::LANES);
                // SAFETY: every row has `channels` elements, of which `n` are left from `first` on.
                unsafe {
                    let load = |of: &[f32], at: usize| s.load_n(of.as_ptr().add(at), n);
                    let at = row * channels + first;
                    let sum = s.fma(load(x, at), load(by_x, first), load(shift, first));
                    let sum = s.fma(load(dy, at), load(by_dy, first), sum);
                    s.store_n(out.as_mut_ptr().add(first), sum, n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn sums_and_combinations_are_right() {
        let mut values = Values::new(51);
        for channels in [1, 16, 21, 100] {
            let (x, dy) = (values.floats(37 * channels), values.floats(37 * channels));
            let [mean, by_x, by_dy, shift] = [0; 4].map(|_| values.floats(channels));
            let sum = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
                let of = |c: usize| {
                    let rows = (c..x.len()).step_by(channels);
                    rows.map(|i| f(x[i].into(), dy[i].into(), mean[c].into())).sum()
                };
                (0..channels).map(of).collect()
            };
            let squares = sum(&|x, _, m| (x - m).powi(2));
            let all =
                [squares.clone(), sum(&|_, dy, _| dy), sum(&|x, dy, m| dy * (x - m))].concat();
            for isa in Isa::available() {
                let mut out = vec![9.0; channels];
                Sums::Values.run(isa, &x, channels, &mut out);
                assert_close(&format!("{isa:?} values"), &out, &sum(&|x, _, _| x), 1e-5);
                Sums::Squares { mean: &mean }.run(isa, &x, channels, &mut out);
                assert_close(&format!("{isa:?} squares"), &out, &squares, 1e-5);
                let mut out = vec![9.0; 3 * channels];
                Sums::Gradient { mean: &mean, dy: &dy }.run(isa, &x, channels, &mut out);
                assert_close(&format!("{isa:?} gradient"), &out, &all, 1e-5);
                let mut out = vec![9.0; x.len()];
                combine(isa, (&x, &by_x), (&dy, &by_dy), &shift, &mut out);
                let want: Vec<f64> = (0..x.len())
                    .map(|i| {
                        let c = i % channels;
                        let [x, a, dy, b, s] =
                            [x[i], by_x[c], dy[i], by_dy[c], shift[c]].map(f64::from);
                        x * a + dy * b + s
                    })
                    .collect();
                assert_close(&format!("{isa:?} combined"), &out, &want, 1e-6);
            }
        }
    }
}
