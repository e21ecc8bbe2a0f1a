//! What the kernels' tests share.

/// A small generator of test values; the same seed gives the same values.
pub(crate) struct Values(u64);

impl Values {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// `n` values in −1..1.
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// One of `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

/// Panics unless every `got` is within `bound` of `want`; NaN answers NaN.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let close = (f64::from(g) - w).abs() <= bound
            || g.is_nan() && w.is_nan()
            || w.is_infinite() && f64::from(g) == w;
        assert!(close, "{what}: element {i} is {g}, not {w} within {bound:e}");
    }
}

/// The meaning of [`Unary`](crate::elementwise::Unary), in f64.
pub(crate) fn unary(f: crate::elementwise::Unary, x: f64) -> f64 {
    use crate::elementwise::Unary::*;
    // f64's min and max drop NaN; comparisons keep it.
    let clamp = |x: f64, low: f64, high: f64| {
        if x < low {
            low
        } else if x > high {
            high
        } else {
            x
        }
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    match f {
        Identity => x,
        Clamp(low, high) => clamp(x, f64::from(low), f64::from(high)),
        LeakyRelu(slope) => {
            if x < 0.0 {
                f64::from(slope) * x
            } else {
                x
            }
        }
        Elu(alpha) => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        HardSwish => x * clamp(x + 3.0, 0.0, 6.0) / 6.0,
        HardSigmoid(alpha, beta) => clamp(f64::from(alpha) * x + f64::from(beta), 0.0, 1.0),
        Silu => x * sigmoid(x),
        Sigmoid => sigmoid(x),
        Tanh => x.tanh(),
        Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Mish => x * if x.is_nan() { x } else { softplus(x).tanh() },
        Softplus => {
            if x.is_nan() {
                x
            } else {
                softplus(x)
            }
        }
        Softsign => x / (1.0 + x.abs()),
        Erf => erf(x),
        Exp => x.exp(),
        Log => x.ln(),
        Sqrt => x.sqrt(),
        Rsqrt => 1.0 / x.sqrt(),
        Reciprocal => 1.0 / x,
        Square => x * x,
        Abs => x.abs(),
        Neg => -x,
        Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }
        Floor => x.floor(),
        Ceil => x.ceil(),
        Round => x.round_ties_even(),
        Sin => x.sin(),
        Cos => x.cos(),
    }
}

/// The error function: its series near zero, else its continued fraction.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else if x.is_nan() {
        x
    } else {
        let mut f = 0.0;
        for n in (1..100).rev() {
            f = f64::from(n) / 2.0 / (x.abs() + f);
        }
        let tail = (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + f);
        (1.0 - tail).copysign(x)
    }
}
