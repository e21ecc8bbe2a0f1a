//! Derivatives of functions of one element, times what comes back to each: what training does with
//! [`Unary`].

use crate::elementwise::Unary;
use crate::isa::Isa;
use crate::math;
use crate::simd::{Kernel, Simd, dispatch};

/// The derivative of a function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope(Unary);

impl Slope {
    /// The derivative of `function`, where there is a kernel for it.
    pub fn of(function: Unary) -> Option<Slope> {
        let steps = matches!(function, Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round);
        let scalar = matches!(function, Unary::Sin | Unary::Cos);
        (!steps && !scalar).then_some(Slope(function))
    }

    /// Writes f′(x) · by for every element of `x` and `by` to `out`.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn run(self, isa: Isa, x: &[f32], by: &[f32], out: &mut [f32]) {
        assert!(x.len() == out.len() && by.len() == out.len(), "slope: lengths differ");
        dispatch(isa, Run { function: self.0, x, by, out });
    }
}

struct Run<'a> {
    function: Unary,
    x: &'a [f32],
    by: &'a [f32],
    out: &'a mut [f32],
}

/// Multiplies `by` by the expression for each vector `x`. A macro, and no function that takes a
/// closure: closures are not always inlined, and then lack the instructions.
macro_rules! slope {
    ($run:ident, $s:ident, |$x:ident| $slope:expr) => {{
        for i in (0..$run.out.len()).step_by(S::LANES) {
            let n = ($run.out.len() - i).min(S::LANES);
            // SAFETY: all have `out.len()` elements.
            let ($x, by) = unsafe {
                match n == S::LANES {
                    true => ($s.load($run.x.as_ptr().add(i)), $s.load($run.by.as_ptr().add(i))),
                    false => {
                        let x = $s.load_n($run.x.as_ptr().add(i), n);
                        (x, $s.load_n($run.by.as_ptr().add(i), n))
                    }
                }
            };
            let d = $s.mul($slope, by);
            // SAFETY: as above.
            unsafe {
                match n == S::LANES {
                    true => $s.store($run.out.as_mut_ptr().add(i), d),
                    false => $s.store_n($run.out.as_mut_ptr().add(i), d, n),
                }
            }
        }
    }};
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (zero, one, half) = (s.zero(), s.splat(1.0), s.splat(0.5));
        match self.function {
            Unary::Identity => slope!(self, s, |_x| one),
            Unary::Clamp(low, high) => slope!(self, s, |x| within(s, x, low, high)),
            Unary::LeakyRelu(slope) => {
                let slope = s.splat(slope);
                slope!(self, s, |x| s.select(s.lt(x, zero), slope, one));
            }
            Unary::Elu(alpha) => {
                let alpha = s.splat(alpha);
                slope!(self, s, |x| {
                    s.select(s.lt(x, zero), s.mul(alpha, math::exp(s, x)), one)
                });
            }
            Unary::HardSwish => {
                let (three, sixth) = (s.splat(3.0), s.splat(1.0 / 6.0));
                slope!(self, s, |x| {
                    let gate = s.min(s.splat(6.0), s.max(zero, s.add(x, three)));
                    s.mul(s.fma(x, within(s, x, -3.0, 3.0), gate), sixth)
                });
            }
            Unary::HardSigmoid(alpha, beta) => {
                let (alpha, beta) = (s.splat(alpha), s.splat(beta));
                slope!(self, s, |x| s.mul(alpha, within(s, s.fma(alpha, x, beta), 0.0, 1.0)));
            }
            Unary::Silu => slope!(self, s, |x| {
                let (up, down) = (math::sigmoid(s, x), math::sigmoid(s, s.neg(x)));
                s.mul(up, s.fma(x, down, one))
            }),
            Unary::Sigmoid => {
                slope!(self, s, |x| s.mul(math::sigmoid(s, x), math::sigmoid(s, s.neg(x))))
            }
            Unary::Softplus => slope!(self, s, |x| math::sigmoid(s, x)),
            Unary::Mish => slope!(self, s, |x| {
                let e = math::exp(s, s.neg(s.abs(x)));
                let soft = s.add(s.max(zero, x), math::log(s, s.add(one, e)));
                let tanh = math::tanh(s, soft);
                let steep = s.mul(s.mul(x, math::sigmoid(s, x)), s.fnma(tanh, tanh, one));
                s.add(tanh, steep)
            }),
            Unary::Tanh => slope!(self, s, |x| {
                let tanh = math::tanh(s, x);
                s.fnma(tanh, tanh, one)
            }),
            Unary::Gelu => {
                let root_half = s.splat(std::f32::consts::FRAC_1_SQRT_2);
                // 1 / √(2π)
                let density = s.splat(0.398_942_3);
                slope!(self, s, |x| {
                    let e = math::erf(s, s.mul(x, root_half));
                    let bell = math::exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
                    s.fma(s.mul(x, density), bell, s.mul(half, s.add(one, e)))
                });
            }
            Unary::GeluTanh => {
                let (scale, cubic) = (s.splat(0.797_884_6), s.splat(0.044_715));
                slope!(self, s, |x| {
                    let square = s.mul(x, x);
                    let inner = s.mul(s.mul(scale, x), s.fma(cubic, square, one));
                    let tanh = math::tanh(s, inner);
                    let steep = s.mul(scale, s.fma(s.splat(3.0 * 0.044_715), square, one));
                    let tail = s.mul(s.mul(x, s.fnma(tanh, tanh, one)), steep);
                    s.mul(half, s.add(s.add(one, tanh), tail))
                });
            }
            Unary::Softsign => slope!(self, s, |x| {
                let below = s.add(one, s.abs(x));
                s.div(one, s.mul(below, below))
            }),
            Unary::Erf => {
                // 2 / √π
                let scale = s.splat(std::f32::consts::FRAC_2_SQRT_PI);
                slope!(self, s, |x| s.mul(scale, math::exp(s, s.neg(s.mul(x, x)))));
            }
            Unary::Exp => slope!(self, s, |x| math::exp(s, x)),
            Unary::Log => slope!(self, s, |x| s.div(one, x)),
            Unary::Sqrt => slope!(self, s, |x| s.div(half, s.sqrt(x))),
            Unary::Rsqrt => slope!(self, s, |x| s.div(s.splat(-0.5), s.mul(x, s.sqrt(x)))),
            Unary::Reciprocal => slope!(self, s, |x| s.div(s.splat(-1.0), s.mul(x, x))),
            Unary::Square => slope!(self, s, |x| s.add(x, x)),
            Unary::Abs => slope!(self, s, |x| {
                let positive = s.select(s.lt(zero, x), one, x);
                s.select(s.lt(x, zero), s.splat(-1.0), positive)
            }),
            Unary::Neg => slope!(self, s, |_x| s.splat(-1.0)),
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Sin | Unary::Cos => {
                unreachable!("Slope::of has none of these")
            }
        }
    }
}

/// 1 between the bounds, 0 on them and beyond.
#[inline(always)]
fn within<S: Simd>(s: S, x: S::V, low: f32, high: f32) -> S::V {
    let below = s.select(s.lt(x, s.splat(high)), s.splat(1.0), s.zero());
    s.select(s.lt(s.splat(low), x), below, s.zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, unary};

    /// Every function and its largest sensible argument; of those of positive arguments, negated.
    const ALL: [(Unary, f32); 22] = [
        (Unary::Identity, 9.0),
        (Unary::Clamp(-1.5, 2.5), 5.0),
        (Unary::LeakyRelu(0.3), 5.0),
        (Unary::Elu(1.5), 20.0),
        (Unary::HardSwish, 6.0),
        (Unary::HardSigmoid(0.2, 0.5), 6.0),
        (Unary::Silu, 60.0),
        (Unary::Sigmoid, 60.0),
        (Unary::Tanh, 12.0),
        (Unary::Gelu, 8.0),
        (Unary::GeluTanh, 8.0),
        (Unary::Mish, 40.0),
        (Unary::Softplus, 60.0),
        (Unary::Softsign, 1e3),
        (Unary::Erf, 6.0),
        (Unary::Exp, 10.0),
        (Unary::Log, -1e3),
        (Unary::Sqrt, -1e3),
        (Unary::Rsqrt, -1e3),
        (Unary::Reciprocal, -1e3),
        (Unary::Square, 1e3),
        (Unary::Abs, 1e3),
    ];

    /// Differences in f64 of the function itself, where it has no corner near.
    fn slope(f: Unary, x: f64) -> Option<f64> {
        let step = 1e-5 * x.abs().max(1e-3);
        let at = |x| unary(f, x);
        let (ahead, behind) = ((at(x + step) - at(x)) / step, (at(x) - at(x - step)) / step);
        let smooth = (ahead - behind).abs() <= 1e-3 * (ahead.abs() + behind.abs()).max(1e-3);
        smooth.then(|| (at(x + step) - at(x - step)) / (2.0 * step))
    }

    #[test]
    fn slopes_are_those_of_the_functions() {
        let mut values = Values::new(31);
        for isa in Isa::available() {
            for (f, largest) in ALL {
                let spread = |v: f32| match largest < 0.0 {
                    true => v.abs() * -largest + 0.1,
                    false => v * largest,
                };
                let x: Vec<f32> = values.floats(501).into_iter().map(spread).collect();
                let by = values.floats(501);
                let mut out = vec![9.0; x.len()];
                Slope::of(f).unwrap().run(isa, &x, &by, &mut out);
                let mut seen = 0;
                for ((x, by), out) in x.iter().zip(&by).zip(&out) {
                    let Some(want) = slope(f, f64::from(*x)) else { continue };
                    let want = want * f64::from(*by);
                    let off = (f64::from(*out) - want).abs();
                    assert!(
                        off <= 2e-5 * want.abs().max(1.0),
                        "{isa:?} {f:?}′({x}): {out}, not {want}"
                    );
                    seen += 1;
                }
                assert!(seen > 400, "{f:?}: {seen}");
            }
        }
    }

    #[test]
    fn corners_are_flat_and_steps_have_no_slope() {
        for isa in Isa::available() {
            let mut out = [9.0; 4];
            let relu = Slope::of(Unary::RELU).unwrap();
            relu.run(isa, &[0.0, -0.0, 1.0, f32::NAN], &[1.0; 4], &mut out);
            assert_eq!(out, [0.0, 0.0, 1.0, 0.0], "{isa:?}");
        }
        assert_eq!(Slope::of(Unary::Round), None);
        assert_eq!(Slope::of(Unary::Sin), None);
    }
}
