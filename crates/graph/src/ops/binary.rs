//! Functions of two numbers, applied to elements of broadcast tensors.
//!
//! A line of the table is all that a new function takes: its value at two reals and, after `int`,
//! at two integers, if it takes integers as well.

use crate::number::{Number, to_f64s};
use crate::ops::activation::Activation;
use crate::ops::broadcast::{Offsets, broadcast_inputs};
use crate::ops::logic::{Compare, Where};
use crate::ops::unary::{Unary, is_number};
use crate::{
    Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueId, ValueType,
};
use std::fmt;
use std::sync::Arc;

macro_rules! functions {
    (|$a:ident, $b:ident|; $(
        $(#[$doc:meta])*
        $name:ident: $real:expr $(, int $int:expr)?;
    )*) => {
        /// What a [`Binary`] computes of `a` and `b`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum BinaryFn { $($(#[$doc])* $name,)* }

        impl BinaryFn {
            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(BinaryFn::$name => stringify!($name),)* }
            }

            /// Its value at two reals.
            pub fn at(self, $a: f64, $b: f64) -> f64 {
                match self { $(BinaryFn::$name => $real,)* }
            }

            /// Its value at two integers; fails on division by zero and where the function takes
            /// no integers.
            pub fn at_integers(self, $a: i128, $b: i128) -> OpResult<i128> {
                match self { $(
                    BinaryFn::$name => functions!(@int self; $($int)?),
                )* }
            }

            /// Whether it takes integers.
            pub fn takes_integers(self) -> bool {
                match self { $(BinaryFn::$name => functions!(@has $($int)?),)* }
            }
        }
    };
    (@int $self:expr;) => {
        Err(OpError::new(format!("{} takes no integers", $self.name())))
    };
    (@int $self:expr; $int:expr) => { Ok($int) };
    (@has) => { false };
    (@has $int:expr) => { true };
}

functions! {
    |a, b|;
    /// a + b.
    Add: a + b, int a.wrapping_add(b);
    /// a − b.
    Sub: a - b, int a.wrapping_sub(b);
    /// a b.
    Mul: a * b, int a.wrapping_mul(b);
    /// a / b; of integers, rounded to zero.
    Div: a / b, int a.wrapping_div(divisor(b)?);
    /// a / b rounded down.
    FloorDiv: (a / b).floor(), int floor_div(a, divisor(b)?);
    /// The remainder that has b's sign.
    FloorMod: floor_mod(a, b), int a - floor_div(a, divisor(b)?) * b;
    /// The remainder that has a's sign, as C's `fmod`.
    Fmod: a % b, int a.wrapping_rem(divisor(b)?);
    /// aᵇ. The two may differ in type; the result has a's.
    Pow: a.powf(b), int integer_pow(a, b)?;
    /// The smaller one; NaN if either is.
    Min: if a.is_nan() || a < b { a } else { b }, int a.min(b);
    /// The larger one; NaN if either is.
    Max: if a.is_nan() || a > b { a } else { b }, int a.max(b);
    /// (a − b)².
    SquaredDifference: (a - b) * (a - b), int (a - b).wrapping_mul(a - b);
    /// The angle of the point (b, a).
    Atan2: a.atan2(b);
    /// a, times b where a is negative.
    PRelu: if a < 0.0 { a * b } else { a }, int if a < 0 { a.wrapping_mul(b) } else { a };
}

fn divisor(b: i128) -> OpResult<i128> {
    if b == 0 { Err(OpError::new("an integer is divided by zero")) } else { Ok(b) }
}

fn floor_div(a: i128, b: i128) -> i128 {
    a / b - i128::from(a % b != 0 && (a < 0) != (b < 0))
}

fn floor_mod(a: f64, b: f64) -> f64 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

fn integer_pow(base: i128, exponent: i128) -> OpResult<i128> {
    match (base, exponent) {
        (0, ..0) => Err(OpError::new("0 is raised to a negative power")),
        (1, _) => Ok(1),
        (-1, _) => Ok(if exponent % 2 == 0 { 1 } else { -1 }),
        (_, ..0) => Ok(0),
        // Every further factor of an even base leaves 128 bits; an odd one's powers repeat.
        _ => Ok(wrapping_pow(base, exponent)),
    }
}

fn wrapping_pow(mut base: i128, mut exponent: i128) -> i128 {
    let mut product = 1i128;
    while exponent > 0 {
        if exponent & 1 == 1 {
            product = product.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    product
}

/// A function of the elements of inputs 0 and 1, which have one number type (but for
/// [`BinaryFn::Pow`]) and broadcast as in NumPy, then an activation.
#[derive(Clone, Copy, PartialEq)]
pub struct Binary {
    /// The function.
    pub function: BinaryFn,
    /// Applied to the result.
    pub activation: Activation,
}

impl Binary {
    /// `function` with no activation.
    pub fn new(function: BinaryFn) -> Binary {
        Binary { function, activation: Activation::None }
    }
}

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.name())?;
        match self.activation {
            Activation::None => Ok(()),
            activation => write!(f, " {{ activation: {activation:?} }}"),
        }
    }
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        self.function.name()
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (a, b) = (cx.dtype(0)?, cx.dtype(1)?);
        let same = a == b || self.function == BinaryFn::Pow;
        let takes = |d| is_number(d) && (self.function.takes_integers() || !d.is_integer());
        if !same || !takes(a) || !takes(b) {
            return Err(OpError::new(format!("{} does not take {a} and {b}", self.name())));
        }
        if !self.activation.takes(a) {
            return Err(OpError::new(format!("{:?} is applied to {a}", self.activation)));
        }
        Ok(vec![ValueType::new(a, broadcast_inputs(cx, 0..2)?)])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<crate::Dim>>> {
        let (Some(a), Some(b)) = (cx.sizes(0)?, cx.sizes(1)?) else {
            return Ok(None);
        };
        let n = a.len().max(b.len());
        let fits = |v: &[crate::Dim]| v.len() == n || v.len() == 1;
        let rank = |i: usize| cx.ty(i).map(|ty| ty.shape.rank().is_some_and(|r| r < 2));
        if !fits(&a) || !fits(&b) || !rank(0)? || !rank(1)? || self.activation != Activation::None {
            return Ok(None);
        }
        let at = |v: &[crate::Dim], i: usize| v[if v.len() == 1 { 0 } else { i }].clone();
        let one = |i: usize| {
            let (a, b) = (at(&a, i), at(&b, i));
            match self.function {
                BinaryFn::Add => Some(a + b),
                BinaryFn::Sub => Some(a - b),
                BinaryFn::Mul => Some(a.mul(&b)),
                // Rounding down and towards zero agree where nothing is negative.
                BinaryFn::Div if a.is_nonnegative() && b.as_i64().is_some_and(|b| b > 0) => {
                    Some(a.floor_div(&b))
                }
                _ => None,
            }
        };
        Ok((0..n).map(one).collect())
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (a, b) = (g.input(0)?, g.input(1)?);
        let dy = g.of_first()?;
        let dy = g.before(self.activation, dy, || Arc::new(Binary::new(self.function)))?;
        let y = g.output(0);
        let mut gradients = vec![None, None];
        for (i, input) in [a, b].into_iter().enumerate() {
            if !g.wants(i) {
                continue;
            }
            if let Some(wide) = self.function.gradient(g, i, dy)? {
                gradients[i] = Some(g.summed_to(wide, y, input)?);
            }
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let dims = &outputs.dims(self, inputs)?[0];
        let offsets = Offsets::broadcast(dims, [a.dims, b.dims]);
        if a.dtype == b.dtype {
            return crate::dispatch_number!(a.dtype, T => {
                let (a, b, out) = (a.slice::<T>()?, b.slice::<T>()?, outputs.slice::<T>(0, dims)?);
                self.elements(a, |j| (b[j].to_integer(), b[j].to_f64()), offsets, out)
            }, else => unreachable!("the shape rule took the type"));
        }
        let integers = b.dtype.is_integer();
        let b = to_f64s(&b)?;
        crate::dispatch_number!(a.dtype, T => {
            let (a, out) = (a.slice::<T>()?, outputs.slice::<T>(0, dims)?);
            self.elements(a, |j| (integers.then_some(b[j] as i128), b[j]), offsets, out)
        }, else => unreachable!("the shape rule took the type"))
    }

    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        let activation = self.activation.then(function)?;
        Some(Arc::new(Binary { activation, ..*self }))
    }
}

impl BinaryFn {
    /// The gradient with respect to operand `i`, before any broadcast of it is undone. Where the
    /// function has a kink, all of it goes to the first operand.
    fn gradient(self, g: &mut Gradient<'_>, i: usize, dy: ValueId) -> OpResult<Option<ValueId>> {
        let (a, b) = (g.input(0)?, g.input(1)?);
        Ok(Some(match (self, i) {
            (BinaryFn::FloorDiv, _) => return Ok(None),
            (BinaryFn::Add, _) | (BinaryFn::Sub | BinaryFn::FloorMod | BinaryFn::Fmod, 0) => dy,
            (BinaryFn::Sub, _) => g.apply(Unary::Neg, &[dy])?,
            (BinaryFn::Mul, _) => g.mul(dy, [b, a][i])?,
            (BinaryFn::Div, 0) => g.div(dy, b)?,
            (BinaryFn::Div, _) => {
                let quotient = g.div(a, b)?;
                let slope = g.div(quotient, b)?;
                let back = g.mul(dy, slope)?;
                g.apply(Unary::Neg, &[back])?
            }
            // a = b ⌊a/b⌋ + the remainder, and the whole quotient is constant but for jumps.
            (BinaryFn::FloorMod | BinaryFn::Fmod, _) => {
                let rest = g.binary(self, a, b)?;
                let whole = g.sub(rest, a)?;
                let slope = g.div(whole, b)?;
                g.mul(dy, slope)?
            }
            (BinaryFn::Pow, _) if g.dtype(a) != g.dtype(b) => {
                return Err(OpError::new(
                    "has a gradient rule where base and exponent are of one type",
                ));
            }
            (BinaryFn::Pow, 0) => {
                let one = g.scalar(1.0, b)?;
                let less = g.sub(b, one)?;
                let power = g.binary(BinaryFn::Pow, a, less)?;
                let slope = g.mul(b, power)?;
                g.mul(dy, slope)?
            }
            (BinaryFn::Pow, _) => {
                let power = g.binary(BinaryFn::Pow, a, b)?;
                let log = g.apply(Unary::Log, &[a])?;
                let slope = g.mul(power, log)?;
                g.mul(dy, slope)?
            }
            (BinaryFn::Min | BinaryFn::Max, _) => {
                let first = if self == BinaryFn::Max {
                    Compare::GreaterOrEqual
                } else {
                    Compare::LessOrEqual
                };
                let other = if self == BinaryFn::Max { Compare::Less } else { Compare::Greater };
                let chosen = g.apply([first, other][i], &[a, b])?;
                g.only_where(chosen, dy)?
            }
            (BinaryFn::SquaredDifference, _) => {
                let difference = g.sub(a, b)?;
                let slope = g.scaled(difference, [2.0, -2.0][i])?;
                g.mul(dy, slope)?
            }
            (BinaryFn::Atan2, _) => {
                let (aa, bb) = (g.mul(a, a)?, g.mul(b, b)?);
                let square = g.add(aa, bb)?;
                let slope = g.div([b, a][i], square)?;
                let back = g.mul(dy, slope)?;
                if i == 0 { back } else { g.apply(Unary::Neg, &[back])? }
            }
            (BinaryFn::PRelu, _) => {
                let zero = g.scalar(0.0, a)?;
                let below = g.apply(Compare::Less, &[a, zero])?;
                let slope = g.mul(dy, [b, a][i])?;
                let above = if i == 0 { dy } else { zero };
                g.apply(Where, &[below, slope, above])?
            }
        }))
    }
}

impl Binary {
    /// `b` gives an element as integer, if it is one, and as float.
    fn elements<T: Number>(
        &self,
        a: &[T],
        b: impl Fn(usize) -> (Option<i128>, f64),
        offsets: Offsets<2>,
        out: &mut [T],
    ) -> OpResult {
        for (to, [i, j]) in out.iter_mut().zip(offsets) {
            *to = match (a[i].to_integer(), b(j)) {
                (Some(a), (Some(b), _)) => T::of_integer(self.function.at_integers(a, b)?),
                (_, (_, b)) => T::of_f64(self.function.at(a[i].to_f64(), b)),
            };
            *to = self.activation.on(to.wide());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test::{eval, eval_error};
    use crate::{Element, Tensor};

    fn on<A: Element, B: Element>(function: BinaryFn, a: &[A], b: &[B]) -> Vec<A> {
        let a = Tensor::from_slice(&[a.len()], a).unwrap();
        let b = Tensor::from_slice(&[b.len()], b).unwrap();
        eval(&Binary::new(function), &[a, b])[0].slice::<A>().unwrap().to_vec()
    }

    #[test]
    fn division_and_remainders_of_either_sign() {
        let (a, b) = (&[7i32, -7, 7, -7], &[2i32, 2, -2, -2]);
        assert_eq!(on(BinaryFn::Div, a, b), [3, -3, -3, 3]);
        assert_eq!(on(BinaryFn::FloorDiv, a, b), [3, -4, -4, 3]);
        assert_eq!(on(BinaryFn::FloorMod, a, b), [1, 1, -1, -1]);
        assert_eq!(on(BinaryFn::Fmod, a, b), [1, -1, 1, -1]);
        let (a, b) = (&[5.5f32, -5.5], &[2.0f32, 2.0]);
        assert_eq!(on(BinaryFn::FloorMod, a, b), [1.5, 0.5]);
        assert_eq!(on(BinaryFn::Fmod, a, b), [1.5, -1.5]);
    }

    #[test]
    fn integers_wrap_and_zero_divisors_are_errors() {
        assert_eq!(on(BinaryFn::Add, &[250u8], &[10u8]), [4]);
        assert_eq!(on(BinaryFn::Div, &[i64::MIN], &[-1i64]), [i64::MIN]);
        let zero = Tensor::scalar(0i32);
        let error = eval_error(&Binary::new(BinaryFn::Div), &[zero.clone(), zero]);
        assert!(error.contains("divided by zero"));
    }

    #[test]
    fn powers_of_mixed_types() {
        assert_eq!(on(BinaryFn::Pow, &[2i32, 3, -1, 5], &[3i64, 4, 7, -1]), [8, 81, -1, 0]);
        assert_eq!(on(BinaryFn::Pow, &[2f32], &[-1i32]), [0.5]);
        assert_eq!(on(BinaryFn::Pow, &[9i64], &[0.5f32]), [3]);
    }

    #[test]
    fn broadcasting_and_activation() {
        let a = Tensor::from_slice(&[2, 1], &[1f32, -4.0]).unwrap();
        let b = Tensor::from_slice(&[3], &[0f32, 1.0, 2.0]).unwrap();
        let op = Binary { function: BinaryFn::Add, activation: Activation::Relu };
        let out = &eval(&op, &[a, b.clone()])[0];
        assert_eq!(out.slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
        let error = eval_error(&op, &[b, Tensor::from_slice(&[2], &[0f32; 2]).unwrap()]);
        assert!(error.contains("do not broadcast"), "{error}");
    }
}
