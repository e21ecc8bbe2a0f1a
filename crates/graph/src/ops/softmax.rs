//! Softmax and its kin.

use crate::number::Number;
use crate::ops::broadcast::{AroundAxis, axis_of};
use crate::ops::conv::float;
use crate::ops::unary::Unary;
use crate::{Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// eˣ / Σ eˣ over an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// The axis; negative counts from the back.
    pub axis: i64,
    /// All dimensions from the axis on count as one: ONNX before opset 13.
    pub flatten: bool,
    /// Multiplies x first.
    pub beta: f32,
}

/// The logarithm of [`Softmax`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSoftmax {
    /// The axis; negative counts from the back.
    pub axis: i64,
    /// All dimensions from the axis on count as one: ONNX before opset 13.
    pub flatten: bool,
}

/// 1 at the first largest element along an axis, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardmax {
    /// The axis; negative counts from the back.
    pub axis: i64,
    /// All dimensions from the axis on count as one: ONNX before opset 13.
    pub flatten: bool,
}

impl Softmax {
    /// Over one axis.
    pub fn new(axis: i64) -> Softmax {
        Softmax { axis, flatten: false, beta: 1.0 }
    }
}

/// The lines that are normalised in a tensor of `dims`.
pub fn lines(dims: &[usize], axis: i64, flatten: bool) -> OpResult<AroundAxis> {
    // The old operator took `axis` = rank: lines of one element.
    if flatten && usize::try_from(axis) == Ok(dims.len()) {
        return Ok(AroundAxis { outer: dims.iter().product(), len: 1, inner: 1 });
    }
    if dims.is_empty() && matches!(axis, 0 | -1) {
        return Ok(AroundAxis { outer: 1, len: 1, inner: 1 });
    }
    let around = AroundAxis::new(dims, axis_of(axis, dims.len())?);
    Ok(match flatten {
        true => AroundAxis { outer: around.outer, len: around.len * around.inner, inner: 1 },
        false => around,
    })
}

fn infer(cx: &InferCx<'_>, axis: i64, flatten: bool) -> OpResult<Vec<ValueType>> {
    let dtype = float(cx, 1)?;
    let shape = &cx.ty(0)?.shape;
    if let Some(rank) = shape.rank() {
        lines(&vec![1; rank], axis, flatten)?;
    }
    Ok(vec![ValueType::new(dtype, shape.clone())])
}

/// Runs `f` on each line, in f64.
fn each_line(
    inputs: &Inputs<'_>,
    outputs: &mut Outputs<'_>,
    around: AroundAxis,
    f: impl Fn(&mut [f64]),
) -> OpResult {
    let x = inputs.get(0)?;
    crate::dispatch_float!(x.dtype, T => {
        let y = outputs.slice::<T>(0, x.dims)?;
        let x = x.slice::<T>()?;
        let mut line = vec![0.0; around.len];
        for start in around.lines() {
            for (i, v) in line.iter_mut().enumerate() {
                *v = x[start + i * around.inner].to_f64();
            }
            f(&mut line);
            for (i, v) in line.iter().enumerate() {
                y[start + i * around.inner] = T::of_f64(*v);
            }
        }
        Ok(())
    }, else => Err(OpError::new(format!("takes floats, was given {}", x.dtype))))
}

fn largest(line: &[f64]) -> f64 {
    line.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The axes of input 0 that a line lies along.
fn line_axes(g: &Gradient<'_>, axis: i64, flatten: bool) -> OpResult<Vec<usize>> {
    let rank = g.rank(g.input(0)?)?;
    if (flatten && usize::try_from(axis) == Ok(rank)) || rank == 0 {
        return Ok(Vec::new());
    }
    let axis = axis_of(axis, rank)?;
    Ok((axis..if flatten { rank } else { axis + 1 }).collect())
}

impl Op for Softmax {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        infer(cx, self.axis, self.flatten)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (y, dy) = (g.output(0), g.of_first()?);
        let axes = line_axes(g, self.axis, self.flatten)?;
        let weighed = g.mul(dy, y)?;
        let mean = g.sum(weighed, &axes, true)?;
        let off = g.sub(dy, mean)?;
        let dx = g.mul(y, off)?;
        Ok(vec![Some(g.scaled(dx, self.beta.into())?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let around = lines(inputs.get(0)?.dims, self.axis, self.flatten)?;
        let beta = f64::from(self.beta);
        each_line(inputs, outputs, around, |line| {
            line.iter_mut().for_each(|v| *v *= beta);
            let max = largest(line);
            line.iter_mut().for_each(|v| *v = (*v - max).exp());
            let sum: f64 = line.iter().sum();
            line.iter_mut().for_each(|v| *v /= sum);
        })
    }
}

impl Op for LogSoftmax {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        infer(cx, self.axis, self.flatten)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (y, dy) = (g.output(0), g.of_first()?);
        let axes = line_axes(g, self.axis, self.flatten)?;
        let total = g.sum(dy, &axes, true)?;
        let share = g.apply(Unary::Exp, &[y])?;
        let shared = g.mul(share, total)?;
        Ok(vec![Some(g.sub(dy, shared)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let around = lines(inputs.get(0)?.dims, self.axis, self.flatten)?;
        each_line(inputs, outputs, around, log_softmax)
    }
}

/// Replaces each number of a line by its log-softmax.
pub(crate) fn log_softmax(line: &mut [f64]) {
    let max = largest(line);
    let sum: f64 = line.iter().map(|v| (v - max).exp()).sum();
    line.iter_mut().for_each(|v| *v = *v - max - sum.ln());
}

impl Op for Hardmax {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        infer(cx, self.axis, self.flatten)
    }

    fn gradient(&self, _g: &mut Gradient<'_>) -> OpResult<Gradients> {
        Ok(vec![None])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let around = lines(inputs.get(0)?.dims, self.axis, self.flatten)?;
        each_line(inputs, outputs, around, |line| {
            let max = largest(line);
            let first = line.iter().position(|v| *v == max);
            for (i, v) in line.iter_mut().enumerate() {
                *v = f64::from(u8::from(Some(i) == first));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error};

    fn near(found: &Tensor, wanted: &[f32]) {
        let found = found.slice::<f32>().unwrap();
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() < 1e-6, "{found:?} is not {wanted:?}");
        }
        assert_eq!(found.len(), wanted.len());
    }

    #[test]
    fn each_axis_by_itself_or_the_rest_as_one() {
        let ln2 = 2f32.ln();
        let x = Tensor::from_slice(&[2, 2], &[0., ln2, 0., ln2]).unwrap();
        let (third, sixth) = (1. / 3., 1. / 6.);
        near(
            &eval(&Softmax::new(-1), std::slice::from_ref(&x))[0],
            &[third, 2. * third, third, 2. * third],
        );
        near(&eval(&Softmax::new(0), std::slice::from_ref(&x))[0], &[0.5; 4]);
        let flat = Softmax { axis: 0, flatten: true, beta: 1.0 };
        near(&eval(&flat, std::slice::from_ref(&x))[0], &[sixth, third, sixth, third]);
        let op = LogSoftmax { axis: 1, flatten: false };
        near(
            &eval(&op, std::slice::from_ref(&x))[0],
            &[-3f32.ln(), -(1.5f32.ln()), -3f32.ln(), -(1.5f32.ln())],
        );
        assert!(eval_error(&Softmax::new(2), &[x]).contains("axis 2"));
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        let x = Tensor::from_slice(&[2], &[1e30f32, 1e30]).unwrap();
        near(&eval(&Softmax::new(0), &[x])[0], &[0.5, 0.5]);
    }

    #[test]
    fn hardmax_takes_the_first_of_equals() {
        let x = Tensor::from_slice(&[3], &[1f32, 3., 3.]).unwrap();
        near(&eval(&Hardmax { axis: 0, flatten: false }, &[x])[0], &[0., 1., 0.]);
    }
}
