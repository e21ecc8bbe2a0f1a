//! Batch normalisation by the batch's own statistics, as in training.

use super::norm::{channel_of, channels, check_vectors};
use crate::number::{put_f64s, to_f64s};
use crate::ops::conv::{ImageStrides, float};
use crate::ops::reduce::moments;
use crate::ops::window::Layout;
use crate::{Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Batch normalisation with the batch's own statistics. Inputs x, scale, bias, running mean,
/// running variance; outputs y and the running statistics, moved towards the batch's: momentum ×
/// old + (1 − momentum) × batch's (of the population).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormTraining {
    /// ε.
    pub epsilon: f32,
    /// Share of the old running statistics in the new ones.
    pub momentum: f32,
    /// Where the channels lie.
    pub layout: Layout,
}

/// The gradient of [`BatchNormTraining`]. Inputs x, scale, and the gradient of y; outputs the gradients
/// with respect to x, scale and bias. The batch's statistics are computed again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormGradient {
    /// ε.
    pub epsilon: f32,
    /// Where the channels lie.
    pub layout: Layout,
}

impl Op for BatchNormTraining {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        let channels = channels(self.layout, shape)?;
        check_vectors(cx, 1..5, &[channels.as_ref()])?;
        let (mean, variance) = (cx.ty(3)?, cx.ty(4)?);
        Ok(vec![
            ValueType::new(dtype, shape.clone()),
            ValueType::new(mean.dtype, mean.shape.clone()),
            ValueType::new(variance.dtype, variance.shape.clone()),
        ])
    }

    fn is_learned(&self, input: usize) -> bool {
        // Not the running mean and variance.
        input < 3
    }

    /// The running statistics take no part in y and pass no gradient on.
    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, scale, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        let op = BatchNormGradient { epsilon: self.epsilon, layout: self.layout };
        let found = g.apply_all(op, &[Some(x), Some(scale), Some(dy)], 3)?;
        Ok(found.into_iter().map(Some).chain([None, None]).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        outputs.dims(self, inputs)?;
        let x = inputs.get(0)?;
        let (scale, bias) = (to_f64s(&inputs.get(1)?)?, to_f64s(&inputs.get(2)?)?);
        let at = ImageStrides::of(self.layout, x.dims)?;
        let mut values = to_f64s(&x)?;
        let mut batch = vec![Vec::new(); scale.len()];
        for (i, v) in values.iter().enumerate() {
            batch[channel_of(&at, scale.len(), i)].push(*v);
        }
        let batch: Vec<(f64, f64)> = batch.iter().map(|b| moments(b.iter().copied())).collect();
        for (i, v) in values.iter_mut().enumerate() {
            let c = channel_of(&at, scale.len(), i);
            let (mean, variance) = batch[c];
            let deviation = (variance + f64::from(self.epsilon)).sqrt();
            *v = scale[c] * (*v - mean) / deviation + bias[c];
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &values)?;
        let keep = f64::from(self.momentum);
        for (i, new) in [(3, 0), (4, 1)] {
            let old = inputs.get(i)?;
            let mixed: Vec<f64> = to_f64s(&old)?
                .iter()
                .zip(&batch)
                .map(|(old, b)| old * keep + [b.0, b.1][new] * (1.0 - keep))
                .collect();
            put_f64s(outputs, i - 2, old.dtype, old.dims, &mixed)?;
        }
        Ok(())
    }
}

impl Op for BatchNormGradient {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 3)?;
        let (x, dy) = (cx.ty(0)?, cx.ty(2)?);
        let channels = channels(self.layout, &x.shape)?;
        check_vectors(cx, 1..2, &[channels.as_ref()])?;
        if x.shape.rank().zip(dy.shape.rank()).is_some_and(|(x, dy)| x != dy) {
            return Err(OpError::new(format!("x is {x} and its gradient {dy}")));
        }
        let vector = ValueType::new(dtype, cx.ty(1)?.shape.clone());
        Ok(vec![ValueType::new(dtype, x.shape.clone()), vector.clone(), vector])
    }

    /// dx = scale / σ (dy − mean dy − u mean(dy u)), where u = (x − μ) / σ.
    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, dy) = (inputs.get(0)?, inputs.get(2)?);
        if x.dims != dy.dims {
            return Err(OpError::new(format!("x of {:?} with dy of {:?}", x.dims, dy.dims)));
        }
        let (values, scale, by) = (to_f64s(&x)?, to_f64s(&inputs.get(1)?)?, to_f64s(&dy)?);
        let (at, n) = (ImageStrides::of(self.layout, x.dims)?, scale.len());
        let mut batch = vec![Vec::new(); n];
        for (i, v) in values.iter().enumerate() {
            batch[channel_of(&at, n, i)].push(*v);
        }
        let batch: Vec<(f64, f64)> = batch
            .iter()
            .map(|b| moments(b.iter().copied()))
            .map(|(mean, variance)| (mean, (variance + f64::from(self.epsilon)).sqrt()))
            .collect();
        let unit = |c: usize, v: f64| (v - batch[c].0) / batch[c].1;
        let (mut d_scale, mut d_bias) = (vec![0.0; n], vec![0.0; n]);
        for (i, (v, by)) in values.iter().zip(&by).enumerate() {
            let c = channel_of(&at, n, i);
            d_scale[c] += by * unit(c, *v);
            d_bias[c] += by;
        }
        let count = (values.len() / n.max(1)) as f64;
        let dx: Vec<f64> = (values.iter().zip(&by).enumerate())
            .map(|(i, (v, by))| {
                let c = channel_of(&at, n, i);
                let off = by - (d_bias[c] + unit(c, *v) * d_scale[c]) / count;
                scale[c] / batch[c].1 * off
            })
            .collect();
        put_f64s(outputs, 0, x.dtype, x.dims, &dx)?;
        put_f64s(outputs, 1, x.dtype, &[n], &d_scale)?;
        put_f64s(outputs, 2, x.dtype, &[n], &d_bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{run_opt, t};

    fn near(found: &Tensor, wanted: &[f32]) {
        for (a, b) in found.slice::<f32>().unwrap().iter().zip(wanted) {
            assert!((a - b).abs() < 1e-5, "{found:?} is not {wanted:?}");
        }
    }

    #[test]
    fn training_moves_the_running_statistics() {
        let op = BatchNormTraining { epsilon: 0.0, momentum: 0.5, layout: Layout::ChannelsFirst };
        let x = t(&[2, 1, 1], &[1f32, 3.]);
        let (one, zero) = (t(&[1], &[1f32]), t(&[1], &[0f32]));
        let inputs = [Some(&x), Some(&one), Some(&zero), Some(&zero), Some(&one)];
        let out = run_opt(&op, &inputs, 3).unwrap();
        near(&out[0], &[-1., 1.]);
        near(&out[1], &[1.]);
        near(&out[2], &[1.]);
    }
}
