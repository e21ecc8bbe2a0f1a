//! Arithmetic on two quantised 8-bit tensors: sums and products as TensorFlow Lite's reference
//! kernels compute them, and by way of floats as ONNX says.

use crate::fixed::Multiplier;
use crate::isa::Isa;
use crate::requant::{Byte, ByteOutput};
use crate::words::{Finish, Kernel, Scale, Words, on};

/// Bits that operands are shifted left by before they are brought to one scale.
const LEFT_SHIFT: i32 = 20;

/// Which arithmetic, with its factors.
#[derive(Clone, Copy, Debug)]
pub enum QArithmetic {
    /// `out * (a * (x << 20) + b * (y << 20))`, the factors of TensorFlow Lite's `ADD`. A
    /// negative mantissa of `b` subtracts.
    Sum {
        /// The first operand's factor, at most 1.
        a: Multiplier,
        /// The second operand's factor, at most 1 in magnitude.
        b: Multiplier,
        /// The factor from the sum to the output, at most 1.
        out: Multiplier,
    },
    /// `out * x * y`.
    Product {
        /// The factor from the product to the output, below 2^13.
        out: Multiplier,
    },
}

/// Arithmetic on two tensors of one 8-bit type.
#[derive(Clone, Copy, Debug)]
pub struct QBinary {
    isa: Isa,
    arithmetic: QArithmetic,
    kind: Byte,
    zero_points: [i32; 2],
    output: ByteOutput,
}

impl QBinary {
    /// For operands of type `kind` with these zero points. `None` where the factors are beyond
    /// what [`QArithmetic`] says.
    pub fn new(
        isa: Isa,
        arithmetic: QArithmetic,
        kind: Byte,
        zero_points: [i32; 2],
        output: ByteOutput,
    ) -> Option<Self> {
        let fits = match arithmetic {
            QArithmetic::Sum { a, b, out } => [a, b, out].iter().all(|m| m.shift <= 0),
            // 255 * 255 shifted left by 13 stays below 2^30.
            QArithmetic::Product { out } => out.shift <= 13,
        };
        fits.then_some(Self { isa, arithmetic, kind, zero_points, output })
    }

    /// Computes `out` from operands of its length; either may be one element instead, which
    /// stands for all.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run(&self, a: &[u8], b: &[u8], out: &mut [u8]) {
        let len = out.len();
        let (a, b) = (Operand::of(a, len), Operand::of(b, len));
        on(self.isa, Run { op: self, a, b, out: out.as_mut_ptr(), len });
    }

    /// [`QBinary::run`] where `out` holds the first operand before.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run_in_place(&self, out: &mut [u8], b: &[u8]) {
        let (len, b) = (out.len(), Operand::of(b, out.len()));
        let out = out.as_mut_ptr();
        on(self.isa, Run { op: self, a: Operand { at: out, one: false }, b, out, len });
    }
}

/// As many bytes as the result has, or one that stands for all.
#[derive(Clone, Copy)]
struct Operand {
    at: *const u8,
    one: bool,
}

impl Operand {
    fn of(bytes: &[u8], len: usize) -> Self {
        assert!(bytes.len() == len || bytes.len() == 1, "length");
        Self { at: bytes.as_ptr(), one: bytes.len() != len }
    }

    /// `count` words from `at` on, of at most a vector; the rest are zero.
    ///
    /// # Safety
    /// As [`Words`], and the operand has these bytes.
    #[inline(always)]
    unsafe fn load<W: Words>(self, at: usize, count: usize, kind: Byte) -> W {
        // SAFETY: the caller's promise; part of a vector goes by way of a buffer of its size.
        unsafe {
            if self.one {
                W::splat(kind.value(*self.at))
            } else if count == W::N {
                W::load_bytes(self.at.add(at), kind)
            } else {
                let mut buffer = [0u8; 16];
                self.at.add(at).copy_to_nonoverlapping(buffer.as_mut_ptr(), count);
                W::load_bytes(buffer.as_ptr(), kind)
            }
        }
    }
}

/// The operands may be the result's own memory: each vector is read before it is written.
struct Run<'a> {
    op: &'a QBinary,
    a: Operand,
    b: Operand,
    out: *mut u8,
    len: usize,
}

impl Kernel for Run<'_> {
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        let zero_points = self.op.zero_points;
        // SAFETY: the caller's promise.
        unsafe {
            let (a_zero, b_zero) = (W::splat(zero_points[0]), W::splat(zero_points[1]));
            match self.op.arithmetic {
                QArithmetic::Sum { a, b, out } => {
                    let out = Scale::<W>::new(out);
                    // `ADD` halves the operand of the larger scale, which is a shorter shift.
                    let half = |x: W| x.shift_left(LEFT_SHIFT - 1);
                    match (a == Multiplier::HALF, b == Multiplier::HALF) {
                        (true, _) => {
                            let b = Scale::new(b);
                            self.each(|x: W, y: W| {
                                let y = b.apply(y.sub(b_zero).shift_left(LEFT_SHIFT));
                                out.apply(half(x.sub(a_zero)).add(y))
                            });
                        }
                        (false, true) => {
                            let a = Scale::new(a);
                            self.each(|x: W, y: W| {
                                let x = a.apply(x.sub(a_zero).shift_left(LEFT_SHIFT));
                                out.apply(x.add(half(y.sub(b_zero))))
                            });
                        }
                        (false, false) => {
                            let (a, b) = (Scale::<W>::new(a), Scale::new(b));
                            self.each(|x: W, y: W| {
                                let x = a.apply(x.sub(a_zero).shift_left(LEFT_SHIFT));
                                let y = b.apply(y.sub(b_zero).shift_left(LEFT_SHIFT));
                                out.apply(x.add(y))
                            });
                        }
                    }
                }
                QArithmetic::Product { out } => {
                    let out = Scale::<W>::new(out);
                    self.each(|x: W, y: W| out.apply(x.sub(a_zero).mul(y.sub(b_zero))));
                }
            }
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    unsafe fn each<W: Words>(self, f: impl Fn(W, W) -> W) {
        let kind = self.op.kind;
        // SAFETY: the caller's promise; loads and stores stay within the operands and the result,
        // or in a buffer of a vector's size.
        unsafe {
            let finish = Finish::<W>::new(&self.op.output);
            for at in (0..self.len).step_by(W::N) {
                let count = W::N.min(self.len - at);
                let (a, b) = (self.a.load(at, count, kind), self.b.load(at, count, kind));
                let result = finish.apply(f(a, b));
                if count == W::N {
                    result.store_bytes(self.out.add(at));
                } else {
                    let mut buffer = [0u8; 16];
                    result.store_bytes(buffer.as_mut_ptr());
                    buffer.as_ptr().copy_to_nonoverlapping(self.out.add(at), count);
                }
            }
        }
    }
}

/// Which arithmetic on real numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealArithmetic {
    /// x + y
    Add,
    /// x - y
    Sub,
    /// x * y
    Mul,
    /// x / y
    Div,
}

/// Arithmetic on two tensors of one 8-bit type by way of `f32`, as ONNX's operators of quantised
/// numbers: both operands become real numbers, and the result is rounded half to even.
#[derive(Clone, Copy, Debug)]
pub struct QReal {
    /// The instruction set.
    pub isa: Isa,
    /// Which arithmetic.
    pub arithmetic: RealArithmetic,
    /// The operands' type.
    pub kind: Byte,
    /// Scale and zero point of each operand.
    pub operands: [(f32, i32); 2],
    /// The output's scale.
    pub scale: f32,
    /// The rest of the output.
    pub output: ByteOutput,
}

impl QReal {
    /// Computes `out` from operands of its length; either may be one element instead, which
    /// stands for all. What is no number becomes the zero point.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run(&self, a: &[u8], b: &[u8], out: &mut [u8]) {
        for operand in [a, b] {
            assert!(operand.len() == out.len() || operand.len() == 1, "length");
        }
        on(self.isa, RunReal { op: self, a: Some(a), b, out });
    }

    /// [`QReal::run`] where `out` holds the first operand before.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run_in_place(&self, out: &mut [u8], b: &[u8]) {
        assert!(b.len() == out.len() || b.len() == 1, "length");
        on(self.isa, RunReal { op: self, a: None, b, out });
    }
}

struct RunReal<'a> {
    op: &'a QReal,
    /// `None`: what `out` holds before.
    a: Option<&'a [u8]>,
    b: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for RunReal<'_> {
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        match self.op.arithmetic {
            RealArithmetic::Add => self.by(|x, y| x + y),
            RealArithmetic::Sub => self.by(|x, y| x - y),
            RealArithmetic::Mul => self.by(|x, y| x * y),
            RealArithmetic::Div => self.by(|x, y| x / y),
        }
    }
}

impl RunReal<'_> {
    #[inline(always)]
    fn by(self, f: impl Fn(f32, f32) -> f32 + Copy) {
        match self.op.kind {
            Byte::Signed => self.each(|byte| i32::from(byte as i8), f),
            Byte::Unsigned => self.each(i32::from, f),
        }
    }

    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    fn each(self, value: impl Fn(u8) -> i32 + Copy, f: impl Fn(f32, f32) -> f32) {
        let (op, output) = (self.op, self.op.output);
        let zero = output.zero_point as f32;
        let (low, high) = (output.min as f32 - zero, output.max as f32 - zero);
        let real = |operand: usize, byte: u8| {
            let (scale, zero) = op.operands[operand];
            (value(byte) - zero) as f32 * scale
        };
        let finish = |x: f32| {
            let steps = x / op.scale;
            let steps = if steps.is_nan() { 0.0 } else { steps };
            let steps = steps.round_ties_even().max(low).min(high);
            // SAFETY: within -511 to 511.
            (unsafe { steps.to_int_unchecked::<i32>() } + output.zero_point) as u8
        };
        match (self.a, self.b) {
            (None, &[b]) => {
                let b = real(1, b);
                self.out.iter_mut().for_each(|out| *out = finish(f(real(0, *out), b)));
            }
            (None, b) => {
                for (out, b) in self.out.iter_mut().zip(b) {
                    *out = finish(f(real(0, *out), real(1, *b)));
                }
            }
            (Some(&[a]), &[b]) => self.out.fill(finish(f(real(0, a), real(1, b)))),
            (Some(&[a]), b) => {
                let a = real(0, a);
                self.out.iter_mut().zip(b).for_each(|(out, b)| *out = finish(f(a, real(1, *b))));
            }
            (Some(a), &[b]) => {
                let b = real(1, b);
                self.out.iter_mut().zip(a).for_each(|(out, a)| *out = finish(f(real(0, *a), b)));
            }
            (Some(a), b) => {
                for ((out, a), b) in self.out.iter_mut().zip(a).zip(b) {
                    *out = finish(f(real(0, *a), real(1, *b)));
                }
            }
        }
    }
}

/// Arithmetic on two tensors of bytes, either way.
#[derive(Clone, Copy, Debug)]
pub enum ByteArithmetic {
    /// In fixed point.
    Fixed(QBinary),
    /// By way of floats.
    Real(QReal),
}

impl ByteArithmetic {
    /// Computes `out` from operands of its length; either may be one element instead, which
    /// stands for all.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run(&self, a: &[u8], b: &[u8], out: &mut [u8]) {
        match self {
            ByteArithmetic::Fixed(op) => op.run(a, b, out),
            ByteArithmetic::Real(op) => op.run(a, b, out),
        }
    }

    /// [`ByteArithmetic::run`] where `out` holds the first operand before.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run_in_place(&self, out: &mut [u8], b: &[u8]) {
        match self {
            ByteArithmetic::Fixed(op) => op.run_in_place(out, b),
            ByteArithmetic::Real(op) => op.run_in_place(out, b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    fn reference(op: &QBinary, x: u8, y: u8) -> u8 {
        let x = op.kind.value(x) - op.zero_points[0];
        let y = op.kind.value(y) - op.zero_points[1];
        let steps = match op.arithmetic {
            QArithmetic::Sum { a, b, out } => {
                out.apply(a.apply(x << LEFT_SHIFT) + b.apply(y << LEFT_SHIFT))
            }
            QArithmetic::Product { out } => out.apply(x * y),
        };
        (steps + op.output.zero_point).clamp(op.output.min, op.output.max) as u8
    }

    #[test]
    fn every_isa_matches_the_definition() {
        let factor = |real: f64| Multiplier::new(real).unwrap();
        let minus = |m: Multiplier| Multiplier { mantissa: -m.mantissa, ..m };
        let cases = [
            QArithmetic::Sum { a: factor(0.5), b: factor(0.21), out: factor(3e-6) },
            QArithmetic::Sum { a: factor(0.5), b: minus(factor(0.5)), out: factor(1.9e-6) },
            QArithmetic::Sum { a: factor(1e-5), b: factor(0.3), out: factor(0.9) },
            QArithmetic::Product { out: factor(0.004) },
            QArithmetic::Product { out: factor(0.9) },
            QArithmetic::Product { out: factor(100.0) },
        ];
        let mut random = Random::new(3);
        for isa in Isa::available() {
            for arithmetic in cases {
                for (kind, zeros, output) in [
                    (Byte::Signed, [-128, 5], ByteOutput::new(Byte::Signed, -10)),
                    (
                        Byte::Signed,
                        [127, 0],
                        ByteOutput { min: 3, ..ByteOutput::new(Byte::Signed, 3) },
                    ),
                    (Byte::Unsigned, [0, 131], ByteOutput::new(Byte::Unsigned, 128)),
                ] {
                    let op = QBinary::new(isa, arithmetic, kind, zeros, output).unwrap();
                    for len in [1, 7, 16, 33, 300] {
                        let (a, b) = (random.bytes(len + 1), random.bytes(len));
                        let mut out = vec![0; len];
                        op.run(&a[1..], &b, &mut out);
                        for i in 0..len {
                            assert_eq!(out[i], reference(&op, a[i + 1], b[i]), "{op:?} {i}");
                        }
                        op.run(&a[1..], &b[..1], &mut out);
                        for i in 0..len {
                            assert_eq!(out[i], reference(&op, a[i + 1], b[0]), "{op:?} {i}");
                        }
                        let mut both = a.clone();
                        op.run_in_place(&mut both[1..], &b);
                        assert_eq!(both[0], a[0], "{op:?}");
                        for i in 0..len {
                            assert_eq!(both[i + 1], reference(&op, a[i + 1], b[i]), "{op:?} {i}");
                        }
                    }
                }
            }
        }
    }
}
