//! Softmax and its logarithm over rows, or over the middle of `outer × length × inner` elements.

use crate::isa::Isa;
use crate::math;
use crate::reduce_f32;
use crate::simd::{Kernel, Simd, dispatch};

/// Softmax: `e^(scale·x) / Σ e^(scale·x)`, computed without overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxF32 {
    /// Multiplies the arguments: TFLite's beta.
    pub scale: f32,
    /// Whether the result is the logarithm of the softmax.
    pub logarithm: bool,
}

impl SoftmaxF32 {
    /// Computes blocks of `length × inner` elements from `input` into `out`: each run of `length`
    /// elements, `inner` apart, is one softmax. A NaN makes its whole run NaN.
    ///
    /// # Panics
    /// Where the sizes differ or are not whole blocks.
    pub fn run(&self, isa: Isa, input: &[f32], length: usize, inner: usize, out: &mut [f32]) {
        assert_eq!(input.len(), out.len(), "input and output of a softmax");
        let block = length * inner;
        if out.is_empty() {
            return;
        }
        assert!(out.len().is_multiple_of(block), "softmax over incomplete blocks");
        dispatch(isa, Run { softmax: self, input, length, inner, out });
    }
}

struct Run<'a> {
    softmax: &'a SoftmaxF32,
    input: &'a [f32],
    length: usize,
    inner: usize,
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { softmax, input, length, inner, out } = self;
        let block = length * inner;
        for (x, y) in input.chunks_exact(block).zip(out.chunks_exact_mut(block)) {
            if inner == 1 {
                softmax.row(s, x, y);
            } else {
                softmax.columns(s, x, inner, y);
            }
        }
    }
}

impl SoftmaxF32 {
    #[inline(always)]
    fn row<S: Simd>(&self, s: S, x: &[f32], y: &mut [f32]) {
        let scale = s.splat(self.scale);
        let max = s.mul(s.splat(reduce_f32::max(s, x)), scale);
        // For a negative scale the largest exponent is at the least element.
        let max = if self.scale < 0.0 {
            let least =
                x.iter().fold(f32::INFINITY, |m, &x| if m < x || m.is_nan() { m } else { x });
            s.mul(s.splat(least), scale)
        } else {
            max
        };
        map(s, x, y, |v| math::exp(s, s.sub(s.mul(v, scale), max)));
        let sum = reduce_f32::sum(s, y);
        if self.logarithm {
            let log = math::log(s, s.splat(sum));
            map(s, x, y, |v| s.sub(s.sub(s.mul(v, scale), max), log));
        } else {
            let factor = s.splat(1.0 / sum);
            let p = y.as_ptr();
            // SAFETY: reads and writes the same row.
            let y_again = unsafe { std::slice::from_raw_parts(p, y.len()) };
            map(s, y_again, y, |v| s.mul(v, factor));
        }
    }

    /// All columns of a `length × inner` block, a vector of them at a time.
    #[inline(always)]
    fn columns<S: Simd>(&self, s: S, x: &[f32], inner: usize, y: &mut [f32]) {
        let scale = s.splat(self.scale);
        let mut c = 0;
        while c < inner {
            let n = (inner - c).min(S::LANES);
            let rows = x.len() / inner;
            // SAFETY: in every row, `n` columns are left from `c` on.
            let load =
                |i: usize| unsafe { s.mul(s.load_n(x.as_ptr().add(i * inner + c), n), scale) };
            let mut max = s.splat(f32::NEG_INFINITY);
            for i in 0..rows {
                max = s.select(s.eq(max, max), s.max(max, load(i)), max);
            }
            let mut sum = s.zero();
            for i in 0..rows {
                let e = math::exp(s, s.sub(load(i), max));
                sum = s.add(sum, e);
                if !self.logarithm {
                    // SAFETY: as above.
                    unsafe { s.store_n(y.as_mut_ptr().add(i * inner + c), e, n) };
                }
            }
            let log = if self.logarithm { math::log(s, sum) } else { sum };
            for i in 0..rows {
                // SAFETY: as above.
                unsafe {
                    let at = y.as_mut_ptr().add(i * inner + c);
                    let v = if self.logarithm {
                        s.sub(s.sub(load(i), max), log)
                    } else {
                        s.div(s.load_n(at, n), sum)
                    };
                    s.store_n(at, v, n);
                }
            }
            c += S::LANES;
        }
    }
}

/// ln Σ eˣ over a row, computed without overflow; NaN where one is NaN, −∞ of nothing.
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f32 {
    dispatch(isa, LogSumExp { row })
}

struct LogSumExp<'a> {
    row: &'a [f32],
}

impl Kernel for LogSumExp<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let top = reduce_f32::max(s, self.row);
        if !top.is_finite() {
            return top;
        }
        let (top_v, mut sum) = (s.splat(top), s.zero());
        let whole = self.row.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: `LANES` elements are left from `i` on.
            let x = unsafe { s.load(self.row.as_ptr().add(i)) };
            sum = s.add(sum, math::exp(s, s.sub(x, top_v)));
        }
        let mut total = s.sum(sum);
        for x in &self.row[whole..] {
            total += s.lanes(math::exp(s, s.splat(x - top)))[0];
        }
        top + total.ln()
    }
}

#[inline(always)]
fn map<S: Simd>(s: S, x: &[f32], y: &mut [f32], f: impl Fn(S::V) -> S::V) {
    for i in (0..x.len()).step_by(S::LANES) {
        let n = (x.len() - i).min(S::LANES);
        // SAFETY: both rows are as long; `n` elements are left from `i` on.
        unsafe { s.store_n(y.as_mut_ptr().add(i), f(s.load_n(x.as_ptr().add(i), n)), n) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn softmax_of_all_shapes_is_right() {
        let mut values = Values::new(14);
        for isa in Isa::available() {
            for (outer, length, inner) in
                [(3, 10, 1), (2, 1001, 1), (1, 1, 1), (2, 21, 37), (1, 2, 500)]
            {
                for (scale, logarithm) in [(1.0, false), (1.0, true), (2.5, false), (-1.0, false)] {
                    let mut input: Vec<f32> =
                        values.floats(outer * length * inner).iter().map(|x| x * 30.0).collect();
                    if outer == 3 {
                        input[12] = f32::NAN;
                        input[25] = 1000.0;
                    }
                    let softmax = SoftmaxF32 { scale, logarithm };
                    let mut out = vec![9.0; input.len()];
                    softmax.run(isa, &input, length, inner, &mut out);
                    let want: Vec<f64> = (0..input.len())
                        .map(|i| {
                            let first = i / (length * inner) * (length * inner) + i % inner;
                            let run = (0..length)
                                .map(|j| f64::from(input[first + j * inner]) * f64::from(scale));
                            let max = run.clone().fold(f64::NEG_INFINITY, f64::max);
                            let sum: f64 = run.map(|x| (x - max).exp()).sum();
                            let x = f64::from(input[i]) * f64::from(scale) - max;
                            if logarithm { x - sum.ln() } else { x.exp() / sum }
                        })
                        .collect();
                    let bound = if logarithm { 1e-4 } else { 5e-6 };
                    assert_close(
                        &format!("{isa:?} {length}×{inner} {softmax:?}"),
                        &out,
                        &want,
                        bound,
                    );
                }
            }
        }
    }

    #[test]
    fn logarithms_of_sums_are_right() {
        let mut values = Values::new(15);
        for isa in Isa::available() {
            for n in [1, 3, 16, 33, 1001] {
                let row: Vec<f32> = values.floats(n).iter().map(|x| x * 90.0).collect();
                let want = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
                let got = f64::from(log_sum_exp(isa, &row));
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{isa:?} {n}");
            }
            assert_eq!(log_sum_exp(isa, &[]), f32::NEG_INFINITY);
            assert!(log_sum_exp(isa, &[1.0, f32::NAN]).is_nan());
            assert_eq!(log_sum_exp(isa, &[1.0, f32::INFINITY]), f32::INFINITY);
        }
    }
}
