//! Reductions of `outer × length × inner` elements over the middle: sums, means, extremes.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// What a reduction makes of its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their sum over their number.
    Mean,
    /// The sum of their squares.
    SumOfSquares,
    /// The sum of their magnitudes.
    SumOfMagnitudes,
    /// Their product.
    Product,
    /// The largest; NaN if any is.
    Max,
    /// The least; NaN if any is.
    Min,
}

impl Reduction {
    /// Reduces `input`, `outer` blocks of `length × inner` elements, into `out`, as many blocks of
    /// `inner` elements. Of nothing (`length` 0) the result is the reduction's neutral element, and
    /// NaN for the mean.
    ///
    /// # Panics
    /// Where the sizes do not fit each other.
    pub fn run(self, isa: Isa, input: &[f32], length: usize, inner: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        assert!(out.len().is_multiple_of(inner), "output of a reduction");
        let outer = out.len() / inner;
        let needed = outer.checked_mul(length).and_then(|n| n.checked_mul(inner));
        assert_eq!(needed, Some(input.len()), "input of a reduction");
        dispatch(isa, Run { reduction: self, input, length, inner, out });
    }
}

struct Run<'a> {
    reduction: Reduction,
    input: &'a [f32],
    length: usize,
    inner: usize,
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.length as f32;
        let (add, none) = (|a, b| s.add(a, b), |x: f32| x);
        let add1 = |a: f32, b: f32| a + b;
        match self.reduction {
            Reduction::Sum => self.fold(s, 0.0, |x| x, add, add1, none),
            Reduction::Mean => self.fold(s, 0.0, |x| x, add, add1, |x| x / n),
            Reduction::SumOfSquares => self.fold(s, 0.0, |x| s.mul(x, x), add, add1, none),
            Reduction::SumOfMagnitudes => self.fold(s, 0.0, |x| s.abs(x), add, add1, none),
            Reduction::Product => {
                self.fold(s, 1.0, |x| x, |a, b| s.mul(a, b), |a, b| a * b, none);
            }
            Reduction::Max => {
                let keep = |a, b| s.select(s.eq(a, a), s.max(a, b), a);
                let keep1 = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
                self.fold(s, f32::NEG_INFINITY, |x| x, keep, keep1, none);
            }
            Reduction::Min => {
                let keep = |a, b| s.select(s.eq(a, a), s.min(a, b), a);
                let keep1 = |a: f32, b: f32| if a < b || a.is_nan() { a } else { b };
                self.fold(s, f32::INFINITY, |x| x, keep, keep1, none);
            }
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn fold<S: Simd>(
        self,
        s: S,
        neutral: f32,
        prepare: impl Fn(S::V) -> S::V,
        join: impl Fn(S::V, S::V) -> S::V,
        join_one: impl Fn(f32, f32) -> f32,
        finish: impl Fn(f32) -> f32,
    ) {
        let Run { input, length, inner, out, .. } = self;
        for (i, out) in out.chunks_exact_mut(inner).enumerate() {
            let block = &input[i * length * inner..][..length * inner];
            if inner == 1 {
                let lanes = fold_row(s, block, neutral, &prepare, &join);
                let lanes = s.lanes(lanes);
                let mut n = S::LANES;
                let mut lanes = lanes;
                while n > 1 {
                    n /= 2;
                    for l in 0..n {
                        lanes[l] = join_one(lanes[l], lanes[l + n]);
                    }
                }
                out[0] = finish(lanes[0]);
                continue;
            }
            let mut c = 0;
            while c < inner {
                let n = (inner - c).min(S::LANES);
                let mut acc = s.splat(neutral);
                // Blocks of a bounded length keep the error of long sums small.
                for rows in block.chunks(BLOCK * inner) {
                    let mut part = s.splat(neutral);
                    for row in rows.chunks_exact(inner) {
                        // SAFETY: `n` columns are left from `c` on.
                        let v = unsafe { s.load_n(row.as_ptr().add(c), n) };
                        part = join(part, prepare(v));
                    }
                    acc = join(acc, part);
                }
                // SAFETY: `n` columns are left from `c` on.
                unsafe { s.store_n(out.as_mut_ptr().add(c), acc, n) };
                c += S::LANES;
            }
            out.iter_mut().for_each(|x| *x = finish(*x));
        }
    }
}

/// How many elements are joined one after the other before the result joins the others'.
const BLOCK: usize = 256;

/// Joins the elements of a row into a vector whose lanes are still to be joined.
#[inline(always)]
fn fold_row<S: Simd>(
    s: S,
    row: &[f32],
    neutral: f32,
    prepare: &impl Fn(S::V) -> S::V,
    join: &impl Fn(S::V, S::V) -> S::V,
) -> S::V {
    let neutral = s.splat(neutral);
    let mut total = neutral;
    for part in row.chunks(BLOCK * S::LANES) {
        let mut acc = [neutral; 4];
        let whole = part.len() / (4 * S::LANES) * (4 * S::LANES);
        let mut i = 0;
        while i < whole {
            for (j, acc) in acc.iter_mut().enumerate() {
                // SAFETY: four vectors are left before `whole`.
                let v = unsafe { s.load(part.as_ptr().add(i + j * S::LANES)) };
                *acc = join(*acc, prepare(v));
            }
            i += 4 * S::LANES;
        }
        for rest in part[whole..].chunks(S::LANES) {
            let mut last = [0.0; 16];
            s_store(s, &mut last, neutral);
            let n = rest.len();
            // The lanes past the end stay neutral.
            // SAFETY: `n` elements are in `rest`, and 16 in `last`.
            unsafe {
                s.store_n(last.as_mut_ptr(), prepare(s.load_n(rest.as_ptr(), n)), n);
                acc[0] = join(acc[0], s.load(last.as_ptr()));
            }
        }
        let [a, b, c, d] = acc;
        total = join(total, join(join(a, b), join(c, d)));
    }
    total
}

#[inline(always)]
fn s_store<S: Simd>(s: S, to: &mut [f32; 16], v: S::V) {
    // SAFETY: no instruction set has more than 16 lanes.
    unsafe { s.store(to.as_mut_ptr(), v) };
}

/// The sum of a row.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, row: &[f32]) -> f32 {
    s.sum(fold_row(s, row, 0.0, &|x| x, &|a, b| s.add(a, b)))
}

/// The sum of the squares of a row's distances from `mean`.
#[inline(always)]
pub(crate) fn squared_distances<S: Simd>(s: S, row: &[f32], mean: f32) -> f32 {
    let mean = s.splat(mean);
    let square = |x| {
        let d = s.sub(x, mean);
        s.mul(d, d)
    };
    s.sum(fold_row(s, row, 0.0, &square, &|a, b| s.add(a, b)))
}

/// The largest element of a row; NaN if any is, −∞ if there is none.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, row: &[f32]) -> f32 {
    let keep = |a, b| s.select(s.eq(a, a), s.max(a, b), a);
    let lanes = s.lanes(fold_row(s, row, f32::NEG_INFINITY, &|x| x, &keep));
    let greater = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    lanes[..S::LANES].iter().copied().fold(f32::NEG_INFINITY, greater)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn reductions_of_all_shapes_are_right() {
        let mut values = Values::new(13);
        let all = [
            Reduction::Sum,
            Reduction::Mean,
            Reduction::SumOfSquares,
            Reduction::SumOfMagnitudes,
            Reduction::Product,
            Reduction::Max,
            Reduction::Min,
        ];
        for isa in Isa::available() {
            for reduction in all {
                for (outer, length, inner) in [
                    (3, 5, 1),
                    (2, 70, 1),
                    (1, 9000, 1),
                    (2, 700, 3),
                    (1, 49, 37),
                    (3, 1, 20),
                    (2, 0, 3),
                ] {
                    let mut input = values.floats(outer * length * inner + 1);
                    if length == 70 {
                        input[40] = f32::NAN;
                    }
                    let input = &input[1..];
                    let mut out = vec![9.0; outer * inner];
                    reduction.run(isa, input, length, inner, &mut out);
                    let want: Vec<f64> = (0..outer * inner)
                        .map(|i| {
                            let (o, c) = (i / inner, i % inner);
                            let all =
                                (0..length).map(|j| f64::from(input[(o * length + j) * inner + c]));
                            let extreme = |start: f64, above: fn(f64, f64) -> bool| {
                                all.clone().fold(start, |m, x| {
                                    if m.is_nan() || above(m, x) { m } else { x }
                                })
                            };
                            match reduction {
                                Reduction::Sum => all.sum(),
                                Reduction::Mean => all.sum::<f64>() / length as f64,
                                Reduction::SumOfSquares => all.map(|x| x * x).sum(),
                                Reduction::SumOfMagnitudes => all.map(f64::abs).sum(),
                                Reduction::Product => all.product(),
                                Reduction::Max => extreme(f64::NEG_INFINITY, |m, x| m > x),
                                Reduction::Min => extreme(f64::INFINITY, |m, x| m < x),
                            }
                        })
                        .collect();
                    let scale =
                        want.iter().filter(|w| w.is_finite()).fold(1.0, |m: f64, w| m.max(w.abs()));
                    assert_close(
                        &format!("{isa:?} {reduction:?} {length}"),
                        &out,
                        &want,
                        1e-6 * scale,
                    );
                }
            }
        }
    }
}
