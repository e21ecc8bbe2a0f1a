//! Comparisons, truth values, bits, and the choice between two tensors.

use crate::number::Number;
use crate::ops::broadcast::{Offsets, broadcast_inputs};
use crate::ops::unary::is_number;
use crate::{
    Bool, DType, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType,
};

/// Compares elements of inputs 0 and 1, of one type, broadcast as in NumPy. The output is bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// a = b; truth values too.
    Equal,
    /// a ≠ b; truth values too.
    NotEqual,
    /// a < b.
    Less,
    /// a ≤ b.
    LessOrEqual,
    /// a > b.
    Greater,
    /// a ≥ b.
    GreaterOrEqual,
}

impl Compare {
    /// Whether it holds between `a` and `b`.
    pub fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Compare::Equal => a == b,
            Compare::NotEqual => a != b,
            Compare::Less => a < b,
            Compare::LessOrEqual => a <= b,
            Compare::Greater => a > b,
            Compare::GreaterOrEqual => a >= b,
        }
    }
}

impl Op for Compare {
    fn name(&self) -> &'static str {
        match self {
            Compare::Equal => "Equal",
            Compare::NotEqual => "NotEqual",
            Compare::Less => "Less",
            Compare::LessOrEqual => "LessOrEqual",
            Compare::Greater => "Greater",
            Compare::GreaterOrEqual => "GreaterOrEqual",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = same_dtype(self.name(), cx)?;
        let equality = matches!(self, Compare::Equal | Compare::NotEqual);
        if is_number(dtype) || dtype == DType::Bool && equality {
            Ok(vec![ValueType::new(DType::Bool, broadcast_inputs(cx, 0..2)?)])
        } else {
            Err(OpError::new(format!("{} does not take {dtype}", self.name())))
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let dims = &outputs.dims(self, inputs)?[0];
        let out = outputs.slice::<Bool>(0, dims)?;
        let offsets = Offsets::broadcast(dims, [a.dims, b.dims]);
        if a.dtype == DType::Bool {
            let (a, b) = (a.slice::<Bool>()?, b.slice::<Bool>()?);
            for (to, [i, j]) in out.iter_mut().zip(offsets) {
                *to = self.holds(&a[i].get(), &b[j].get()).into();
            }
            return Ok(());
        }
        crate::dispatch_number!(a.dtype, T => {
            let (a, b) = (a.slice::<T>()?, b.slice::<T>()?);
            for (to, [i, j]) in out.iter_mut().zip(offsets) {
                *to = self.holds(&a[i], &b[j]).into();
            }
            Ok(())
        }, else => unreachable!("the shape rule took the type"))
    }
}

/// Connects truth values of inputs 0 and 1, broadcast as in NumPy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Logical {
    /// Both.
    And,
    /// At least one.
    Or,
    /// Just one.
    Xor,
}

impl Op for Logical {
    fn name(&self) -> &'static str {
        match self {
            Logical::And => "And",
            Logical::Or => "Or",
            Logical::Xor => "Xor",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        match same_dtype(self.name(), cx)? {
            DType::Bool => Ok(vec![ValueType::new(DType::Bool, broadcast_inputs(cx, 0..2)?)]),
            other => Err(OpError::new(format!("{} does not take {other}", self.name()))),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let dims = &outputs.dims(self, inputs)?[0];
        let offsets = Offsets::broadcast(dims, [a.dims, b.dims]);
        let (a, b) = (a.slice::<Bool>()?, b.slice::<Bool>()?);
        for (to, [i, j]) in outputs.slice::<Bool>(0, dims)?.iter_mut().zip(offsets) {
            let (a, b) = (a[i].get(), b[j].get());
            *to = Bool::from(match self {
                Logical::And => a && b,
                Logical::Or => a || b,
                Logical::Xor => a != b,
            });
        }
        Ok(())
    }
}

/// Works on the bits of integers of inputs 0 and 1, of one type, broadcast as in NumPy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bitwise {
    /// Bits set in both.
    And,
    /// Bits set in either.
    Or,
    /// Bits set in just one.
    Xor,
    /// a moved up by b bits; 0 when b is all of a's bits or more, or negative.
    ShiftLeft,
    /// a moved down by b bits, keeping the sign of signed types; a negative b moves out all.
    ShiftRight,
}

impl Bitwise {
    /// Its value.
    pub fn at(self, a: i128, b: i128) -> i128 {
        match self {
            Bitwise::And => a & b,
            Bitwise::Or => a | b,
            Bitwise::Xor => a ^ b,
            Bitwise::ShiftLeft => a.checked_shl(shift(b)).unwrap_or(0),
            Bitwise::ShiftRight => a >> shift(b).min(127),
        }
    }
}

/// A negative shift moves every bit out, as one of the type's width does (ONNX `BitShift`).
fn shift(b: i128) -> u32 {
    u32::try_from(b).unwrap_or(u32::MAX)
}

impl Op for Bitwise {
    fn name(&self) -> &'static str {
        match self {
            Bitwise::And => "BitwiseAnd",
            Bitwise::Or => "BitwiseOr",
            Bitwise::Xor => "BitwiseXor",
            Bitwise::ShiftLeft => "ShiftLeft",
            Bitwise::ShiftRight => "ShiftRight",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = same_dtype(self.name(), cx)?;
        if dtype.is_integer() && is_number(dtype) {
            Ok(vec![ValueType::new(dtype, broadcast_inputs(cx, 0..2)?)])
        } else {
            Err(OpError::new(format!("{} does not take {dtype}", self.name())))
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let dims = &outputs.dims(self, inputs)?[0];
        let offsets = Offsets::broadcast(dims, [a.dims, b.dims]);
        crate::dispatch!(a.dtype, T in [
            I64 i64, I32 i32, I16 i16, I8 i8, U64 u64, U32 u32, U16 u16, U8 u8,
        ] => {
            let (a, b) = (a.slice::<T>()?, b.slice::<T>()?);
            for (to, [i, j]) in outputs.slice::<T>(0, dims)?.iter_mut().zip(offsets) {
                *to = T::of_integer(self.at(a[i].wide(), b[j].wide()));
            }
            Ok(())
        }, else => unreachable!("the shape rule took the type"))
    }
}

fn same_dtype(name: &str, cx: &InferCx<'_>) -> OpResult<DType> {
    let (a, b) = (cx.dtype(0)?, cx.dtype(1)?);
    if a == b { Ok(a) } else { Err(OpError::new(format!("{name} does not take {a} and {b}"))) }
}

/// Turns truth values, or the bits of integers, around.
#[derive(Clone, Copy, Debug)]
pub struct Not;

impl Op for Not {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if ty.dtype == DType::Bool || ty.dtype.is_integer() && is_number(ty.dtype) {
            Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
        } else {
            Err(OpError::new(format!("Not does not take {}", ty.dtype)))
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let flip = if x.dtype == DType::Bool { 1 } else { u8::MAX };
        let out = outputs.bytes(0, x.dtype, x.dims)?;
        for (to, v) in out.iter_mut().zip(x.bytes) {
            *to = v ^ flip;
        }
        Ok(())
    }
}

/// Which floats are not numbers, or are infinite. The output is bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatTest {
    /// NaN.
    IsNan,
    /// Infinite.
    IsInf {
        /// Whether ∞ counts.
        positive: bool,
        /// Whether −∞ counts.
        negative: bool,
    },
}

impl Op for FloatTest {
    fn name(&self) -> &'static str {
        match self {
            FloatTest::IsNan => "IsNan",
            FloatTest::IsInf { .. } => "IsInf",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if ty.dtype.is_float() && is_number(ty.dtype) {
            Ok(vec![ValueType::new(DType::Bool, ty.shape.clone())])
        } else {
            Err(OpError::new(format!("{} does not take {}", self.name(), ty.dtype)))
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out = outputs.slice::<Bool>(0, x.dims)?;
        for (to, v) in out.iter_mut().zip(crate::number::to_f64s(&x)?) {
            *to = Bool::from(match *self {
                FloatTest::IsNan => v.is_nan(),
                FloatTest::IsInf { positive, negative } => {
                    positive && v == f64::INFINITY || negative && v == f64::NEG_INFINITY
                }
            });
        }
        Ok(())
    }
}

/// Chooses, element by element, from input 1 where input 0 (bool) is true and from input 2
/// elsewhere; all three broadcast as in NumPy. Any type of whole bytes.
#[derive(Clone, Copy, Debug)]
pub struct Where;

impl Op for Where {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (condition, a, b) = (cx.dtype(0)?, cx.dtype(1)?, cx.dtype(2)?);
        if condition != DType::Bool || a != b || a.bits() < 8 {
            return Err(OpError::new(format!("Where does not take {condition}, {a} and {b}")));
        }
        Ok(vec![ValueType::new(a, broadcast_inputs(cx, 0..3)?)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (condition, y, dy) = (g.input(0)?, g.output(0), g.of_first()?);
        let zero = g.scalar(0.0, dy)?;
        let mut gradients = vec![None; 3];
        for i in [1, 2] {
            if g.wants(i) {
                let (a, b) = if i == 1 { (dy, zero) } else { (zero, dy) };
                let chosen = g.apply(Where, &[condition, a, b])?;
                let input = g.input(i)?;
                gradients[i] = Some(g.summed_to(chosen, y, input)?);
            }
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (condition, a, b) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let dims = &outputs.dims(self, inputs)?[0];
        let offsets = Offsets::broadcast(dims, [condition.dims, a.dims, b.dims]);
        let condition = condition.slice::<Bool>()?;
        let width = a.dtype.bits() / 8;
        let out = outputs.bytes(0, a.dtype, dims)?;
        for (to, [c, i, j]) in out.chunks_exact_mut(width).zip(offsets) {
            let (from, at) = if condition[c].get() { (a.bytes, i) } else { (b.bytes, j) };
            to.copy_from_slice(&from[at * width..][..width]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error};

    fn bools(t: &Tensor) -> Vec<bool> {
        t.slice::<Bool>().unwrap().iter().map(|b| b.get()).collect()
    }

    #[test]
    fn nan_compares_unequal() {
        let a = Tensor::from_slice(&[3], &[1f32, f32::NAN, 2.0]).unwrap();
        assert_eq!(bools(&eval(&Compare::Equal, &[a.clone(), a.clone()])[0]), [true, false, true]);
        let one = Tensor::scalar(1f32);
        let found = eval(&Compare::LessOrEqual, &[a.clone(), one]);
        assert_eq!(bools(&found[0]), [true, false, false]);
        assert!(eval_error(&Compare::Less, &[a, Tensor::scalar(1i32)]).contains("f32 and i32"));
    }

    #[test]
    fn shifts_past_the_width_and_of_negatives() {
        let x = Tensor::from_slice(&[2], &[-8i8, 7]).unwrap();
        let by = |n: i8| [x.clone(), Tensor::scalar(n)];
        assert_eq!(eval(&Bitwise::ShiftRight, &by(1))[0].slice::<i8>().unwrap(), [-4, 3]);
        assert_eq!(eval(&Bitwise::ShiftRight, &by(100))[0].slice::<i8>().unwrap(), [-1, 0]);
        assert_eq!(eval(&Bitwise::ShiftLeft, &by(7))[0].slice::<i8>().unwrap(), [0, -128]);
        assert_eq!(eval(&Bitwise::ShiftLeft, &by(-1))[0].slice::<i8>().unwrap(), [0, 0]);
        assert_eq!(eval(&Bitwise::ShiftRight, &by(-1))[0].slice::<i8>().unwrap(), [-1, 0]);
    }

    #[test]
    fn not_of_truth_and_of_bits() {
        let t = Tensor::from_slice(&[2], &[Bool(0), Bool(1)]).unwrap();
        assert_eq!(bools(&eval(&Not, &[t])[0]), [true, false]);
        let x = Tensor::from_slice(&[2], &[0i16, 5]).unwrap();
        assert_eq!(eval(&Not, &[x])[0].slice::<i16>().unwrap(), [-1, -6]);
    }

    #[test]
    fn infinities_by_sign() {
        let x = Tensor::from_slice(&[3], &[f32::INFINITY, f32::NEG_INFINITY, 0.0]).unwrap();
        let op = FloatTest::IsInf { positive: false, negative: true };
        assert_eq!(bools(&eval(&op, &[x])[0]), [false, true, false]);
    }

    #[test]
    fn where_broadcasts_all_three() {
        let c = Tensor::from_slice(&[2, 1], &[Bool(1), Bool(0)]).unwrap();
        let a = Tensor::from_slice(&[2], &[1u16, 2]).unwrap();
        let out = eval(&Where, &[c, a, Tensor::scalar(9u16)]);
        assert_eq!(out[0].dims(), [2, 2]);
        assert_eq!(out[0].slice::<u16>().unwrap(), [1, 2, 9, 9]);
    }
}
