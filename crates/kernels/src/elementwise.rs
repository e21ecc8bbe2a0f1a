//! Functions of one element and of two, with the usual broadcasts.

use crate::isa::Isa;
use crate::math;
use crate::simd::{Kernel, Simd, dispatch};

/// A function of one element. Alone, or as the activation in another kernel's epilogue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Unary {
    /// x
    #[default]
    Identity,
    /// min(max(x, low), high): ReLU is `Clamp(0, ∞)`.
    Clamp(f32, f32),
    /// x where positive, else `slope`·x.
    LeakyRelu(f32),
    /// x where positive, else `alpha`·(eˣ − 1).
    Elu(f32),
    /// x · min(max(x + 3, 0), 6) / 6
    HardSwish,
    /// min(max(`alpha`·x + `beta`, 0), 1)
    HardSigmoid(f32, f32),
    /// x / (1 + e⁻ˣ)
    Silu,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// x · Φ(x), with the error function.
    Gelu,
    /// The approximation of [`Self::Gelu`] with tanh.
    GeluTanh,
    /// x · tanh(softplus(x))
    Mish,
    /// ln(1 + eˣ)
    Softplus,
    /// x / (1 + |x|)
    Softsign,
    /// The error function.
    Erf,
    /// eˣ
    Exp,
    /// The natural logarithm.
    Log,
    /// The square root.
    Sqrt,
    /// 1 / √x
    Rsqrt,
    /// 1 / x
    Reciprocal,
    /// x²
    Square,
    /// The magnitude.
    Abs,
    /// −x
    Neg,
    /// The sign, 0 for 0.
    Sign,
    /// Rounds down.
    Floor,
    /// Rounds up.
    Ceil,
    /// Rounds to nearest, halves to even.
    Round,
    /// The sine; computed one element at a time, as the next.
    Sin,
    /// The cosine.
    Cos,
}

impl Unary {
    /// max(x, 0)
    pub const RELU: Unary = Unary::Clamp(0.0, f32::INFINITY);
    /// min(max(x, 0), 6)
    pub const RELU6: Unary = Unary::Clamp(0.0, 6.0);

    /// The bounds, where the function is a clamp (or nothing).
    pub fn as_clamp(self) -> Option<(f32, f32)> {
        match self {
            Unary::Identity => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Unary::Clamp(low, high) => Some((low, high)),
            _ => None,
        }
    }

    /// Replaces every element of `data` by its image.
    pub fn run(self, isa: Isa, data: &mut [f32]) {
        dispatch(isa, self.on(data));
    }

    /// Writes the image of every element of `input` to `output`, which is as long.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn run_to(self, isa: Isa, input: &[f32], output: &mut [f32]) {
        assert_eq!(input.len(), output.len(), "input and output differ in length");
        dispatch(isa, UnaryKernel { unary: self, input: input.as_ptr(), output });
    }

    pub(crate) fn on(self, data: &mut [f32]) -> UnaryKernel<'_> {
        UnaryKernel { unary: self, input: data.as_ptr(), output: data }
    }
}

/// `output.len()` elements from `input`, which may be `output`.
pub(crate) struct UnaryKernel<'a> {
    unary: Unary,
    input: *const f32,
    output: &'a mut [f32],
}

/// Replaces each vector `x` of the input by the expression. A macro, and no function that takes a
/// closure: closures are not always inlined, and then lack the instructions.
macro_rules! map {
    ($work:ident, $s:ident, |$x:ident| $image:expr) => {{
        let len = $work.output.len();
        let (input, output) = ($work.input, $work.output.as_mut_ptr());
        let mut i = 0;
        while i < len {
            let n = (len - i).min(S::LANES);
            // SAFETY: `input` and `output` have `len` elements; an element is read before it is
            // written.
            let $x = unsafe {
                if n == S::LANES { $s.load(input.add(i)) } else { $s.load_n(input.add(i), n) }
            };
            let image = $image;
            // SAFETY: as above.
            unsafe {
                match n == S::LANES {
                    true => $s.store(output.add(i), image),
                    false => $s.store_n(output.add(i), image, n),
                }
            }
            i += S::LANES;
        }
    }};
}

impl UnaryKernel<'_> {
    #[inline(always)]
    fn each(self, f: impl Fn(f32) -> f32) {
        for (i, y) in self.output.iter_mut().enumerate() {
            // SAFETY: `input` has as many elements; it is a pointer because it may be `output`.
            *y = f(unsafe { self.input.add(i).read() });
        }
    }
}

impl Kernel for UnaryKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (zero, one, half) = (s.zero(), s.splat(1.0), s.splat(0.5));
        match self.unary {
            Unary::Identity if self.input == self.output.as_ptr() => {}
            Unary::Identity => map!(self, s, |x| x),
            Unary::Clamp(low, high) => {
                let (low, high) = (s.splat(low), s.splat(high));
                map!(self, s, |x| s.min(high, s.max(low, x)));
            }
            Unary::LeakyRelu(slope) => {
                let slope = s.splat(slope);
                map!(self, s, |x| s.select(s.lt(x, zero), s.mul(slope, x), x));
            }
            Unary::Elu(alpha) => {
                let alpha = s.splat(alpha);
                map!(self, s, |x| s.select(s.lt(x, zero), s.mul(alpha, exp_minus_one(s, x)), x));
            }
            Unary::HardSwish => {
                let (three, sixth) = (s.splat(3.0), s.splat(1.0 / 6.0));
                map!(self, s, |x| s.mul(s.mul(x, sixth), clamp(s, 0.0, 6.0, s.add(x, three))));
            }
            Unary::HardSigmoid(alpha, beta) => {
                let (alpha, beta) = (s.splat(alpha), s.splat(beta));
                map!(self, s, |x| clamp(s, 0.0, 1.0, s.fma(alpha, x, beta)));
            }
            Unary::Silu => map!(self, s, |x| s.mul(x, math::sigmoid(s, x))),
            Unary::Sigmoid => map!(self, s, |x| math::sigmoid(s, x)),
            Unary::Tanh => map!(self, s, |x| math::tanh(s, x)),
            Unary::Gelu => {
                let root_half = s.splat(std::f32::consts::FRAC_1_SQRT_2);
                map!(self, s, |x| {
                    let e = math::erf(s, s.mul(x, root_half));
                    s.mul(s.mul(half, x), s.add(one, e))
                });
            }
            Unary::GeluTanh => {
                let (scale, cubic) = (s.splat(0.797_884_6), s.splat(0.044_715));
                map!(self, s, |x| {
                    let cube = s.mul(s.mul(x, x), x);
                    let t = math::tanh(s, s.mul(scale, s.fma(cubic, cube, x)));
                    s.mul(s.mul(half, x), s.add(one, t))
                });
            }
            Unary::Mish => map!(self, s, |x| s.mul(x, math::tanh(s, softplus(s, x)))),
            Unary::Softplus => map!(self, s, |x| softplus(s, x)),
            Unary::Softsign => map!(self, s, |x| s.div(x, s.add(one, s.abs(x)))),
            Unary::Erf => map!(self, s, |x| math::erf(s, x)),
            Unary::Exp => map!(self, s, |x| math::exp(s, x)),
            Unary::Log => map!(self, s, |x| math::log(s, x)),
            Unary::Sqrt => map!(self, s, |x| s.sqrt(x)),
            Unary::Rsqrt => map!(self, s, |x| s.div(one, s.sqrt(x))),
            Unary::Reciprocal => map!(self, s, |x| s.div(one, x)),
            Unary::Square => map!(self, s, |x| s.mul(x, x)),
            Unary::Abs => map!(self, s, |x| s.abs(x)),
            Unary::Neg => map!(self, s, |x| s.neg(x)),
            Unary::Sign => map!(self, s, |x| {
                let positive = s.select(s.lt(zero, x), one, x);
                s.select(s.lt(x, zero), s.splat(-1.0), positive)
            }),
            Unary::Floor => map!(self, s, |x| s.floor(x)),
            Unary::Ceil => map!(self, s, |x| s.ceil(x)),
            Unary::Round => map!(self, s, |x| s.round(x)),
            Unary::Sin => self.each(f32::sin),
            Unary::Cos => self.each(f32::cos),
        }
    }
}

#[inline(always)]
fn clamp<S: Simd>(s: S, low: f32, high: f32, x: S::V) -> S::V {
    s.min(s.splat(high), s.max(s.splat(low), x))
}

/// eˣ − 1 for x ≤ 0: near zero its series, so that small results keep their digits.
#[inline(always)]
fn exp_minus_one<S: Simd>(s: S, x: S::V) -> S::V {
    // tanh(x/2)·(eˣ + 1) is eˣ − 1 without cancellation.
    let t = math::tanh(s, s.mul(x, s.splat(0.5)));
    s.mul(t, s.add(math::exp(s, x), s.splat(1.0)))
}

/// ln(1 + eˣ) as max(x, 0) + ln(1 + e^−|x|).
#[inline(always)]
fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    let e = math::exp(s, s.neg(s.abs(x)));
    let one = s.splat(1.0);
    let sum = s.add(one, e);
    // ln(1 + e) loses e's digits to the rounding of the sum; the quotient gives them back.
    let lost = s.sub(e, s.sub(sum, one));
    let tail = s.add(math::log(s, sum), s.div(lost, sum));
    s.add(s.max(s.zero(), x), tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, unary};

    /// Every function, its largest sensible argument, and its error: relative to the larger of
    /// the result and the last number.
    const ALL: [(Unary, f32, f64, f64); 30] = [
        (Unary::Identity, 1e30, 0.0, 1.0),
        (Unary::Clamp(-1.5, 2.5), 5.0, 0.0, 1.0),
        (Unary::LeakyRelu(0.3), 5.0, 1e-7, 1e-30),
        (Unary::Elu(1.5), 20.0, 5e-7, 1e-30),
        (Unary::HardSwish, 6.0, 3e-7, 1e-3),
        (Unary::HardSigmoid(0.2, 0.5), 6.0, 2e-7, 1e-1),
        (Unary::Silu, 60.0, 5e-7, 1e-30),
        (Unary::Sigmoid, 60.0, 4e-7, 1e-30),
        (Unary::Tanh, 12.0, 2e-7, 1e-30),
        // Below zero 1 + erf cancels: the error is that of a sum of order 1.
        (Unary::Gelu, 8.0, 5e-7, 1.0),
        (Unary::GeluTanh, 8.0, 5e-7, 1.0),
        (Unary::Mish, 40.0, 1e-6, 1e-30),
        (Unary::Softplus, 60.0, 5e-7, 1e-30),
        (Unary::Softsign, 1e6, 2e-7, 1e-30),
        (Unary::Erf, 6.0, 2e-7, 1e-30),
        (Unary::Exp, 80.0, 2e-7, 1e-30),
        (Unary::Log, 1e10, 2e-7, 1e-3),
        (Unary::Sqrt, 1e10, 1e-7, 1e-30),
        (Unary::Rsqrt, 1e10, 2e-7, 1e-30),
        (Unary::Reciprocal, 1e10, 1e-7, 1e-30),
        (Unary::Square, 1e10, 1e-7, 1e-30),
        (Unary::Abs, 1e10, 0.0, 1.0),
        (Unary::Neg, 1e10, 0.0, 1.0),
        (Unary::Sign, 1e10, 0.0, 1.0),
        (Unary::Floor, 1e10, 0.0, 1.0),
        (Unary::Ceil, 1e10, 0.0, 1.0),
        (Unary::Round, 1e3, 0.0, 1.0),
        (Unary::Sin, 50.0, 1e-7, 1e-1),
        (Unary::Cos, 50.0, 1e-7, 1e-1),
        (Unary::Clamp(0.0, f32::INFINITY), 5.0, 0.0, 1.0),
    ];

    #[test]
    fn functions_are_within_their_bounds() {
        let mut values = Values::new(11);
        for isa in Isa::available() {
            for (f, largest, bound, least) in ALL {
                let mut xs: Vec<f32> = values.floats(3001).iter().map(|x| x * largest).collect();
                xs.extend(values.floats(1000));
                xs.extend([f32::NAN, 0.0]);
                let mut ys = vec![0.0; xs.len()];
                f.run_to(isa, &xs, &mut ys);
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = unary(f, f64::from(x));
                    let close = (f64::from(y) - want).abs() <= bound * want.abs().max(least);
                    let same = f64::from(y) == want || y.is_nan() && want.is_nan();
                    assert!(close || same, "{isa:?} {f:?}({x}) = {y}, not {want}");
                }
            }
        }
    }

    #[test]
    fn an_element_does_not_depend_on_its_position() {
        let xs = Values::new(12).floats(70);
        for isa in Isa::available() {
            for (f, ..) in ALL {
                let mut whole = xs.clone();
                f.run(isa, &mut whole);
                for start in 0..xs.len() {
                    let mut one = [xs[start]];
                    f.run(isa, &mut one);
                    assert_eq!(one[0].to_bits(), whole[start].to_bits(), "{isa:?} {f:?}");
                }
            }
        }
    }
}
