//! Losses of classification.

use crate::number::{put_f64s, to_f64s};
use crate::ops::broadcast::AroundAxis;
use crate::ops::cast::Cast;
use crate::ops::conv::float;
use crate::ops::gather::Gather;
use crate::ops::logic::{Compare, Where};
use crate::ops::reshape::SizeOf;
use crate::ops::scatter::{Reduction, ScatterElements};
use crate::ops::softmax::{Softmax, log_softmax};
use crate::ops::unary::Unary;
use crate::{
    DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    Tensor, ValueType,
};

/// What becomes of the losses of the single targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReduction {
    /// They are the output.
    None,
    /// Their sum.
    Sum,
    /// Their mean, weighted by the weights of their classes.
    Mean,
}

/// Minus the log-probability of the target class, times the class's weight. Inputs x (batch,
/// classes, any more), targets (integers; x's sizes without the classes), class weights?. Output
/// 0 is the loss; output 1 (of [`ClassLoss::softmax`], where the node has it) the
/// log-probabilities. ONNX `NegativeLogLikelihoodLoss`, `SoftmaxCrossEntropyLoss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLoss {
    /// x holds scores, whose log-softmax are the log-probabilities; else it holds these.
    pub softmax: bool,
    /// What becomes of the single losses.
    pub reduction: LossReduction,
    /// A target that does not count.
    pub ignore: Option<i64>,
}

impl Op for ClassLoss {
    fn name(&self) -> &'static str {
        if self.softmax { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        let (x, targets) = (cx.ty(0)?, cx.ty(1)?);
        if !targets.dtype.is_integer() || cx.opt(2).is_some_and(|w| w.dtype != dtype) {
            return Err(OpError::new(format!("{} with targets of {targets}", self.name())));
        }
        let loss = match (self.reduction, x.shape.dims()) {
            (LossReduction::None, Some([batch, _, rest @ ..])) => {
                let mut dims: Vec<Dim> = vec![batch.clone()];
                dims.extend_from_slice(rest);
                dims.into()
            }
            (_, Some([] | [_])) => {
                return Err(OpError::new(format!("x is {x}: must have a batch and classes")));
            }
            (LossReduction::None, None) => Shape::unknown(),
            _ => Shape::new(Vec::new()),
        };
        let mut types = vec![ValueType::new(dtype, loss)];
        if self.softmax && cx.outputs() > 1 {
            types.push(ValueType::new(dtype, x.shape.clone()));
        }
        Ok(types)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, targets, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        if g.wants(2) {
            return Err(OpError::new("has no gradient rule for the weights of classes"));
        }
        // The share of each target in the loss, and a class in range for those that do not count.
        let one = g.scalar(1.0, x)?;
        let (mut share, mut classes) = (None, targets);
        if let Some(ignore) = self.ignore {
            let [ignore, first] = [ignore, 0].map(|v| match g.dtype(targets) {
                DType::I32 => i32::try_from(v).map(Tensor::scalar).ok(),
                DType::I64 => Some(Tensor::scalar(v)),
                _ => None,
            });
            let (Some(ignore), Some(first)) = (ignore, first) else {
                return Err(OpError::new("has a gradient rule for targets of i32 and i64"));
            };
            let (ignore, first) =
                (g.graph.add_constant("", ignore), g.graph.add_constant("", first));
            let counts = g.apply(Compare::NotEqual, &[targets, ignore])?;
            classes = g.apply(Where, &[counts, targets, first])?;
            let zero = g.scalar(0.0, x)?;
            share = Some(g.apply(Where, &[counts, one, zero])?);
        }
        if let Some(weights) = g.opt_input(2) {
            let weight = g.apply(Gather::default(), &[weights, classes])?;
            share = Some(match share {
                Some(share) => g.mul(share, weight)?,
                None => weight,
            });
        }
        let mut scale = dy;
        if self.reduction == LossReduction::Mean {
            let total = match share {
                Some(share) => {
                    let axes: Vec<usize> = (0..g.rank(share)?).collect();
                    g.sum(share, &axes, false)?
                }
                None => {
                    let count = g.apply(SizeOf, &[targets])?;
                    let dtype = g.dtype(x);
                    g.apply(Cast::new(dtype), &[count])?
                }
            };
            scale = g.div(dy, total)?;
        }
        let share = match share {
            Some(share) => g.mul(share, scale)?,
            None if self.reduction == LossReduction::None => scale,
            None => g.expanded_like(scale, targets)?,
        };
        let (share, places) = (g.unsqueezed(share, &[1])?, g.unsqueezed(classes, &[1])?);
        let to_class = ScatterElements { axis: 1, reduction: Reduction::Add };
        let lost = g.apply(Unary::Neg, &[share])?;
        let spread = if self.softmax {
            let probabilities = g.apply(Softmax::new(1), &[x])?;
            g.mul(probabilities, share)?
        } else {
            g.zeros_like(x)?
        };
        let dx = g.apply(to_class, &[spread, places, lost])?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let out_dims = outputs.dims(self, inputs)?;
        let (x, targets) = (inputs.get(0)?, inputs.get(1)?.ints()?);
        let weights = inputs.opt(2).map(|w| to_f64s(&w)).transpose()?;
        let around = AroundAxis::new(x.dims, 1);
        if targets.len() != around.outer * around.inner {
            return Err(OpError::new(format!("{} targets for x of {:?}", targets.len(), x.dims)));
        }
        if weights.as_ref().is_some_and(|w| w.len() != around.len) {
            return Err(OpError::new(format!(
                "the weights must be those of {} classes",
                around.len
            )));
        }
        let mut values = to_f64s(&x)?;
        let (mut losses, mut total, mut weight_sum) = (Vec::new(), 0.0, 0.0);
        for (start, target) in around.lines().zip(&targets) {
            if self.softmax {
                let places = (0..around.len).map(|i| start + i * around.inner);
                let mut line: Vec<f64> = places.clone().map(|at| values[at]).collect();
                log_softmax(&mut line);
                for (at, v) in places.zip(line) {
                    values[at] = v;
                }
            }
            if Some(*target) == self.ignore {
                losses.push(0.0);
                continue;
            }
            let class = usize::try_from(*target).ok().filter(|c| *c < around.len);
            let class = class.ok_or_else(|| {
                OpError::new(format!("target {target} is none of {} classes", around.len))
            })?;
            let weight = weights.as_ref().map_or(1.0, |w| w[class]);
            let loss = -values[start + class * around.inner] * weight;
            losses.push(loss);
            total += loss;
            weight_sum += weight;
        }
        match self.reduction {
            LossReduction::None => {}
            LossReduction::Sum => losses = vec![total],
            LossReduction::Mean => losses = vec![total / weight_sum],
        }
        put_f64s(outputs, 0, x.dtype, &out_dims[0], &losses)?;
        if outputs.len() > 1 {
            put_f64s(outputs, 1, x.dtype, x.dims, &values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test::{check, error, i, run_opt, t};

    #[test]
    fn likelihoods_weighted_and_ignored() {
        let x = t(&[3, 2], &[-1f32, -2., -3., -4., -5., -6.]);
        let targets = i(&[1, 0, -1]);
        let weights = t(&[2], &[1f32, 3.]);
        let op = |reduction| ClassLoss { softmax: false, reduction, ignore: Some(-1) };
        check(&op(LossReduction::None), &[&x, &targets], &[3], &[2f32, 3., 0.]);
        check(&op(LossReduction::Sum), &[&x, &targets, &weights], &[], &[9f32]);
        check(&op(LossReduction::Mean), &[&x, &targets, &weights], &[], &[2.25f32]);
        assert!(error(&op(LossReduction::Sum), &[&x, &i(&[2, 0, 0])]).contains("target 2"));
        assert!(error(&op(LossReduction::Sum), &[&x, &i(&[0])]).contains("1 targets"));
    }

    #[test]
    fn softmax_tells_its_probabilities() {
        let x = t(&[1, 2, 1], &[7f32, 7.]);
        let op = ClassLoss { softmax: true, reduction: LossReduction::Mean, ignore: None };
        let out = run_opt(&op, &[Some(&x), Some(&t(&[1, 1], &[0i64]))], 2).unwrap();
        assert!((out[0].slice::<f32>().unwrap()[0] - 2f32.ln()).abs() < 1e-6);
        assert!((out[1].slice::<f32>().unwrap()[1] + 2f32.ln()).abs() < 1e-6);
    }
}
