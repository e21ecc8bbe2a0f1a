//! The loss of a student by its teacher's probabilities: distillation (Hinton et al., arXiv 1503.02531).

use crate::number::{put_f64s, to_f64s};
use crate::ops::softmax::log_softmax;
use crate::{
    DType, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, TensorView,
    ValueType,
};

/// T² KL(softmax(z / T) ‖ softmax(x / T)), in nats, of each row of scores x and of those of a teacher z;
/// T² keeps gradients as large as those of targets.
///
/// Inputs: x and z, f32 or f64 [n, classes]; targets, integers [n], which may be left out: a row whose
/// target is [`SoftLoss::ignore`] does not count. Output: a scalar, the sum over the rows or their mean,
/// which is NaN where none counts. z and the targets have no gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftLoss {
    /// T, above 0.
    pub temperature: f32,
    /// Whether the result is the mean of the rows that count, and not their sum.
    pub mean: bool,
    /// A target that does not count.
    pub ignore: Option<i64>,
}

impl SoftLoss {
    /// Which rows count.
    ///
    /// # Errors
    /// If the targets are no integers, or not as many as rows.
    pub fn counts(&self, targets: Option<TensorView<'_>>, rows: usize) -> OpResult<Vec<bool>> {
        let (Some(targets), Some(ignore)) = (targets, self.ignore) else {
            return Ok(vec![true; rows]);
        };
        let targets = targets.ints()?;
        if targets.len() != rows {
            return Err(OpError::new(format!("{} targets for {rows} rows", targets.len())));
        }
        Ok(targets.iter().map(|target| *target != ignore).collect())
    }

    fn check(&self, cx: &InferCx<'_>) -> OpResult<ValueType> {
        let (x, z) = (cx.ty(0)?, cx.ty(1)?);
        let sizes = x.shape.fixed().zip(z.shape.fixed());
        let rank = |ty: &ValueType| ty.shape.dims().is_none_or(|dims| dims.len() == 2);
        if !matches!(x.dtype, DType::F32 | DType::F64)
            || x.dtype != z.dtype
            || !(rank(x) && rank(z))
            || sizes.is_some_and(|(x, z)| x != z)
        {
            let m = format!("scores of {x} by a teacher's of {z}: must be [n, classes], and alike");
            return Err(OpError::new(m));
        }
        if self.temperature.is_nan() || self.temperature <= 0.0 {
            return Err(OpError::new(format!(
                "a temperature of {}: must be above 0",
                self.temperature
            )));
        }
        Ok(x.clone())
    }
}

/// The log-probabilities of the rows of `scores`, over `temperature`.
fn logs(scores: &TensorView<'_>, temperature: f32) -> OpResult<(Vec<f64>, usize)> {
    let &[_, classes] = scores.dims else { return Err(OpError::new("takes rows of scores")) };
    let mut values = to_f64s(scores)?;
    values.iter_mut().for_each(|v| *v /= f64::from(temperature));
    values.chunks_mut(classes.max(1)).for_each(log_softmax);
    Ok((values, classes.max(1)))
}

impl Op for SoftLoss {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![ValueType::new(self.check(cx)?.dtype, Shape::new(Vec::new()))])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (q, classes) = logs(&x, self.temperature)?;
        let (p, _) = logs(&inputs.get(1)?, self.temperature)?;
        let counts = self.counts(inputs.opt(2), x.dims[0])?;
        let square = f64::from(self.temperature).powi(2);
        let rows = p.chunks(classes).zip(q.chunks(classes)).zip(&counts).filter(|(_, c)| **c);
        let row =
            |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        let mut sum: f64 = rows.map(|((p, q), _)| square * row(p, q)).sum();
        if self.mean {
            sum /= counts.iter().filter(|c| **c).count() as f64;
        }
        put_f64s(outputs, 0, x.dtype, &[], &[sum])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, z, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        if g.wants(1) {
            return Err(OpError::new("has no gradient rule for the teacher's scores"));
        }
        let op = SoftLossGradient { loss: *self };
        let inputs = [Some(x), Some(z), g.opt_input(2), Some(dy)];
        let dx = g.apply_all(op, &inputs, 1)?[0];
        Ok(g.first_only(Some(dx)))
    }
}

/// The gradient of [`SoftLoss`] with respect to its scores: T (softmax(x / T) − softmax(z / T)) in rows
/// that count, 0 in others; of a mean over how many count; times dy. Inputs: its own three, then dy, a
/// scalar. Probabilities are not held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftLossGradient {
    /// The loss.
    pub loss: SoftLoss,
}

impl SoftLossGradient {
    /// What the difference of probabilities is multiplied by, beside dy, where `counted` rows count.
    pub fn factor(&self, counted: usize) -> f64 {
        let share = if self.loss.mean { 1.0 / counted as f64 } else { 1.0 };
        f64::from(self.loss.temperature) * share
    }
}

impl Op for SoftLossGradient {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(3)?;
        Ok(vec![self.loss.check(cx)?])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (mut q, classes) = logs(&x, self.loss.temperature)?;
        let (p, _) = logs(&inputs.get(1)?, self.loss.temperature)?;
        let counts = self.loss.counts(inputs.opt(2), x.dims[0])?;
        let &[dy] = to_f64s(&inputs.get(3)?)?.as_slice() else {
            return Err(OpError::new("takes one gradient"));
        };
        let factor = dy * self.factor(counts.iter().filter(|c| **c).count());
        for ((p, q), counts) in p.chunks(classes).zip(q.chunks_mut(classes)).zip(counts) {
            for (p, q) in p.iter().zip(q) {
                *q = if counts { factor * (q.exp() - p.exp()) } else { 0.0 };
            }
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test::{error, i, run_opt, t};

    fn loss(op: SoftLoss, targets: Option<&[i64]>) -> f64 {
        let x = t(&[3, 2], &[0f64, 0., 0., 2. * 3f64.ln(), 7., 1.]);
        let z = t(&[3, 2], &[0f64, 2. * 3f64.ln(), 0., 2. * 3f64.ln(), 0., 0.]);
        let targets = targets.map(i);
        run_opt(&op, &[Some(&x), Some(&z), targets.as_ref()], 1).unwrap()[0].slice::<f64>().unwrap()
            [0]
    }

    #[test]
    fn probabilities_are_compared_at_a_temperature() {
        // At T = 2: a half and a half, by 1/4 and 3/4; the same; and a row that need not count.
        let sum = SoftLoss { temperature: 2.0, mean: false, ignore: Some(-1) };
        let want = 4.0 * (0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln());
        assert!((loss(sum, Some(&[0, 1, -1])) - want).abs() < 1e-12);
        assert!(
            (loss(SoftLoss { mean: true, ..sum }, Some(&[0, 1, -1])) - want / 2.0).abs() < 1e-12
        );
        assert!(loss(sum, None) > want + 1.0);
        assert!(loss(SoftLoss { mean: true, ..sum }, Some(&[-1; 3])).is_nan());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let op = SoftLoss { temperature: 1.0, mean: false, ignore: None };
        let (two, three) = (t(&[1, 2], &[0f32; 2]), t(&[1, 3], &[0f32; 3]));
        assert!(error(&op, &[&two, &three]).contains("alike"));
        let cold = SoftLoss { temperature: 0.0, ..op };
        assert!(error(&cold, &[&two, &two]).contains("above 0"));
        let op = SoftLoss { ignore: Some(0), ..op };
        assert!(error(&op, &[&two, &two, &i(&[1, 2])]).contains("2 targets"));
    }
}
