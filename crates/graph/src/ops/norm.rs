//! Normalisation: shifting and scaling by statistics of the data, or by given ones.

use crate::number::{put_f64s, to_f64s};
use crate::ops::binary::BinaryFn;
use crate::ops::broadcast::{AroundAxis, Offsets, axis_of, broadcast_dims};
use crate::ops::conv::{ImageStrides, float};
use crate::ops::logic::Compare;
use crate::ops::reduce::{ReduceKind, moments};
use crate::ops::unary::{Unary, is_number};
use crate::ops::window::Layout;
use crate::{
    DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueId, ValueType,
};

/// Batch normalisation with given statistics: scale (x − mean) / √(variance + ε) + bias per
/// channel. Inputs x, scale, bias, mean, variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// ε.
    pub epsilon: f32,
    /// Where the channels lie.
    pub layout: Layout,
}

/// Normalises groups of channels of each image to mean 0 and variance 1, then scales and shifts.
/// Inputs x, scale, bias, with one element per channel or (ONNX before opset 21) per group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups that the channels are split into; `None`: as many as channels (instance
    /// normalisation).
    pub groups: Option<usize>,
    /// ε.
    pub epsilon: f32,
    /// Where the channels lie.
    pub layout: Layout,
}

/// Normalises all from an axis on to mean 0 and variance 1. Inputs x, scale, bias?, which
/// broadcast to x. Outputs y and, where the node has them, the means and 1 / √(variance + ε), f32,
/// with 1 in place of the normalised dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// The first normalised axis; negative counts from the back.
    pub axis: i64,
    /// ε.
    pub epsilon: f32,
}

/// Divides all from an axis on by √(mean of squares + ε). Inputs x, scale, which broadcasts to x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// The first normalised axis; negative counts from the back.
    pub axis: i64,
    /// ε.
    pub epsilon: f32,
}

/// Divides lines along an axis by their norm, but at least by ε; a line whose divisor is 0
/// becomes 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LpNorm {
    /// The axis; negative counts from the back.
    pub axis: i64,
    /// The norm: 1 or 2, usually.
    pub p: f32,
    /// ε.
    pub epsilon: f32,
}

/// Local response normalisation across channels: x / (bias + alpha / size × Σ x²) ^ beta, the sum
/// over `size` channels around each. TFLite does not divide by the size: multiply its alpha.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalResponseNorm {
    /// Channels summed over; of an even number, the odd one comes after.
    pub size: usize,
    /// Weight of the mean square.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Added to the mean square.
    pub bias: f32,
    /// Where the channels lie.
    pub layout: Layout,
}

/// The channels of `shape`, when known.
pub(super) fn channels(layout: Layout, shape: &Shape) -> OpResult<Option<Dim>> {
    shape.dims().map(|dims| layout.split(dims).map(|(_, c, _)| c)).transpose()
}

/// Checks that inputs `range` are vectors with one float for each of `n`.
pub(super) fn check_vectors(
    cx: &InferCx<'_>,
    range: std::ops::Range<usize>,
    n: &[Option<&Dim>],
) -> OpResult {
    for i in range {
        let ty = cx.ty(i)?;
        let fits = match ty.shape.dims() {
            None => true,
            Some([d]) => n.iter().any(|n| match (n.and_then(Dim::fixed), d.fixed()) {
                (Some(n), Some(d)) => n == d,
                _ => true,
            }),
            Some(_) => false,
        };
        if !fits || !ty.dtype.is_float() || !is_number(ty.dtype) {
            return Err(OpError::new(format!(
                "input {i} is {ty}: must be floats, one for each channel"
            )));
        }
    }
    Ok(())
}

/// The channel that element `i` belongs to.
pub(super) fn channel_of(at: &ImageStrides, channels: usize, i: usize) -> usize {
    i / at.channel.max(1) % channels.max(1)
}

/// Where the channels of input 0 lie, for gradient rules.
struct Channels {
    /// Their axis.
    axis: usize,
    /// All other axes.
    others: Vec<usize>,
}

impl Channels {
    fn of(g: &Gradient<'_>, layout: Layout) -> OpResult<Channels> {
        let rank = g.rank(g.input(0)?)?;
        let axis = if layout == Layout::ChannelsFirst { 1 } else { rank - 1 };
        Ok(Channels { axis, others: (0..rank).filter(|a| *a != axis).collect() })
    }

    /// One element for each channel, as a tensor that broadcasts to the image.
    fn spread(&self, g: &mut Gradient<'_>, v: ValueId) -> OpResult<ValueId> {
        let after: Vec<usize> = (1..=self.others.len() - self.axis).collect();
        g.unsqueezed(v, &after)
    }

    /// The sum over each channel.
    fn summed(&self, g: &mut Gradient<'_>, v: ValueId) -> OpResult<ValueId> {
        g.sum(v, &self.others, false)
    }
}

/// 1 / √(v + ε).
fn inverse_deviation(g: &mut Gradient<'_>, v: ValueId, epsilon: f32) -> OpResult<ValueId> {
    let epsilon = g.scalar(epsilon.into(), v)?;
    let sum = g.add(v, epsilon)?;
    g.apply(Unary::Rsqrt, &[sum])
}

/// Of y = scale u + bias, where u is x divided by the root of its mean square over `axes`, its mean
/// taken out first where `centre`: the gradients with respect to x, and to the scale before the sum
/// over what it was broadcast to. `scale` broadcasts to x.
///
/// u is computed again: x is at hand anyway, and u need not be kept.
fn normalised(
    g: &mut Gradient<'_>,
    x: ValueId,
    dy: ValueId,
    scale: Option<ValueId>,
    axes: &[usize],
    epsilon: f32,
    centre: bool,
) -> OpResult<(ValueId, ValueId)> {
    let mut centred = x;
    if centre {
        let mean = g.reduce(ReduceKind::Mean, x, axes, true)?;
        centred = g.sub(x, mean)?;
    }
    let square = g.mul(centred, centred)?;
    let square = g.reduce(ReduceKind::Mean, square, axes, true)?;
    let inverse = inverse_deviation(g, square, epsilon)?;
    let unit = g.mul(centred, inverse)?;
    let by_unit = g.mul(dy, unit)?;
    let (mut du, mut along) = (dy, by_unit);
    if let Some(scale) = scale {
        (du, along) = (g.mul(dy, scale)?, g.mul(by_unit, scale)?);
    }
    // dx = (du − mean du − u mean(du u)) / √(variance + ε).
    let along = g.reduce(ReduceKind::Mean, along, axes, true)?;
    let along = g.mul(unit, along)?;
    let mut off = g.sub(du, along)?;
    if centre {
        let level = g.reduce(ReduceKind::Mean, du, axes, true)?;
        off = g.sub(off, level)?;
    }
    Ok((g.mul(off, inverse)?, by_unit))
}

/// The gradients of a norm of all from an axis on, with a scale and perhaps a bias.
fn scaled_line_gradient(
    g: &mut Gradient<'_>,
    x: ValueId,
    scale: ValueId,
    dy: ValueId,
    axis: i64,
    epsilon: f32,
    centre: bool,
) -> OpResult<Gradients> {
    let rank = g.rank(x)?;
    let axes: Vec<usize> = (axis_of(axis, rank)?..rank).collect();
    let (dx, by_unit) = normalised(g, x, dy, Some(scale), &axes, epsilon, centre)?;
    let mut gradients = g.first_only(Some(dx));
    if g.wants(1) {
        gradients[1] = Some(g.summed_to(by_unit, x, scale)?);
    }
    if let (Some(bias), true) = (g.opt_input(2), g.wants(2)) {
        gradients[2] = Some(g.summed_to(dy, x, bias)?);
    }
    Ok(gradients)
}

impl Op for BatchNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        let channels = channels(self.layout, shape)?;
        check_vectors(cx, 1..5, &[channels.as_ref()])?;
        Ok(vec![ValueType::new(dtype, shape.clone())])
    }

    fn is_learned(&self, input: usize) -> bool {
        // Not the mean and the variance.
        input < 3
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let shape = Channels::of(g, self.layout)?;
        let [scale, mean, variance] = [1, 3, 4].map(|i| g.input(i));
        let (scale, mean) = (shape.spread(g, scale?)?, shape.spread(g, mean?)?);
        let inverse = inverse_deviation(g, variance?, self.epsilon)?;
        let inverse = shape.spread(g, inverse)?;
        let centred = g.sub(x, mean)?;
        let unit = g.mul(centred, inverse)?;
        let mut gradients = vec![None; 5];
        let by_unit = g.mul(dy, unit)?;
        let steep = g.mul(scale, inverse)?;
        if g.wants(0) {
            gradients[0] = Some(g.mul(dy, steep)?);
        }
        if g.wants(1) {
            gradients[1] = Some(shape.summed(g, by_unit)?);
        }
        if g.wants(2) {
            gradients[2] = Some(shape.summed(g, dy)?);
        }
        if g.wants(3) {
            let back = g.mul(dy, steep)?;
            let back = shape.summed(g, back)?;
            gradients[3] = Some(g.apply(Unary::Neg, &[back])?);
        }
        if g.wants(4) {
            // d (v + ε)^-½ / dv = −½ (v + ε)^-½ / (v + ε).
            let back = g.mul(by_unit, scale)?;
            let back = g.mul(back, inverse)?;
            let back = g.mul(back, inverse)?;
            let back = shape.summed(g, back)?;
            gradients[4] = Some(g.scaled(back, -0.5)?);
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        outputs.dims(self, inputs)?;
        let x = inputs.get(0)?;
        let per_channel = |i: usize| inputs.get(i).and_then(|v| to_f64s(&v));
        let (scale, bias) = (per_channel(1)?, per_channel(2)?);
        let (mean, variance) = (per_channel(3)?, per_channel(4)?);
        let at = ImageStrides::of(self.layout, x.dims)?;
        let mut values = to_f64s(&x)?;
        for (i, v) in values.iter_mut().enumerate() {
            let c = channel_of(&at, scale.len(), i);
            let deviation = (variance[c] + f64::from(self.epsilon)).sqrt();
            *v = scale[c] * (*v - mean[c]) / deviation + bias[c];
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }
}

impl Op for GroupNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        let channels = channels(self.layout, shape)?;
        let groups = self.groups.map(Dim::from);
        check_vectors(cx, 1..3, &[channels.as_ref(), groups.as_ref().or(channels.as_ref())])?;
        if let (Some(groups), Some(c)) = (self.groups, channels.and_then(|c| c.fixed()))
            && (groups == 0 || c % groups != 0)
        {
            return Err(OpError::new(format!("{c} channels do not split into {groups} groups")));
        }
        Ok(vec![ValueType::new(dtype, shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, scale, bias, dy) = (g.input(0)?, g.input(1)?, g.input(2)?, g.of_first()?);
        let dims = g.fixed(x)?;
        let (_, channels, spatial) = self.layout.split(&dims)?;
        let groups = self.groups.unwrap_or(channels);
        let each = channels / groups;
        // Channels [groups, each] in place of one dimension; or each group alone has a scale.
        let split = self.layout.join(
            vec![dims[0]],
            vec![groups, each],
            &spatial.iter().map(|s| vec![*s]).collect::<Vec<_>>(),
        );
        let split: Vec<i64> = split.concat().iter().map(|d| *d as i64).collect();
        let (group, inside) = match self.layout {
            Layout::ChannelsFirst => (1, 2),
            Layout::ChannelsLast => (split.len() - 2, split.len() - 1),
        };
        let whole: Vec<usize> = (1..split.len()).filter(|a| *a != group).collect();
        let others: Vec<usize> = (0..split.len()).filter(|a| *a != group && *a != inside).collect();
        let per_channel = g.fixed(scale)?[0] == channels;
        let (x_split, dy_split) = (g.reshaped(x, &split)?, g.reshaped(dy, &split)?);
        let wide =
            g.reshaped(scale, &[groups as i64, if per_channel { each } else { 1 } as i64])?;
        let after = split.len() - 1 - inside;
        let back: Vec<usize> = (2..2 + after).collect();
        let wide = g.unsqueezed(wide, &back)?;
        let (dx, by_unit) =
            normalised(g, x_split, dy_split, Some(wide), &whole, self.epsilon, true)?;
        let summed = |g: &mut Gradient<'_>, v, like| {
            let mut axes = others.clone();
            axes.extend((!per_channel).then_some(inside));
            let sum = g.sum(v, &axes, false)?;
            g.reshaped_like(sum, like)
        };
        Ok(vec![
            Some(g.reshaped_like(dx, x)?),
            Some(summed(g, by_unit, scale)?),
            Some(summed(g, dy_split, bias)?),
        ])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        outputs.dims(self, inputs)?;
        let x = inputs.get(0)?;
        let (batch, channels, _) = self.layout.split(x.dims)?;
        let groups = self.groups.unwrap_or(channels);
        let (scale, bias) = (to_f64s(&inputs.get(1)?)?, to_f64s(&inputs.get(2)?)?);
        let at = ImageStrides::of(self.layout, x.dims)?;
        let mut values = to_f64s(&x)?;
        // Element i is in this group of this image.
        let group_of = |i: usize| {
            i / at.batch.max(1) * groups + channel_of(&at, channels, i) / (channels / groups)
        };
        let mut members = vec![Vec::new(); batch * groups];
        for (i, v) in values.iter().enumerate() {
            members[group_of(i)].push(*v);
        }
        let statistics: Vec<_> = members.iter().map(|m| moments(m.iter().copied())).collect();
        for (i, v) in values.iter_mut().enumerate() {
            let (mean, variance) = statistics[group_of(i)];
            let c = channel_of(&at, channels, i);
            let of = |v: &[f64]| v[if v.len() == channels { c } else { c / (channels / groups) }];
            let deviation = (variance + f64::from(self.epsilon)).sqrt();
            *v = of(&scale) * (*v - mean) / deviation + of(&bias);
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }
}

/// Checks that input `i`, where it is there, broadcasts to x, and is of floats.
fn check_broadcasts(cx: &InferCx<'_>, i: usize) -> OpResult {
    let (x, Some(ty)) = (cx.ty(0)?, cx.opt(i)) else { return Ok(()) };
    let fits = match (x.shape.dims(), ty.shape.dims()) {
        (Some(x), Some(v)) => {
            v.len() <= x.len()
                && x.iter().rev().zip(v.iter().rev()).all(|(x, v)| match (x.fixed(), v.fixed()) {
                    (Some(x), Some(v)) => v == x || v == 1,
                    _ => true,
                })
        }
        _ => true,
    };
    if fits && ty.dtype.is_float() && is_number(ty.dtype) {
        Ok(())
    } else {
        Err(OpError::new(format!("input {i} is {ty}: must be floats that broadcast to {x}")))
    }
}

/// The axis from which on all is one line.
fn tail(dims: &[usize], axis: i64) -> OpResult<AroundAxis> {
    let axis = axis_of(axis, dims.len())?;
    let product = |dims: &[usize]| dims.iter().product();
    Ok(AroundAxis { outer: product(&dims[..axis]), len: product(&dims[axis..]), inner: 1 })
}

impl Op for LayerNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        cx.ty(1)?;
        check_broadcasts(cx, 1)?;
        check_broadcasts(cx, 2)?;
        let shape = cx.ty(0)?.shape.clone();
        let statistics = match shape.dims() {
            None => Shape::unknown(),
            Some(dims) => {
                let axis = axis_of(self.axis, dims.len())?;
                let each = dims.iter().enumerate();
                let kept = each.map(|(i, d)| if i < axis { d.clone() } else { Dim::from(1) });
                Shape::new(kept.collect())
            }
        };
        let mut types = vec![ValueType::new(dtype, shape)];
        types.resize(cx.outputs().clamp(1, 3), ValueType::new(DType::F32, statistics));
        Ok(types)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, scale, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        scaled_line_gradient(g, x, scale, dy, self.axis, self.epsilon, true)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let out_dims = outputs.dims(self, inputs)?;
        let x = inputs.get(0)?;
        let around = tail(x.dims, self.axis)?;
        let mut values = to_f64s(&x)?;
        let (mut means, mut inverses) = (Vec::new(), Vec::new());
        for start in around.lines() {
            let line = &mut values[start..start + around.len];
            let (mean, variance) = moments(line.iter().copied());
            let inverse = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            line.iter_mut().for_each(|v| *v = (*v - mean) * inverse);
            means.push(mean);
            inverses.push(inverse);
        }
        scale_and_shift(inputs, &mut values)?;
        put_f64s(outputs, 0, x.dtype, x.dims, &values)?;
        for (i, statistic) in [means, inverses].iter().enumerate().take(outputs.len() - 1) {
            put_f64s(outputs, i + 1, DType::F32, &out_dims[i + 1], statistic)?;
        }
        Ok(())
    }
}

/// Multiplies by input 1 and adds input 2, if it is there; both broadcast to input 0.
fn scale_and_shift(inputs: &Inputs<'_>, values: &mut [f64]) -> OpResult {
    let dims = inputs.get(0)?.dims;
    for i in [1, 2] {
        let Some(by) = inputs.opt(i) else { continue };
        if broadcast_dims(&[dims, by.dims])?.as_slice() != dims {
            return Err(OpError::new(format!("sizes {:?} do not broadcast to {dims:?}", by.dims)));
        }
        let offsets = Offsets::broadcast(dims, [by.dims]);
        let by = to_f64s(&by)?;
        for (v, [at]) in values.iter_mut().zip(offsets) {
            *v = if i == 1 { *v * by[at] } else { *v + by[at] };
        }
    }
    Ok(())
}

impl Op for RmsNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        cx.ty(1)?;
        check_broadcasts(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        shape.rank().map(|rank| axis_of(self.axis, rank)).transpose()?;
        Ok(vec![ValueType::new(dtype, shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, scale, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        scaled_line_gradient(g, x, scale, dy, self.axis, self.epsilon, false)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let around = tail(x.dims, self.axis)?;
        let mut values = to_f64s(&x)?;
        for start in around.lines() {
            let line = &mut values[start..start + around.len];
            let mean = line.iter().map(|v| v * v).sum::<f64>() / line.len() as f64;
            let rms = (mean + f64::from(self.epsilon)).sqrt();
            line.iter_mut().for_each(|v| *v /= rms);
        }
        scale_and_shift(inputs, &mut values)?;
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }
}

impl Op for LpNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        shape.rank().map(|rank| axis_of(self.axis, rank)).transpose()?;
        Ok(vec![ValueType::new(dtype, shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, y, dy) = (g.input(0)?, g.output(0), g.of_first()?);
        let kind = match self.p {
            1.0 => ReduceKind::L1,
            2.0 => ReduceKind::L2,
            p => return Err(OpError::new(format!("has no gradient rule for the norm of p = {p}"))),
        };
        let axes = [axis_of(self.axis, g.rank(x)?)?];
        let norm = g.reduce(kind, x, &axes, true)?;
        let epsilon = g.scalar(self.epsilon.into(), x)?;
        let divisor = g.binary(BinaryFn::Max, norm, epsilon)?;
        // dx = (dy − (Σ dy y) d‖x‖ / dx) / ‖x‖, the second part where ε does not rule.
        let slope = match kind {
            ReduceKind::L1 => g.apply(Unary::Sign, &[x])?,
            _ => g.div(x, divisor)?,
        };
        let along = g.mul(dy, y)?;
        let along = g.sum(along, &axes, true)?;
        let free = g.apply(Compare::Greater, &[norm, epsilon])?;
        let along = g.only_where(free, along)?;
        let along = g.mul(along, slope)?;
        let off = g.sub(dy, along)?;
        Ok(vec![Some(g.div(off, divisor)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let around = AroundAxis::new(x.dims, axis_of(self.axis, x.dims.len())?);
        let p = f64::from(self.p);
        let mut values = to_f64s(&x)?;
        for start in around.lines() {
            let line = || (0..around.len).map(|i| start + i * around.inner);
            let sum: f64 = line().map(|i| values[i].abs().powf(p)).sum();
            let norm = sum.powf(1.0 / p).max(self.epsilon.into());
            for i in line() {
                values[i] = if norm == 0.0 { 0.0 } else { values[i] / norm };
            }
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }
}

impl Op for LocalResponseNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        channels(self.layout, shape)?;
        if self.size == 0 {
            return Err(OpError::new("a sum over 0 channels"));
        }
        Ok(vec![ValueType::new(dtype, shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        outputs.dims(self, inputs)?;
        let x = inputs.get(0)?;
        let (_, channels, _) = self.layout.split(x.dims)?;
        let at = ImageStrides::of(self.layout, x.dims)?;
        let values = to_f64s(&x)?;
        let [alpha, beta, bias] = [self.alpha, self.beta, self.bias].map(f64::from);
        let normalised: Vec<f64> = values
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let c = channel_of(&at, channels, i);
                let first = i - c * at.channel;
                let from = c.saturating_sub((self.size - 1) / 2);
                let to = c.saturating_add(self.size / 2).min(channels - 1);
                let squares = (from..=to).map(|c| values[first + c * at.channel].powi(2));
                v / (bias + alpha / self.size as f64 * squares.sum::<f64>()).powf(beta)
            })
            .collect();
        put_f64s(outputs, 0, x.dtype, x.dims, &normalised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{check, error, run, run_opt, t};

    fn near(found: &Tensor, wanted: &[f32]) {
        let found = found.slice::<f32>().unwrap();
        assert_eq!(found.len(), wanted.len());
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() < 1e-5, "{found:?} is not {wanted:?}");
        }
    }

    #[test]
    fn given_statistics_of_each_channel() {
        let vector = |a, b| t(&[2], &[a, b]);
        let rest = [vector(1f32, 2.), vector(0., 1.), vector(1., 0.), vector(4., 1.)];
        for (layout, dims, data) in [
            (Layout::ChannelsFirst, [1, 2, 2], [3f32, 5., 1., 2.]),
            (Layout::ChannelsLast, [1, 2, 2], [3f32, 1., 5., 2.]),
        ] {
            let wanted = match layout {
                Layout::ChannelsFirst => [1f32, 2., 3., 5.],
                Layout::ChannelsLast => [1f32, 3., 2., 5.],
            };
            let op = BatchNorm { epsilon: 0.0, layout };
            let x = t(&dims, &data);
            check(&op, &[&x, &rest[0], &rest[1], &rest[2], &rest[3]], &dims, &wanted);
            let wrong = t(&[3], &[0f32; 3]);
            let error = error(&op, &[&x, &wrong, &rest[1], &rest[2], &rest[3]]);
            assert!(error.contains("one for each channel"), "{error}");
        }
    }

    #[test]
    fn groups_and_instances() {
        let x = t(&[1, 4, 1], &[1f32, 3., 10., 30.]);
        let mut op = GroupNorm { groups: Some(2), epsilon: 0.0, layout: Layout::ChannelsFirst };
        let (scale, bias) = (t(&[4], &[1f32, 1., 1., 2.]), t(&[4], &[0f32, 0., 0., 1.]));
        near(&run(&op, &[&x, &scale, &bias]).unwrap(), &[-1., 1., -1., 3.]);
        let by_group = t(&[2], &[1f32, 2.]);
        near(&run(&op, &[&x, &by_group, &by_group]).unwrap(), &[0., 2., 0., 4.]);
        op.groups = Some(3);
        assert!(error(&op, &[&x, &scale, &bias]).contains("3 groups"));
        op = GroupNorm { groups: None, ..op };
        let x = t(&[1, 2, 2], &[1f32, 3., 10., 30.]);
        near(&run(&op, &[&x, &by_group, &by_group]).unwrap(), &[0., 2., 0., 4.]);
    }

    #[test]
    fn layers_with_and_without_statistics() {
        let x = t(&[2, 2], &[1f32, 3., -2., 2.]);
        let scale = t(&[2], &[1f32, 10.]);
        let op = LayerNorm { axis: -1, epsilon: 0.0 };
        near(&run(&op, &[&x, &scale]).unwrap(), &[-1., 10., -1., 10.]);
        let out = run_opt(&op, &[Some(&x), Some(&scale), Some(&scale)], 3).unwrap();
        near(&out[0], &[0., 20., 0., 20.]);
        assert_eq!(out[1].dims(), [2, 1]);
        near(&out[1], &[2., 0.]);
        near(&out[2], &[1., 0.5]);
        let op = RmsNorm { axis: -1, epsilon: 0.0 };
        near(&run(&op, &[&x, &scale]).unwrap(), &[0.447_213_6, 13.416_408, -1., 10.]);
        assert!(error(&op, &[&x, &t(&[3], &[0f32; 3])]).contains("broadcast"));
    }

    #[test]
    fn lines_of_norm_one() {
        let x = t(&[2, 2], &[3f32, 4., 0., 0.]);
        let op = LpNorm { axis: 1, p: 2.0, epsilon: 0.0 };
        near(&run(&op, &[&x]).unwrap(), &[0.6, 0.8, 0., 0.]);
        let op = LpNorm { axis: 1, p: 1.0, epsilon: 14.0 };
        near(&run(&op, &[&x]).unwrap(), &[3. / 14., 4. / 14., 0., 0.]);
    }

    #[test]
    fn responses_of_neighbours() {
        let x = t(&[1, 3, 1], &[1f32, 2., 3.]);
        let op = LocalResponseNorm {
            size: 2,
            alpha: 2.0,
            beta: 1.0,
            bias: 0.0,
            layout: Layout::ChannelsFirst,
        };
        near(&run(&op, &[&x]).unwrap(), &[1. / 5., 2. / 13., 3. / 9.]);
    }
}
