//! Products with weights that stay in their encoding.

use super::weights::{check, decode_row};
use super::{expect, f32_of, floats, typed};
use crate::number::Number;
use crate::ops::activation::Activation;
use crate::ops::matmul::MatMul;
use crate::ops::norm::{LayerNorm, RmsNorm};
use crate::ops::unary::Unary;
use crate::{
    Cost, DType, Dims, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Slot,
    Tensor, TensorView, ValueType, elements,
};
use std::sync::Arc;

/// x Wᵀ + bias: each row of x by each row of the weights. Inputs: x, f32 [.., k]; the weights
/// [m, k], floats or any encoding; a bias, f32 [m], which may be left out; what is added to the
/// result, of its sizes, which may be left out too. Output: f32 [.., m]. Where x is f64, so are all
/// but the weights; x may be bf16, as in training of mixed precision.
///
/// The reference decodes the weights and sums in f64. Kernels may round x to 8 bits for encodings
/// of 8 bits and less, in blocks of 32 with an f32 scale each, each row of x by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// Applied to the sum of all that.
    pub activation: Activation,
}

/// The input of a [`Linear`] that is added to its result.
const RESIDUAL: usize = 3;

impl Linear {
    /// The type of the product of input 0 with input `weights`; the bias is the input after that.
    fn product(cx: &InferCx<'_>, weights: usize) -> OpResult<ValueType> {
        let x = cx.ty(0)?;
        check(cx.dtype(weights)?)?;
        let (Some([lead @ .., k]), Some([m, columns])) = (x.shape.dims(), cx.dims(weights)?) else {
            let w = cx.ty(weights)?;
            let m = format!("{x} by weights of {w}: must be [.., k] and [m, k]");
            return Err(OpError::new(m));
        };
        let to = sums(x.dtype)?;
        if let Some(k) = k.fixed() {
            expect("the length of the weights' rows", columns, k)?;
        }
        if let (Some(_), Some(m)) = (cx.opt(weights + 1), m.fixed()) {
            expect("the length of the bias", &typed(cx, weights + 1, to, 1)?[0], m)?;
        }
        let mut out = lead.to_vec();
        out.push(m.clone());
        Ok(ValueType::new(to, out))
    }

    /// Computes that product of `x`, [.., k], plus `residual`, into `out`.
    fn multiply<T: Number<Wide = f64>>(
        &self,
        (x, k): (&[T], usize),
        inputs: &Inputs<'_>,
        weights: usize,
        residual: Option<&[T]>,
        out: &mut [T],
    ) -> OpResult {
        let bias = inputs.opt(weights + 1).map(|b| b.slice::<T>()).transpose()?;
        let weights = inputs.get(weights)?;
        let &[m, _] = weights.dims else { return Err(OpError::new("takes weights [m, k]")) };
        let mut row = vec![0.0; k];
        for j in 0..m {
            decode_row(&weights, j, &mut row)?;
            let bias = bias.map_or(0.0, |b| b[j].to_f64());
            for (i, x) in x.chunks_exact(k.max(1)).enumerate() {
                let residual = residual.map_or(0.0, |r| r[i * m + j].to_f64());
                out[i * m + j] = self.activation.on(dot(x, &row) + bias + residual);
            }
        }
        Ok(())
    }
}

/// The type of sums of products of elements of `dtype` with weights.
fn sums(dtype: DType) -> OpResult<DType> {
    match dtype {
        DType::F64 => Ok(DType::F64),
        DType::F32 | DType::BF16 => Ok(DType::F32),
        _ => Err(OpError::new(format!("takes f32 or bf16, was given {dtype}"))),
    }
}

/// bf16 as f32; `None`: `x` has another type.
fn widened(x: &TensorView<'_>) -> OpResult<Option<Tensor>> {
    if x.dtype != DType::BF16 {
        return Ok(None);
    }
    let mut wide = Tensor::zeros(DType::F32, x.dims)?;
    x.decode(0, wide.slice_mut()?)?;
    Ok(Some(wide))
}

/// The sizes of the product of `x` with input `weights`.
fn product_dims(x: &TensorView<'_>, inputs: &Inputs<'_>, weights: usize) -> OpResult<Dims> {
    let ([lead @ .., _], [m, _]) = (x.dims, inputs.get(weights)?.dims) else {
        return Err(OpError::new("takes x [.., k] and weights [m, k]"));
    };
    Ok(lead.iter().copied().chain([*m]).collect())
}

/// Multiply-accumulates and traffic of products of input 0 with the inputs `weights`.
fn cost(
    inputs: &[Option<&ValueType>],
    outputs: &[&ValueType],
    weights: impl Iterator<Item = usize>,
) -> Cost {
    let count = |i: usize| {
        let dims = inputs.get(i).copied().flatten().and_then(|ty| ty.shape.fixed())?;
        Some((dims.iter().product::<usize>() as u64, dims.last().copied()? as u64))
    };
    let (x, k) = count(0).unwrap_or_default();
    let all: u64 = weights.filter_map(count).map(|(elements, _)| elements).sum();
    Cost::traffic(inputs, outputs).with_macs(x / k.max(1) * all)
}

impl Op for Linear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let product = Linear::product(cx, 1)?;
        if let Some(residual) = cx.opt(RESIDUAL)
            && (residual.dtype != product.dtype || residual.shape != product.shape)
        {
            return Err(OpError::new(format!("adds {residual} to {product}")));
        }
        Ok(vec![product])
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let dims = product_dims(&x, inputs, 1)?;
        let k = x.dims.last().copied().unwrap_or(0);
        let wide = widened(&x)?;
        let x = wide.as_ref().map_or(x, Tensor::view);
        crate::dispatch!(x.dtype, T in [F64 f64, F32 f32] => {
            let residual = inputs.opt(RESIDUAL).map(|r| r.slice::<T>()).transpose()?;
            let out = outputs.slice::<T>(0, &dims)?;
            self.multiply((x.slice::<T>()?, k), inputs, 1, residual, out)
        }, else => Err(OpError::new(format!("takes f32, was given {}", x.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        cost(inputs, outputs, std::iter::once(1))
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, weights) = (g.input(0)?, g.input(1)?);
        let dy = g.of_first()?;
        let dy = g.before(self.activation, dy, || Arc::new(Linear::default()))?;
        let mut gradients = vec![None; g.inputs()];
        if g.wants(0) {
            gradients[0] = Some(g.apply(LinearTranspose, &[dy, weights])?);
        }
        if g.wants(1) {
            if g.dtype(weights) != g.dtype(dy) {
                let dtype = g.dtype(weights);
                return Err(OpError::new(format!("weights of {dtype} can't be trained")));
            }
            let (dy, x) = (g.rows(dy)?, g.rows(x)?);
            let product = MatMul { transpose_a: true, ..MatMul::new() };
            gradients[1] = Some(g.apply(product, &[dy, x])?);
        }
        if g.opt_input(2).is_some() && g.wants(2) {
            let rows = g.rows(dy)?;
            gradients[2] = Some(g.sum(rows, &[0], false)?);
        }
        if g.opt_input(RESIDUAL).is_some() && g.wants(RESIDUAL) {
            gradients[RESIDUAL] = Some(dy);
        }
        Ok(gradients)
    }

    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Linear { activation: self.activation.then(function)? }))
    }
}

/// The normalisation of each row before products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// ε.
    pub epsilon: f32,
    /// Whether the mean is subtracted ([`LayerNorm`]) or not ([`RmsNorm`]).
    pub centred: bool,
}

/// Several [`Linear`]s of one x, which may be normalised first. Inputs: x, f32 [.., k]; the norm's
/// scale and bias, f32 [k], which may be left out; then, for each of the parts, its weights and its
/// bias, which may be left out. Outputs: what each part gives; or, `gated`, the product of all that
/// they give.
#[derive(Clone, Debug)]
pub struct Linears {
    /// What is done with x first.
    pub norm: Option<RowNorm>,
    /// What is done with each product.
    pub parts: Vec<Linear>,
    /// Whether results are multiplied with each other.
    pub gated: bool,
}

impl Linears {
    /// The input that has the weights of a part; its bias is the next one.
    pub fn weights(part: usize) -> usize {
        3 + 2 * part
    }

    /// Computes all parts of `x`, input 0.
    fn multiply<T: Number<Wide = f64>>(
        &self,
        x: &TensorView<'_>,
        inputs: &Inputs<'_>,
        outputs: &mut Outputs<'_>,
    ) -> OpResult {
        let k = x.dims.last().copied().unwrap_or(0);
        let normed = self.norm.map(|norm| norm.on(inputs)).transpose()?;
        let rows: &[T] = match &normed {
            Some(normed) => normed.slice()?,
            None => x.slice()?,
        };
        for (i, part) in self.parts.iter().enumerate() {
            let weights = Linears::weights(i);
            let dims = product_dims(x, inputs, weights)?;
            if !self.gated || i == 0 {
                part.multiply((rows, k), inputs, weights, None, outputs.slice(i, &dims)?)?;
                continue;
            }
            let mut factors = vec![T::of_f64(0.0); dims.iter().product()];
            part.multiply((rows, k), inputs, weights, None, &mut factors)?;
            let out = outputs.slice::<T>(0, &dims)?;
            out.iter_mut().zip(factors).for_each(|(o, f)| *o = T::of_f64(o.to_f64() * f.to_f64()));
        }
        Ok(())
    }
}

impl Op for Linears {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let x = cx.ty(0)?;
        let k = x.shape.dims().and_then(|dims| dims.last()?.fixed());
        for i in [1, 2] {
            if let (Some(_), Some(k)) = (cx.opt(i), k) {
                expect("the length of a norm's values", &typed(cx, i, x.dtype, 1)?[0], k)?;
            }
        }
        let parts = (0..self.parts.len()).map(|i| Linear::product(cx, Linears::weights(i)));
        let mut types = parts.collect::<OpResult<Vec<_>>>()?;
        if self.gated {
            if types.iter().any(|ty| ty.shape != types[0].shape) {
                return Err(OpError::new("multiplies results of other sizes"));
            }
            types.truncate(1);
        }
        Ok(types)
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input >= Linears::weights(0) && input % 2 == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        crate::dispatch!(x.dtype, T in [F64 f64, F32 f32] => {
            self.multiply::<T>(&x, inputs, outputs)
        }, else => Err(OpError::new(format!("takes f32, was given {}", x.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        cost(inputs, outputs, (0..self.parts.len()).map(Linears::weights))
    }
}

impl RowNorm {
    /// Input 0 normalised, scaled by input 1 and shifted by input 2.
    fn on(self, inputs: &Inputs<'_>) -> OpResult<Tensor> {
        let (axis, epsilon) = (-1, self.epsilon);
        let mut outputs = Outputs::new([Slot::Open { quant: None, tensor: None }]);
        match self.centred {
            true => LayerNorm { axis, epsilon }.eval(&inputs.first(3), &mut outputs)?,
            false => RmsNorm { axis, epsilon }.eval(&inputs.first(2), &mut outputs)?,
        }
        match outputs.into_slots().next() {
            Some(Slot::Open { tensor: Some(tensor), .. }) => Ok(tensor),
            _ => Err(OpError::new("its norm gave nothing")),
        }
    }
}

pub(super) fn dot<T: Number>(a: &[T], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b).sum()
}

/// dy W: what [`Linear`] does the other way, as its gradient needs it. Inputs: dy, f32, f64 or bf16
/// [.., m]; the weights [m, k], floats or any encoding. Output: [.., k], f32, or f64 where dy is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearTranspose;

impl Op for LinearTranspose {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dy = cx.ty(0)?;
        check(cx.dtype(1)?)?;
        let (Some([lead @ .., m]), Some([rows, k])) = (dy.shape.dims(), cx.dims(1)?) else {
            let w = cx.ty(1)?;
            return Err(OpError::new(format!("{dy} by weights of {w}: must be [.., m], [m, k]")));
        };
        let to = sums(dy.dtype)?;
        if let Some(m) = m.fixed() {
            expect("the number of the weights' rows", rows, m)?;
        }
        let mut out = lead.to_vec();
        out.push(k.clone());
        Ok(vec![ValueType::new(to, out)])
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (dy, weights) = (inputs.get(0)?, inputs.get(1)?);
        let ([lead @ .., m], &[rows, k]) = (dy.dims, weights.dims) else {
            return Err(OpError::new("takes dy [.., m] and weights [m, k]"));
        };
        if *m != rows {
            return Err(OpError::new(format!("{m} elements by weights of {rows} rows")));
        }
        let mut dims = lead.to_vec();
        dims.push(k);
        let mut row = vec![0.0; k];
        let wide = widened(&dy)?;
        let dy = wide.as_ref().map_or(dy, Tensor::view);
        crate::dispatch!(dy.dtype, T in [F64 f64, F32 f32] => {
            let (dy, out) = (dy.slice::<T>()?, outputs.slice::<T>(0, &dims)?);
            let mut sums = vec![0.0; out.len()];
            for j in 0..rows {
                decode_row(&weights, j, &mut row)?;
                for (dy, sums) in dy.chunks_exact(rows).zip(sums.chunks_exact_mut(k.max(1))) {
                    sums.iter_mut().zip(&row).for_each(|(s, w)| *s += dy[j].to_f64() * w);
                }
            }
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = T::of_f64(s));
            Ok(())
        }, else => Err(OpError::new(format!("takes f32, was given {}", dy.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let m = inputs.first().copied().flatten().and_then(|dy| dy.shape.fixed());
        let m = m.and_then(|dims| dims.last().copied()).unwrap_or(0) as u64;
        let out = outputs.first().and_then(|o| elements(&o.shape.fixed()?)).unwrap_or(0) as u64;
        Cost::traffic(inputs, outputs).with_macs(out * m)
    }
}

/// [`Linear`] by weights that each row chooses: a mixture of experts. Inputs: x, f32 [n, k] (one
/// for all choices of a row) or [n, choices, k]; the weights [experts, m, k]; the choices, i32 [n,
/// choices]; a bias, f32 [experts, m], which may be left out. Output: f32 [n, choices, m].
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpertLinear;

impl Op for ExpertLinear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        check(cx.dtype(1)?)?;
        let x = cx.ty(0)?;
        let choices = typed(cx, 2, DType::I32, 2)?;
        let (Some([n, .., k]), Some([experts, m, columns])) = (x.shape.dims(), cx.dims(1)?) else {
            let m = format!("{x} by weights of {}: must be [n, k], [experts, m, k]", cx.ty(1)?);
            return Err(OpError::new(m));
        };
        if let Some(k) = k.fixed() {
            expect("the length of the weights' rows", columns, k)?;
        }
        if let (Some(_), Some(experts), Some(m)) = (cx.opt(3), experts.fixed(), m.fixed()) {
            let bias = floats(cx, 3, 2)?;
            expect("the experts of the bias", &bias[0], experts)?;
            expect("the length of the bias", &bias[1], m)?;
        }
        Ok(f32_of(vec![n.clone(), choices[1].clone(), m.clone()]))
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights, choices) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let ([n, .., k], [experts, m, _], [rows, each]) = (x.dims, weights.dims, choices.dims)
        else {
            return Err(OpError::new("takes x [n, k], weights [experts, m, k], choices [n, c]"));
        };
        if n != rows || !matches!(x.dims.len(), 2 | 3) || (x.dims.len() == 3 && x.dims[1] != *each)
        {
            let (x, c) = (x.dims, choices.dims);
            return Err(OpError::new(format!("x of sizes {x:?} with choices of sizes {c:?}")));
        }
        let shared = x.dims.len() == 2;
        let bias = inputs.opt(3).map(|b| b.slice::<f32>()).transpose()?;
        let (x, choices) = (x.slice::<f32>()?, choices.slice::<i32>()?);
        let out = outputs.slice::<f32>(0, &[*n, *each, *m])?;
        let mut row = vec![0f64; *k];
        for (i, choice) in choices.iter().enumerate() {
            let out = &mut out[i * m..][..*m];
            let expert = usize::try_from(*choice).ok().filter(|e| e < experts);
            let Some(expert) = expert else {
                return Err(OpError::new(format!("expert {choice} of {experts}")));
            };
            let x = &x[if shared { i / each } else { i } * k..][..*k];
            for (j, out) in out.iter_mut().enumerate() {
                decode_row(&weights, expert * m + j, &mut row)?;
                let bias = bias.map_or(0.0, |b| f64::from(b[expert * m + j]));
                *out = (dot(x, &row) + bias) as f32;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let k = inputs.first().copied().flatten().and_then(|x| x.shape.fixed());
        let k = k.and_then(|dims| dims.last().copied()).unwrap_or(0) as u64;
        let out: u64 = outputs.iter().map(|o| o.bytes().unwrap_or(0) as u64 / 4).sum();
        let whole = Cost::traffic(inputs, outputs).with_macs(out * k);
        let sizes = |i: usize| inputs.get(i).copied().flatten().and_then(|ty| ty.shape.fixed());
        let (Some(weights), Some(choices)) = (sizes(1), sizes(2)) else { return whole };
        // No more experts are read than are chosen.
        let experts = weights.first().copied().unwrap_or(0) as u64;
        let used = experts.min(choices.iter().product::<usize>() as u64);
        let all = inputs[1].and_then(|ty| ty.bytes()).unwrap_or(0) as u64;
        let unused = all / experts.max(1) * (experts - used);
        Cost { bytes: whole.bytes.saturating_sub(unused), ..whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_experts_are_read_than_chosen() {
        let of = |dims: &[usize], dtype| ValueType::new(dtype, dims);
        let cost = |rows: usize| {
            let x = of(&[rows, 32], DType::F32);
            let weights = of(&[8, 16, 32], DType::F32);
            let choices = of(&[rows, 2], DType::I32);
            let out = of(&[rows, 2, 16], DType::F32);
            let passing = [&x, &choices, &out].map(|ty| ty.bytes().unwrap_or(0) as u64);
            let cost = ExpertLinear.cost(&[Some(&x), Some(&weights), Some(&choices)], &[&out]);
            (cost.macs, cost.bytes - passing.iter().sum::<u64>())
        };
        let expert = 4 * 16 * 32;
        assert_eq!(cost(1), (2 * 16 * 32, 2 * expert));
        assert_eq!(cost(3), (6 * 16 * 32, 6 * expert));
        assert_eq!(cost(100), (200 * 16 * 32, 8 * expert));
    }
}
