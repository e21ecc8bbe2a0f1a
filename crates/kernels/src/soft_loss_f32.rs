//! How far the probabilities of a row of scores are from those of another, and the gradient of that.

use crate::isa::Isa;
use crate::math;
use crate::reduce_f32;
use crate::simd::{Kernel, Simd, dispatch};

/// KL(softmax(`scale` z) ‖ softmax(`scale` x)) in nats, which is Σ p ln (p / q). A NaN makes it NaN.
///
/// # Panics
/// If the lengths differ.
pub fn divergence(isa: Isa, x: &[f32], z: &[f32], scale: f32) -> f32 {
    assert_eq!(x.len(), z.len(), "scores of two rows");
    dispatch(isa, Divergence { x, z, scale })
}

/// Writes `factor` (softmax(`scale` x) − softmax(`scale` z)).
///
/// # Panics
/// If the lengths differ.
pub fn difference(isa: Isa, x: &[f32], z: &[f32], scale: f32, factor: f32, out: &mut [f32]) {
    assert!(x.len() == z.len() && x.len() == out.len(), "scores of two rows");
    dispatch(isa, Difference { x, z, scale, factor, out });
}

/// ln Σ e^(scale x).
#[inline(always)]
fn log_sum<S: Simd>(s: S, row: &[f32], scale: f32) -> f32 {
    let top = reduce_f32::max(s, row) * scale;
    let mut sum = s.zero();
    let mut total = 0.0;
    let whole = row.len() / S::LANES * S::LANES;
    let each = |x| math::exp(s, s.sub(s.mul(x, s.splat(scale)), s.splat(top)));
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: `LANES` elements are left from `i` on.
        sum = s.add(sum, each(unsafe { s.load(row.as_ptr().add(i)) }));
    }
    for x in &row[whole..] {
        total += s.lanes(each(s.splat(*x)))[0];
    }
    top + (total + s.sum(sum)).ln()
}

struct Divergence<'a> {
    x: &'a [f32],
    z: &'a [f32],
    scale: f32,
}

impl Kernel for Divergence<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Divergence { x, z, scale } = self;
        let (of_x, of_z) = (log_sum(s, x, scale), log_sum(s, z, scale));
        let each = |x, z| {
            let p = s.sub(s.mul(z, s.splat(scale)), s.splat(of_z));
            let q = s.sub(s.mul(x, s.splat(scale)), s.splat(of_x));
            s.mul(math::exp(s, p), s.sub(p, q))
        };
        let whole = x.len() / S::LANES * S::LANES;
        let (mut sum, mut rest) = (s.zero(), 0.0);
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: both rows are as long; `LANES` elements are left from `i` on.
            let (x, z) = unsafe { (s.load(x.as_ptr().add(i)), s.load(z.as_ptr().add(i))) };
            sum = s.add(sum, each(x, z));
        }
        for (x, z) in x[whole..].iter().zip(&z[whole..]) {
            rest += s.lanes(each(s.splat(*x), s.splat(*z)))[0];
        }
        rest + s.sum(sum)
    }
}

struct Difference<'a> {
    x: &'a [f32],
    z: &'a [f32],
    scale: f32,
    factor: f32,
    out: &'a mut [f32],
}

impl Kernel for Difference<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Difference { x, z, scale, factor, out } = self;
        let (of_x, of_z) = (log_sum(s, x, scale), log_sum(s, z, scale));
        let probability = |v, of| math::exp(s, s.sub(s.mul(v, s.splat(scale)), s.splat(of)));
        for i in (0..x.len()).step_by(S::LANES) {
            let n = (x.len() - i).min(S::LANES);
            // SAFETY: all three rows are as long; `n` elements are left from `i` on.
            unsafe {
                let q = probability(s.load_n(x.as_ptr().add(i), n), of_x);
                let p = probability(s.load_n(z.as_ptr().add(i), n), of_z);
                let dx = s.mul(s.splat(factor), s.sub(q, p));
                s.store_n(out.as_mut_ptr().add(i), dx, n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn every_isa_measures_rows_of_all_lengths() {
        let mut values = Values::new(31);
        for n in [1, 3, 16, 33, 1001] {
            let x: Vec<f32> = values.floats(n).iter().map(|v| v * 20.0).collect();
            let z: Vec<f32> = values.floats(n).iter().map(|v| v * 20.0).collect();
            for scale in [1.0f32, 0.25] {
                let logs = |row: &[f32]| -> Vec<f64> {
                    let row: Vec<f64> = row.iter().map(|v| f64::from(*v * scale)).collect();
                    let sum: f64 = row.iter().map(|v| v.exp()).sum();
                    row.iter().map(|v| v - sum.ln()).collect()
                };
                let (q, p) = (logs(&x), logs(&z));
                let want: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
                let slopes: Vec<f64> =
                    q.iter().zip(&p).map(|(q, p)| 3.0 * (q.exp() - p.exp())).collect();
                for isa in Isa::available() {
                    let got = f64::from(divergence(isa, &x, &z, scale));
                    assert!(
                        (got - want).abs() <= 2e-5 * want.max(1.0),
                        "{isa:?} {n}: {got} for {want}"
                    );
                    let mut out = vec![9.0; n];
                    difference(isa, &x, &z, scale, 3.0, &mut out);
                    assert_close(&format!("{isa:?} {n}"), &out, &slopes, 2e-5);
                }
            }
        }
        for isa in Isa::available() {
            assert_eq!(divergence(isa, &[5.0, 1.0], &[5.0, 1.0], 0.5), 0.0);
            assert!(divergence(isa, &[f32::NAN, 1.0], &[5.0, 1.0], 0.5).is_nan());
        }
    }
}
