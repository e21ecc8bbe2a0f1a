//! Rounding that training sees and gradients pass straight through (Bengio et al., arXiv 1308.3432):
//! weights and activations as a quantised model will hold them (Jacob et al., arXiv 1712.05877).

use super::broadcast::AroundAxis;
use crate::number::{put_f64s, to_f64s};
use crate::{
    DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    Tensor, TensorView, ValueType,
};

/// The elements of input 0 as they are read again from a tensor that holds them as `dtype`: a 16-bit
/// float or an encoding of blocks, of which the last size is a multiple. f32 or f64, though nothing is
/// stored of f64 that f32 does not hold. The gradient passes unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeEncode {
    /// f16, bf16 or an encoding.
    pub dtype: DType,
}

impl Op for FakeEncode {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = real(cx)?;
        if !matches!(self.dtype, DType::F16 | DType::BF16 | DType::Encoded(_)) {
            return Err(OpError::new(format!("f32 can't be encoded as {}", self.dtype)));
        }
        let block = self.dtype.block().0;
        match ty.shape.dims().map(|dims| dims.last().and_then(Dim::fixed)) {
            None => {}
            Some(Some(row)) if row.is_multiple_of(block) => {}
            _ => {
                let m = format!("rows of {ty} are no whole blocks of {block} in {}", self.dtype);
                return Err(OpError::new(m));
            }
        }
        Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let mut values: Vec<f32> = to_f64s(&x)?.iter().map(|v| *v as f32).collect();
        let stored = Tensor::encode(self.dtype, x.dims, &values)?;
        stored.view().decode(0, &mut values)?;
        let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let dy = g.of_first()?;
        Ok(vec![Some(dy)])
    }
}

/// The integers that numbers are rounded to, and the scales that these are multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integers {
    /// The lowest.
    pub low: i32,
    /// The highest.
    pub high: i32,
    /// The dimension along which each index has a scale of its own; `None`: one for all.
    pub axis: Option<usize>,
}

impl Integers {
    /// From −(2ᵇ⁻¹ − 1) to 2ᵇ⁻¹ − 1, so that zero is in the middle; of 2 bits they are −1, 0 and 1.
    ///
    /// # Errors
    /// If there are not 2 to 8 bits.
    pub fn symmetric(bits: u32, axis: Option<usize>) -> OpResult<Integers> {
        if !(2..=8).contains(&bits) {
            return Err(OpError::new(format!("integers of {bits} bits: give 2 to 8")));
        }
        let high = (1 << (bits - 1)) - 1;
        Ok(Integers { low: -high, high, axis })
    }

    /// From 0 to 2ᵇ − 1.
    ///
    /// # Errors
    /// If there are not 2 to 8 bits.
    pub fn unsigned(bits: u32, axis: Option<usize>) -> OpResult<Integers> {
        let Integers { high, .. } = Integers::symmetric(bits, axis)?;
        Ok(Integers { low: 0, high: 2 * high + 1, axis })
    }

    /// How a tensor of sizes `dims` lies around its axis: the index along it chooses the scale.
    pub fn around(&self, dims: &[usize]) -> OpResult<AroundAxis> {
        match self.axis {
            None => Ok(AroundAxis { outer: 1, len: 1, inner: dims.iter().product() }),
            Some(axis) if axis < dims.len() => Ok(AroundAxis::new(dims, axis)),
            Some(axis) => Err(OpError::new(format!("there is no axis {axis} in sizes {dims:?}"))),
        }
    }

    /// The type of a scale for numbers of type `ty`.
    fn scale(&self, ty: &ValueType) -> OpResult<ValueType> {
        let shape = match (self.axis, ty.shape.dims()) {
            (None, _) => Shape::new(Vec::new()),
            (Some(axis), Some(dims)) => {
                let missing = || OpError::new(format!("there is no axis {axis} in {ty}"));
                Shape::new(vec![dims.get(axis).ok_or_else(missing)?.clone()])
            }
            (Some(_), None) => Shape::unknown(),
        };
        Ok(ValueType::new(ty.dtype, shape))
    }

    fn check(&self, cx: &InferCx<'_>) -> OpResult<(ValueType, ValueType)> {
        let ty = real(cx)?;
        let scale = self.scale(ty)?;
        for i in (1..3).filter(|i| cx.opt(*i).is_some()) {
            let found = cx.ty(i)?;
            let sizes = found.shape.fixed().zip(scale.shape.fixed());
            if found.dtype != ty.dtype || sizes.is_some_and(|(a, b)| a != b) {
                return Err(OpError::new(format!("input {i} is {found}, and must be {scale}")));
            }
        }
        Ok((ValueType::new(ty.dtype, ty.shape.clone()), scale))
    }
}

/// Numbers rounded to integers times a scale: (clamp(⌊x / s⌉ + z, low, high) − z) s. Halves go to the
/// even neighbour; NaN stays.
///
/// Inputs: x; s, above 0, a scalar or one for each index along the axis; the zero point z, of s's sizes,
/// whole numbers, which may be left out: 0. All f32, or all f64.
///
/// The gradient passes unchanged to what is not clamped. Where the scale is learned it gets that of
/// LSQ (Esser et al., arXiv 1902.08153); else none, and the zero point none ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeQuantize {
    /// What is rounded to.
    pub integers: Integers,
    /// Whether the scale is learned.
    pub learned: bool,
}

impl Op for FakeQuantize {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(1)?;
        Ok(vec![self.integers.check(cx)?.0])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let Scales { scale, zero, of } = Scales::new(self.integers, inputs, &x)?;
        let (low, high) = (f64::from(self.integers.low), f64::from(self.integers.high));
        let mut values = to_f64s(&x)?;
        for (i, v) in values.iter_mut().enumerate() {
            let (s, z) = (scale[of(i)], zero[of(i)]);
            let steps = divided(*v, s, x.dtype).round_ties_even() + z;
            *v = (steps.clamp(low, high) - z) * s;
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let dy = g.of_first()?;
        let op = FakeQuantizeGradient { integers: self.integers };
        let inputs = [Some(g.input(0)?), Some(g.input(1)?), g.opt_input(2), Some(dy)];
        let found = g.apply_all(op, &inputs, 1 + usize::from(self.learned))?;
        let mut gradients = vec![None; g.inputs()];
        gradients[0] = Some(found[0]);
        gradients[1] = found.get(1).copied();
        Ok(gradients)
    }
}

/// The gradients of [`FakeQuantize`]. Inputs: its own three, then dy. Outputs: dx, which is dy where
/// nothing is clamped, else 0; and that of the scale: the sum of dy (⌊x / s⌉ − x / s) where nothing is
/// clamped, dy times the bound without the zero point elsewhere, over √(n high) of the n elements that
/// share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeQuantizeGradient {
    /// What was rounded to.
    pub integers: Integers,
}

impl FakeQuantizeGradient {
    /// What the gradient of a scale that `n` elements share is multiplied by.
    pub fn factor(&self, n: usize) -> f64 {
        1.0 / (n.max(1) as f64 * f64::from(self.integers.high.max(1))).sqrt()
    }
}

impl Op for FakeQuantizeGradient {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (x, scale) = self.integers.check(cx)?;
        cx.ty(3)?;
        Ok([x, scale].into_iter().take(cx.outputs()).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let scale_dims = inputs.get(1)?.dims;
        let Scales { scale, zero, of } = Scales::new(self.integers, inputs, &x)?;
        let (low, high) = (f64::from(self.integers.low), f64::from(self.integers.high));
        let (values, mut dy) = (to_f64s(&x)?, to_f64s(&inputs.get(3)?)?);
        if dy.len() != values.len() {
            return Err(OpError::new(format!("{} gradients of {}", dy.len(), values.len())));
        }
        let mut of_scale = vec![0.0; scale.len()];
        for (i, (v, dy)) in values.iter().zip(&mut dy).enumerate() {
            let (s, z) = (scale[of(i)], zero[of(i)]);
            let steps = divided(*v, s, x.dtype);
            let whole = steps.round_ties_even() + z;
            if (low..=high).contains(&whole) {
                of_scale[of(i)] += *dy * (whole - z - steps);
            } else {
                of_scale[of(i)] += *dy * (whole.clamp(low, high) - z);
                *dy = 0.0;
            }
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &dy)?;
        if outputs.len() > 1 {
            let factor = self.factor(values.len() / scale.len().max(1));
            of_scale.iter_mut().for_each(|v| *v *= factor);
            put_f64s(outputs, 1, x.dtype, scale_dims, &of_scale)?;
        }
        Ok(())
    }
}

/// x / s, rounded once in the type of both.
fn divided(x: f64, s: f64, dtype: DType) -> f64 {
    if dtype == DType::F64 { x / s } else { f64::from(x as f32 / s as f32) }
}

struct Scales<F> {
    scale: Vec<f64>,
    zero: Vec<f64>,
    /// The scale of an element.
    of: F,
}

impl Scales<()> {
    fn new(
        integers: Integers,
        inputs: &Inputs<'_>,
        x: &TensorView<'_>,
    ) -> OpResult<Scales<impl Fn(usize) -> usize + use<>>> {
        let around = integers.around(x.dims)?;
        let scale = to_f64s(&inputs.get(1)?)?;
        let zero = inputs.opt(2).map(|z| to_f64s(&z)).transpose()?;
        let zero = zero.unwrap_or_else(|| vec![0.0; scale.len()]);
        if scale.len() != around.len || zero.len() != around.len {
            let m =
                format!("{} scales and {} zero points of {}", scale.len(), zero.len(), around.len);
            return Err(OpError::new(m));
        }
        Ok(Scales { scale, zero, of: move |i: usize| i / around.inner % around.len })
    }
}

/// Input 0, of f32 or f64.
fn real<'a>(cx: &InferCx<'a>) -> OpResult<&'a ValueType> {
    let ty = cx.ty(0)?;
    match ty.dtype {
        DType::F32 | DType::F64 => Ok(ty),
        _ => Err(OpError::new(format!("rounds f32, was given {ty}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encoding;
    use crate::ops::test::{check, error, run, run_opt, t};

    #[test]
    fn what_is_encoded_is_read_again() {
        let x: Vec<f32> = (0..512).map(|i| (0.37 * i as f32).sin()).collect();
        let x = t(&[2, 256], &x);
        for &encoding in Encoding::ALL {
            let op = FakeEncode { dtype: encoding.into() };
            let y = run(&op, &[&x]).unwrap();
            let stored = Tensor::encode(encoding.into(), &[2, 256], x.slice().unwrap()).unwrap();
            let mut want = [0.0; 512];
            stored.view().decode(0, &mut want).unwrap();
            assert_eq!(y.slice::<f32>().unwrap(), want, "{encoding}");
        }
        let half = FakeEncode { dtype: DType::F16 };
        check(&half, &[&t(&[3], &[1f32, 1.0001, 2049.0])], &[3], &[1f32, 1.0, 2048.0]);
        let q8 = FakeEncode { dtype: Encoding::Q8_0.into() };
        assert!(error(&q8, &[&t(&[2, 3], &[0f32; 6])]).contains("blocks of 32"));
        assert!(error(&FakeEncode { dtype: DType::I8 }, &[&x]).contains("can't be encoded"));
        assert!(error(&half, &[&t(&[1], &[1i32])]).contains("rounds f32"));
    }

    #[test]
    fn integers_have_a_scale_for_all_or_for_each_row() {
        let x = t(&[2, 3], &[0.6f32, -0.2, 9.0, 0.6, -0.2, -9.0]);
        let op =
            |axis| FakeQuantize { integers: Integers::symmetric(2, axis).unwrap(), learned: false };
        check(&op(None), &[&x, &t(&[], &[1f32])], &[2, 3], &[1f32, 0., 1., 1., 0., -1.]);
        let rows = t(&[2], &[1f32, 0.25]);
        check(&op(Some(0)), &[&x, &rows], &[2, 3], &[1f32, 0., 1., 0.25, -0.25, -0.25]);
        let columns = t(&[3], &[1f32, 0.125, 4.]);
        check(&op(Some(1)), &[&x, &columns], &[2, 3], &[1f32, -0.125, 4., 1., -0.125, -4.]);
        assert!(error(&op(Some(0)), &[&x, &columns]).contains("input 1"));
        assert!(error(&op(Some(2)), &[&x, &columns]).contains("no axis 2"));
        assert!(Integers::symmetric(1, None).is_err() && Integers::symmetric(9, None).is_err());
    }

    #[test]
    fn a_zero_point_moves_the_range() {
        let integers = Integers::unsigned(2, None).unwrap();
        let (s, z) = (t(&[], &[0.5f32]), t(&[], &[1f32]));
        let x = t(&[5], &[-9.0f32, -0.5, 0.25, 1.0, 9.0]);
        let op = FakeQuantize { integers, learned: false };
        check(&op, &[&x, &s, &z], &[5], &[-0.5f32, -0.5, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_learned_scale_has_the_gradient_of_lsq() {
        // Steps of 2: 1.5 is 0.75 steps and becomes 1, -1 is half a step and becomes 0; 30 is clamped.
        let (x, s) = (t(&[3], &[1.5f64, -1.0, 30.0]), t(&[], &[2f64]));
        let dy = t(&[3], &[1f64, 10.0, 100.0]);
        let op = FakeQuantizeGradient { integers: Integers::symmetric(3, None).unwrap() };
        let out = run_opt(&op, &[Some(&x), Some(&s), None, Some(&dy)], 2).unwrap();
        assert_eq!(out[0].slice::<f64>().unwrap(), [1.0, 10.0, 0.0]);
        let want = (0.25 + 10.0 * 0.5 + 100.0 * 3.0) / (3.0f64 * 3.0).sqrt();
        assert!((out[1].slice::<f64>().unwrap()[0] - want).abs() < 1e-12);
    }
}
