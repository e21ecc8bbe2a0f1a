//! Products with weights that stay in their encoding.

use super::weights::{check, decode_row};
use super::{expect, f32_of, floats, typed};
use crate::ops::activation::Activation;
use crate::ops::unary::Unary;
use crate::{Cost, DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};
use std::sync::Arc;

/// x Wᵀ + bias: each row of x by each row of the weights. Inputs: x, f32 [.., k]; the weights
/// [m, k], floats or any encoding; a bias, f32 [m], which may be left out. Output: f32 [.., m].
///
/// The reference decodes the weights and sums in f64. Kernels may round x to 8 bits for encodings
/// of 8 bits and less, in blocks of 32 with an f32 scale each, each row of x by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// Applied to the result.
    pub activation: Activation,
}

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
        if x.dtype != DType::F32 {
            return Err(OpError::new(format!("takes f32, was given {x}")));
        }
        if let Some(k) = k.fixed() {
            expect("the length of the weights' rows", columns, k)?;
        }
        if let (Some(_), Some(m)) = (cx.opt(weights + 1), m.fixed()) {
            expect("the length of the bias", &floats(cx, weights + 1, 1)?[0], m)?;
        }
        let mut out = lead.to_vec();
        out.push(m.clone());
        Ok(ValueType::new(DType::F32, out))
    }

    /// Computes that product as output `to`.
    fn multiply(
        &self,
        inputs: &Inputs<'_>,
        weights: usize,
        outputs: &mut Outputs<'_>,
        to: usize,
    ) -> OpResult {
        let bias = inputs.opt(weights + 1).map(|b| b.slice::<f32>()).transpose()?;
        let (x, weights) = (inputs.get(0)?, inputs.get(weights)?);
        let ([lead @ .., k], [m, _]) = (x.dims, weights.dims) else {
            return Err(OpError::new("takes x [.., k] and weights [m, k]"));
        };
        let mut dims = lead.to_vec();
        dims.push(*m);
        let x = x.slice::<f32>()?;
        let out = outputs.slice::<f32>(to, &dims)?;
        let mut row = vec![0.0; *k];
        for j in 0..*m {
            decode_row(&weights, j, &mut row)?;
            let bias = bias.map_or(0.0, |b| f64::from(b[j]));
            for (x, out) in x.chunks_exact((*k).max(1)).zip(out.chunks_exact_mut(*m)) {
                out[j] = self.activation.on(dot(x, &row) + bias);
            }
        }
        Ok(())
    }
}

/// Multiply-accumulates and traffic of products of input 0.
fn cost(inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
    let k = inputs.first().copied().flatten().and_then(|x| x.shape.fixed());
    let k = k.and_then(|dims| dims.last().copied()).unwrap_or(0) as u64;
    let out: u64 = outputs.iter().map(|o| o.bytes().unwrap_or(0) as u64 / 4).sum();
    Cost::traffic(inputs, outputs).with_macs(out * k)
}

impl Op for Linear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![Linear::product(cx, 1)?])
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        self.multiply(inputs, 1, outputs, 0)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        cost(inputs, outputs)
    }

    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Linear { activation: self.activation.then(function)? }))
    }
}

/// Several [`Linear`]s of one x. Inputs: x; then, for each of the parts, its weights and its bias,
/// which may be left out. Outputs: what each part gives.
#[derive(Clone, Debug)]
pub struct Linears {
    /// What is done with each product.
    pub parts: Vec<Linear>,
}

impl Op for Linears {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        (0..self.parts.len()).map(|i| Linear::product(cx, 1 + 2 * i)).collect()
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input % 2 == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let mut parts = self.parts.iter().enumerate();
        parts.try_for_each(|(i, part)| part.multiply(inputs, 1 + 2 * i, outputs, i))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        cost(inputs, outputs)
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
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
        let mut row = vec![0.0; *k];
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
        let whole = Linear::default().cost(inputs, outputs);
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
