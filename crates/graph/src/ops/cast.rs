//! Conversions between element types.

use super::convert::{self, Rounding};
use crate::{
    DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueType,
};

/// The elements of input 0 as numbers of another type.
///
/// Floats lose their fraction on becoming integers, integers wrap, and floats round to the nearest
/// float, ties to even. What is not zero is true.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The type of the output.
    pub to: DType,
    /// How numbers become 8-bit floats.
    pub rounding: Rounding,
}

impl Cast {
    /// To `to`, saturating where that is an 8-bit float.
    pub fn new(to: DType) -> Cast {
        Cast { to, rounding: Rounding::default() }
    }
}

impl Op for Cast {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let complex = |d| matches!(d, DType::C64 | DType::C128);
        let from = cx.ty(0)?;
        if complex(from.dtype) || complex(self.to) {
            return Err(OpError::new(format!("{} can't become {}", from.dtype, self.to)));
        }
        Ok(vec![ValueType::new(self.to, from.shape.clone())])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<crate::Dim>>> {
        let wide = |d| matches!(d, DType::I64 | DType::I32);
        if wide(cx.dtype(0)?) && wide(self.to) { cx.sizes(0) } else { Ok(None) }
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let from = g.dtype(x);
        // What was an integer has no gradient.
        Ok(vec![if from.is_float() { Some(g.apply(Cast::new(from), &[dy])?) } else { None }])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out = outputs.bytes(0, self.to, x.dims)?;
        if x.dtype == self.to {
            out.copy_from_slice(x.bytes);
            return Ok(());
        }
        let numbers = convert::numbers(&x)?;
        convert::write(self.to, out, self.rounding, (0..x.len()).map(|i| numbers.at(i)))
    }
}

/// The bytes of input 0 under another element type.
///
/// Where the widths differ, the last dimension grows or shrinks by their ratio; ONNX's `BitCast`
/// keeps to types of one width.
#[derive(Clone, Debug)]
pub struct BitCast {
    /// The type of the output.
    pub to: DType,
}

impl BitCast {
    /// The last dimension's factor and divisor.
    fn ratio(&self, from: DType) -> OpResult<(usize, usize)> {
        let (from_bits, to_bits) = (from.bits(), self.to.bits());
        if from_bits == 0 || to_bits == 0 {
            Err(OpError::new(format!("the bits of {from} can't be {}", self.to)))
        } else if from_bits % to_bits == 0 {
            Ok((from_bits / to_bits, 1))
        } else if to_bits % from_bits == 0 {
            Ok((1, to_bits / from_bits))
        } else {
            Err(OpError::new(format!("the bits of {from} can't be {}", self.to)))
        }
    }
}

impl Op for BitCast {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let from = cx.ty(0)?;
        let (factor, divisor) = self.ratio(from.dtype)?;
        let shape = match from.shape.dims() {
            Some(dims) if (factor, divisor) != (1, 1) => {
                let mut dims = dims.to_vec();
                let last =
                    dims.last_mut().ok_or_else(|| OpError::new("a scalar keeps its width"))?;
                *last = last.mul(&Dim::from(factor)).floor_div(&Dim::from(divisor));
                Shape::new(dims)
            }
            _ => from.shape.clone(),
        };
        Ok(vec![ValueType::new(self.to, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (factor, divisor) = self.ratio(x.dtype)?;
        let mut dims = x.dims.to_vec();
        if let Some(last) = dims.last_mut() {
            if *last % divisor != 0 {
                return Err(OpError::new(format!("{last} is not a multiple of {divisor}")));
            }
            *last = last.saturating_mul(factor) / divisor;
        }
        let out = outputs.bytes(0, self.to, &dims)?;
        if out.len() != x.bytes.len() {
            return Err(OpError::new("the bytes do not fill the output"));
        }
        out.copy_from_slice(x.bytes);
        Ok(())
    }

    fn alias(&self) -> Option<usize> {
        Some(0)
    }
}
