//! Elementary functions on vectors: minimax polynomials after the usual range reductions.
//!
//! Bounds are for finite arguments and normal results, measured against f64 by this module's
//! tests; every function passes NaN through and has the right limits at ±∞ and the right signs.

use crate::simd::Simd;

/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `c[0] + c[1]·x + c[2]·x² + …`
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut sum = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.fma(sum, x, s.splat(c[i]));
    }
    sum
}

/// eˣ, relative error ≤ 1.5e-7; results below the least normal number are rounded like any.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.5), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fnma(n, s.splat(LN2_HIGH), x);
    let r = s.fnma(n, s.splat(LN2_LOW), r);
    let q = polynomial(
        s,
        r,
        [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_736, 0.001_381_455_8],
    );
    let p = s.add(s.fma(s.mul(q, r), r, r), s.splat(1.0));
    // Two factors, because 2ⁿ alone may not be a normal number.
    let n = s.to_int(n);
    let half = s.ishr::<1>(n);
    s.mul(s.mul(p, power_of_two(s, half)), power_of_two(s, s.isub(n, half)))
}

/// 2ⁿ for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two<S: Simd>(s: S, n: S::I) -> S::V {
    s.of_bits(s.ishl::<23>(s.iadd(n, s.isplat(127))))
}

/// ln x, relative error ≤ 2e-7 (absolute, where |ln x| < 1e-3: 2e-10); −∞ at 0, NaN below.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::V) -> S::V {
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let shift = s.select(tiny, s.splat(-23.0), s.zero());
    // m · 2ᵉ with 2/3 ≤ m < 4/3.
    let bits = s.bits(scaled);
    let e = s.iand(s.isub(bits, s.isplat(0x3f2a_aaab)), s.isplat(0xff80_0000_u32 as i32));
    let m = s.of_bits(s.isub(bits, e));
    let e = s.add(s.to_float(s.ishr::<23>(e)), shift);
    let f = s.sub(m, s.splat(1.0));
    let square = s.mul(f, f);
    let q = polynomial(
        s,
        f,
        [
            0.333_332_15,
            -0.249_997_97,
            0.200_104_19,
            -0.166_805_04,
            0.140_056_15,
            -0.121_839_955,
            0.139_858_08,
            -0.128_929_69,
        ],
    );
    let tail = s.fma(s.mul(q, f), square, s.mul(e, s.splat(LN2_LOW)));
    let tail = s.fnma(square, s.splat(0.5), tail);
    let y = s.add(s.fma(e, s.splat(LN2_HIGH), f), tail);
    let y = s.select(s.eq(x, s.splat(f32::INFINITY)), x, y);
    let y = s.select(s.eq(x, s.zero()), s.splat(f32::NEG_INFINITY), y);
    // Neither x < 0 nor NaN is equal to its own magnitude.
    s.select(s.eq(x, s.abs(x)), y, s.splat(f32::NAN))
}

/// tanh x, relative error ≤ 2e-7.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let size = s.abs(x);
    let square = s.mul(x, x);
    let q = polynomial(
        s,
        square,
        [-0.333_332_8, 0.133_314_42, -0.053_739_71, 0.020_639_079, -0.005_704_978_5],
    );
    let small = s.fma(s.mul(q, square), size, size);
    let one = s.splat(1.0);
    let e = exp(s, s.add(size, size));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    let y = s.with_sign(s.select(s.lt(size, s.splat(0.625)), small, large), x);
    s.select(s.eq(x, x), y, x)
}

/// 1 / (1 + e⁻ˣ), relative error ≤ 3e-7.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    // e^−|x| never overflows, and small results keep all their digits.
    let e = exp(s, s.neg(s.abs(x)));
    let numerator = s.select(s.lt(x, s.zero()), e, s.splat(1.0));
    s.div(numerator, s.add(s.splat(1.0), e))
}

/// The error function, relative error ≤ 2e-7.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let square = s.mul(x, x);
    let q = polynomial(
        s,
        square,
        [0.128_379_15, -0.376_124_8, 0.112_816_826, -0.026_761_72, 0.004_985_94, -0.000_595_373_9],
    );
    let size = s.abs(x);
    let small = s.fma(q, size, size);
    // ln(1 − erf t) as a polynomial; beyond 4 the result is 1.
    let t = s.min(s.splat(4.0), size);
    let q = polynomial(
        s,
        t,
        [
            -0.000_195_666_52,
            -0.127_675_67,
            -0.637_182_2,
            -0.103_931_665,
            0.022_226_956,
            -0.003_043_226_6,
            0.000_195_938_26,
        ],
    );
    let large = s.sub(s.splat(1.0), exp(s, s.sub(q, t)));
    let y = s.with_sign(s.select(s.lt(size, s.splat(0.925)), small, large), x);
    s.select(s.eq(x, x), y, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::simd::{Kernel, dispatch};
    use crate::testing::erf as erf64;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Log,
        Tanh,
        Sigmoid,
        Erf,
    }

    struct Apply<'a>(Function, &'a [f32]);
    impl Kernel for Apply<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.1.len()];
            for (x, y) in self.1.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
                // SAFETY: both chunks have `x.len()` elements.
                unsafe {
                    let v = s.load_n(x.as_ptr(), x.len());
                    let v = match self.0 {
                        Function::Exp => exp(s, v),
                        Function::Log => log(s, v),
                        Function::Tanh => tanh(s, v),
                        Function::Sigmoid => sigmoid(s, v),
                        Function::Erf => erf(s, v),
                    };
                    s.store_n(y.as_mut_ptr(), v, x.len());
                }
            }
            out
        }
    }

    fn check(function: Function, xs: &[f32], exact: fn(f64) -> f64, bound: f64, least: f64) {
        for isa in Isa::available() {
            let got = dispatch(isa, Apply(function, xs));
            for (&x, &y) in xs.iter().zip(&got) {
                let want = exact(f64::from(x));
                let error = (f64::from(y) - want).abs() / want.abs().max(least);
                assert!(error <= bound, "{isa:?} {function:?}({x}) = {y}, not {want}: {error:e}");
            }
        }
    }

    fn grid(low: f32, high: f32) -> Vec<f32> {
        let n = 20_001;
        (0..n).map(|i| low + (high - low) * (i as f32 / (n - 1) as f32)).collect()
    }

    #[test]
    fn functions_are_within_their_bounds() {
        check(Function::Exp, &grid(-87.0, 88.7), f64::exp, 1.5e-7, 1e-45);
        check(Function::Exp, &grid(-103.0, -87.0), f64::exp, 1.5e-7, 1e-38);
        check(Function::Log, &grid(1e-3, 4.0), f64::ln, 2e-7, 1e-3);
        check(Function::Log, &grid(1e-40, 1e-37), f64::ln, 2e-7, 1e-3);
        check(Function::Log, &grid(1.0, 1e30), f64::ln, 2e-7, 1e-3);
        check(Function::Tanh, &grid(-12.0, 12.0), f64::tanh, 2e-7, 1e-40);
        check(Function::Tanh, &grid(-1e-3, 1e-3), f64::tanh, 2e-7, 1e-40);
        check(Function::Sigmoid, &grid(-80.0, 40.0), |x| 1.0 / (1.0 + (-x).exp()), 3e-7, 1e-40);
        check(Function::Erf, &grid(-6.0, 6.0), erf64, 2e-7, 1e-40);
        check(Function::Erf, &grid(-1e-2, 1e-2), erf64, 2e-7, 1e-40);
    }

    #[test]
    fn limits_and_nan() {
        let xs = [f32::NEG_INFINITY, f32::INFINITY, -1e30, 1e30, 0.0, -0.0, f32::NAN, -1.0];
        for isa in Isa::available() {
            let of = |f| dispatch(isa, Apply(f, &xs));
            let (inf, nan) = (f32::INFINITY, f32::NAN);
            let cases = [
                (Function::Exp, [0.0, inf, 0.0, inf, 1.0, 1.0, nan, 0.36787945]),
                (Function::Log, [nan, inf, nan, 69.07755, -inf, -inf, nan, nan]),
                (Function::Tanh, [-1.0, 1.0, -1.0, 1.0, 0.0, -0.0, nan, -0.7615942]),
                (Function::Sigmoid, [0.0, 1.0, 0.0, 1.0, 0.5, 0.5, nan, 0.26894143]),
                (Function::Erf, [-1.0, 1.0, -1.0, 1.0, 0.0, -0.0, nan, -0.842_700_8]),
            ];
            for (f, want) in cases {
                for (i, (got, want)) in of(f).into_iter().zip(want).enumerate() {
                    let close = got == want
                        || got.is_nan() && want.is_nan()
                        || (got - want).abs() <= 2e-7 * want.abs();
                    let sign = want != 0.0 || got.is_sign_negative() == want.is_sign_negative();
                    assert!(close && sign, "{isa:?} {f:?}({}) = {got}, not {want}", xs[i]);
                }
            }
        }
    }
}
