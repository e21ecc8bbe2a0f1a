//! Pooling: one number from each window of an image, or from the whole.

use crate::number::{Number, put_f64s, to_f64s};
use crate::ops::activation::Activation;
use crate::ops::conv::{ImageStrides, WeightStrides, float, for_each_window};
use crate::ops::reduce::ReduceKind;
use crate::ops::unary::{Unary, is_number};
use crate::ops::window::{AxisWindow, Layout, Window};
use crate::{
    DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueType,
};
use std::fmt;
use std::sync::Arc;

/// What a pool makes of the elements of a window. Padding counts only where said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolKind {
    /// The largest; of any number type.
    Max,
    /// The mean.
    Average {
        /// Padding counts as zeros, except what rounding up adds to it.
        include_padding: bool,
    },
    /// (Σ |x|ᵖ)^(1/p).
    Lp {
        /// The norm's exponent.
        p: f32,
    },
    /// √ of the mean of x²: TFLite's `L2_POOL_2D`.
    RootMeanSquare,
}

impl PoolKind {
    fn name(self, global: bool) -> &'static str {
        match (self, global) {
            (PoolKind::Max, false) => "MaxPool",
            (PoolKind::Average { .. }, false) => "AveragePool",
            (PoolKind::Lp { .. }, false) => "LpPool",
            (PoolKind::RootMeanSquare, false) => "RootMeanSquarePool",
            (PoolKind::Max, true) => "GlobalMaxPool",
            (PoolKind::Average { .. }, true) => "GlobalAveragePool",
            (PoolKind::Lp { .. }, true) => "GlobalLpPool",
            (PoolKind::RootMeanSquare, true) => "GlobalRootMeanSquarePool",
        }
    }

    /// Its value for the elements of a window; `padded` is how many there would be, padding
    /// included.
    fn of(self, window: impl Iterator<Item = f64>, padded: usize) -> f64 {
        let (mut count, mut sum) = (0usize, 0.0);
        for x in window {
            count += 1;
            sum += match self {
                PoolKind::Average { .. } => x,
                PoolKind::Lp { p } => x.abs().powf(p.into()),
                PoolKind::RootMeanSquare => x * x,
                PoolKind::Max => unreachable!("maxima keep their type"),
            };
        }
        match self {
            PoolKind::Average { include_padding: true } => sum / padded as f64,
            PoolKind::Lp { p } => sum.powf(1.0 / f64::from(p)),
            PoolKind::RootMeanSquare => (sum / count as f64).sqrt(),
            _ => sum / count as f64,
        }
    }

    /// The derivative of the value y of a window of `count` elements by the element x.
    fn slope(self, x: f64, y: f64, count: usize, padded: usize) -> f64 {
        match self {
            PoolKind::Average { include_padding: true } => 1.0 / padded as f64,
            PoolKind::Average { .. } => 1.0 / count as f64,
            _ if x == 0.0 => 0.0,
            PoolKind::Lp { p } => {
                let p = f64::from(p);
                x.signum() * (x.abs() / y).powf(p - 1.0)
            }
            PoolKind::RootMeanSquare => x / (y * count as f64),
            PoolKind::Max => unreachable!("the largest element is looked for"),
        }
    }

    fn dtype(self, cx: &InferCx<'_>) -> OpResult<DType> {
        let dtype = cx.dtype(0)?;
        match self {
            PoolKind::Max if is_number(dtype) => Ok(dtype),
            _ => float(cx, 1),
        }
    }
}

/// A pool over windows of input 0, each channel by itself. ONNX `MaxPool`, `AveragePool`,
/// `LpPool`; TFLite `MAX_POOL_2D`, `AVERAGE_POOL_2D`, `L2_POOL_2D`.
#[derive(Clone, PartialEq)]
pub struct Pool {
    /// What it makes of a window.
    pub kind: PoolKind,
    /// Sizes of the window, one for each spatial dimension.
    pub kernel: Vec<usize>,
    /// Strides, dilations, padding.
    pub window: Window,
    /// Whether a last window that leaves the padded input counts.
    pub ceil: bool,
    /// Layout of input and output.
    pub layout: Layout,
    /// Applied to the result.
    pub activation: Activation,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind.name(false))
            .field("kind", &self.kind)
            .field("kernel", &self.kernel)
            .field("window", &self.window)
            .field("ceil", &self.ceil)
            .field("layout", &self.layout)
            .field("activation", &self.activation)
            .finish()
    }
}

/// What the shape rules of pools of any type share: the sizes of the output.
pub(crate) fn pool_shape(
    window: &Window,
    kernel: &[usize],
    ceil: bool,
    layout: Layout,
    x: &Shape,
) -> OpResult<Shape> {
    let Some(x) = x.dims() else { return Ok(Shape::unknown()) };
    let (batch, channels, spatial) = layout.split(x)?;
    let spatial = window.output_dims(&spatial, kernel, ceil)?;
    Ok(Shape::new(layout.join(batch, channels, &spatial)))
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        self.kind.name(false)
    }

    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        let activation = self.activation.then(function)?;
        Some(Arc::new(Pool { activation, ..self.clone() }))
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = self.kind.dtype(cx)?;
        if !self.activation.takes(dtype) {
            return Err(OpError::new(format!("{:?} is applied to {dtype}", self.activation)));
        }
        let x = &cx.ty(0)?.shape;
        let shape = pool_shape(&self.window, &self.kernel, self.ceil, self.layout, x)?;
        Ok(vec![ValueType::new(dtype, shape)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let plain = Pool { activation: Activation::None, ..self.clone() };
        let dy = g.before(self.activation, dy, || Arc::new(plain.clone()))?;
        Ok(vec![Some(g.apply(PoolGradient { pool: plain }, &[x, dy])?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let (batch, channels, spatial) = self.layout.split(x.dims)?;
        let windows = self.window.resolve(&spatial, &self.kernel, self.ceil)?;
        let x_at = ImageStrides::of(self.layout, x.dims)?;
        let y_at = ImageStrides::of(self.layout, out_dims)?;
        let none = WeightStrides { output: 0, input: 0, spatial: vec![0; spatial.len()] };
        crate::dispatch_number!(x.dtype, T => {
            let x = x.slice::<T>()?;
            let y = outputs.slice::<T>(0, out_dims)?;
            for_each_window(&windows, &x_at, &none, &y_at, |position, at, taps| {
                let padded = padded_taps(&windows, position);
                for n in 0..batch {
                    for c in 0..channels {
                        let from = n * x_at.batch + c * x_at.channel;
                        let window = taps.iter().map(|(tap, _)| x[from + tap]);
                        let value = match self.kind {
                            PoolKind::Max => largest(window),
                            kind => T::of_f64(kind.of(window.map(Number::to_f64), padded)),
                        };
                        y[n * y_at.batch + c * y_at.channel + at] =
                            self.activation.on(value.wide());
                    }
                }
            });
            Ok(())
        }, else => Err(OpError::new(format!("{} does not take {}", self.name(), x.dtype))))
    }
}

/// Elements of the window at `position` that lie in the input or its padding.
fn padded_taps(windows: &[AxisWindow], position: &[usize]) -> usize {
    let along = |w: &AxisWindow, o: usize| {
        let end = w.pad_before + w.input + w.pad_after;
        (0..w.kernel).filter(|k| o * w.stride + k * w.dilation < end).count()
    };
    windows.iter().zip(position).map(|(w, o)| along(w, *o)).product()
}

/// The largest element, NaN if one is; the type's least value where there are none.
fn largest<T: Number>(window: impl Iterator<Item = T>) -> T {
    window.fold(T::MIN, |max, x| if x > max || x.is_nan() { x } else { max })
}

/// A pool over all of each channel: its output's spatial sizes are 1. ONNX `GlobalMaxPool`,
/// `GlobalAveragePool`, `GlobalLpPool`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GlobalPool {
    /// What it makes of a channel.
    pub kind: PoolKind,
    /// Layout of input and output.
    pub layout: Layout,
}

impl Op for GlobalPool {
    fn name(&self) -> &'static str {
        self.kind.name(true)
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = self.kind.dtype(cx)?;
        let Some(x) = cx.dims(0)? else { return Ok(vec![ValueType::new(dtype, Shape::unknown())]) };
        let (batch, channels, spatial) = self.layout.split(x)?;
        let ones = vec![Dim::from(1); spatial.len()];
        Ok(vec![ValueType::new(dtype, self.layout.join(batch, channels, &ones))])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, y, dy) = (g.input(0)?, g.output(0), g.of_first()?);
        let rank = g.rank(x)?;
        let axes: Vec<usize> = match self.layout {
            Layout::ChannelsFirst => (2..rank).collect(),
            Layout::ChannelsLast => (1..rank - 1).collect(),
        };
        let kind = match self.kind {
            PoolKind::Max => ReduceKind::Max,
            PoolKind::Average { .. } => ReduceKind::Mean,
            PoolKind::Lp { p: 1.0 } => ReduceKind::L1,
            PoolKind::Lp { p: 2.0 } => ReduceKind::L2,
            _ => return Err(OpError::new("has no gradient rule for its kind of mean")),
        };
        Ok(vec![Some(kind.gradient(g, x, y, dy, &axes)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (_, channels, spatial) = self.layout.split(x.dims)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let area: usize = spatial.iter().product();
        let at = ImageStrides::of(self.layout, x.dims)?;
        let step = spatial.last().map_or(1, |_| at.spatial[spatial.len() - 1]);
        crate::dispatch_number!(x.dtype, T => {
            let x = x.slice::<T>()?;
            for (i, y) in outputs.slice::<T>(0, out_dims)?.iter_mut().enumerate() {
                let from = i / channels * at.batch + i % channels * at.channel;
                let all = (0..area).map(|s| x[from + s * step]);
                *y = match self.kind {
                    PoolKind::Max => largest(all),
                    kind => T::of_f64(kind.of(all.map(Number::to_f64), area)),
                };
            }
            Ok(())
        }, else => Err(OpError::new(format!("{} does not take {}", self.name(), x.dtype))))
    }
}

/// The gradient of a [`Pool`] with respect to its input, from that input and the gradient of the
/// pool's result before its activation. Of equal largest elements the first of the window gets all.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolGradient {
    /// The pool; its activation does not matter.
    pub pool: Pool,
}

impl Op for PoolGradient {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![ValueType::new(float(cx, 2)?, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let Pool { kind, kernel, window, ceil, layout, .. } = &self.pool;
        let (x, dy) = (inputs.get(0)?, inputs.get(1)?);
        let (batch, channels, spatial) = layout.split(x.dims)?;
        let windows = window.resolve(&spatial, kernel, *ceil)?;
        let of_output: Vec<usize> = windows.iter().map(|w| w.output).collect();
        if layout.join(batch, channels, &of_output) != dy.dims {
            return Err(OpError::new(format!("x of {:?} with dy of {:?}", x.dims, dy.dims)));
        }
        let (x_at, y_at) =
            (ImageStrides::of(*layout, x.dims)?, ImageStrides::of(*layout, dy.dims)?);
        let none = WeightStrides { output: 0, input: 0, spatial: vec![0; spatial.len()] };
        let (values, by) = (to_f64s(&x)?, to_f64s(&dy)?);
        let mut sums = vec![0.0; values.len()];
        for_each_window(&windows, &x_at, &none, &y_at, |position, at, taps| {
            let padded = padded_taps(&windows, position);
            for n in 0..batch {
                for c in 0..channels {
                    let from = n * x_at.batch + c * x_at.channel;
                    let by = by[n * y_at.batch + c * y_at.channel + at];
                    let window = || taps.iter().map(|(tap, _)| values[from + tap]);
                    if *kind == PoolKind::Max {
                        let max = largest(window());
                        let best = taps.iter().find(|(tap, _)| values[from + tap] == max);
                        if let Some((tap, _)) = best {
                            sums[from + tap] += by;
                        }
                        continue;
                    }
                    let y = kind.of(window(), padded);
                    for (tap, _) in taps {
                        let x = values[from + tap];
                        sums[from + tap] += by * kind.slope(x, y, taps.len(), padded);
                    }
                }
            }
        });
        put_f64s(outputs, 0, x.dtype, x.dims, &sums)
    }
}

/// Max pool that also tells where each maximum stands: outputs y and, as i64, the index of the
/// maximum in the flattened x (of equal ones, the first of the window).
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPoolWithIndices {
    /// Sizes of the window, one for each spatial dimension.
    pub kernel: Vec<usize>,
    /// Strides, dilations, padding.
    pub window: Window,
    /// Whether a last window that leaves the padded input counts.
    pub ceil: bool,
    /// Layout of input and outputs.
    pub layout: Layout,
    /// Indices count as if the first spatial dimension were the innermost: ONNX's
    /// `storage_order` 1.
    pub column_major: bool,
}

impl Op for MaxPoolWithIndices {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = PoolKind::Max.dtype(cx)?;
        let x = &cx.ty(0)?.shape;
        let shape = pool_shape(&self.window, &self.kernel, self.ceil, self.layout, x)?;
        Ok(vec![ValueType::new(dtype, shape.clone()), ValueType::new(DType::I64, shape)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let pool = Pool {
            kind: PoolKind::Max,
            kernel: self.kernel.clone(),
            window: self.window.clone(),
            ceil: self.ceil,
            layout: self.layout,
            activation: Activation::None,
        };
        Ok(vec![Some(g.apply(PoolGradient { pool }, &[x, dy])?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let (batch, channels, spatial) = self.layout.split(x.dims)?;
        let windows = self.window.resolve(&spatial, &self.kernel, self.ceil)?;
        let x_at = ImageStrides::of(self.layout, x.dims)?;
        let y_at = ImageStrides::of(self.layout, out_dims)?;
        // In place of weights: where each spatial position stands in the order that indices count.
        let mut counted = x_at.clone();
        if self.column_major {
            let inner = x_at.spatial.iter().min().copied().unwrap_or(1);
            let mut step = inner;
            for (to, size) in counted.spatial.iter_mut().zip(&spatial) {
                *to = step;
                step *= size;
            }
        }
        let none = WeightStrides { output: 0, input: 0, spatial: vec![0; spatial.len()] };
        crate::dispatch_number!(x.dtype, T => {
            let x = x.slice::<T>()?;
            let (y, indices) = outputs.pair::<T, i64>(0, out_dims, out_dims)?;
            for_each_window(&windows, &x_at, &none, &y_at, |_, at, taps| {
                for n in 0..batch {
                    for c in 0..channels {
                        let from = n * x_at.batch + c * x_at.channel;
                        let (mut max, mut best) = (T::MIN, None);
                        for (tap, _) in taps {
                            let v = x[from + tap];
                            if best.is_none() || v > max || v.is_nan() && !max.is_nan() {
                                (max, best) = (v, Some(*tap));
                            }
                        }
                        let index = best.map_or(0, |tap| {
                            let along = |i: usize| tap / x_at.spatial[i] % spatial[i];
                            let place = |i: usize| along(i) * counted.spatial[i];
                            from + (0..spatial.len()).map(place).sum::<usize>()
                        });
                        let to = n * y_at.batch + c * y_at.channel + at;
                        (y[to], indices[to]) = (max, index as i64);
                    }
                }
            });
            Ok(())
        }, else => Err(OpError::new(format!("MaxPool does not take {}", x.dtype))))
    }
}

/// The reverse of [`MaxPoolWithIndices`]: x, indices (i64, into the flattened output of what the
/// pool's input was), output sizes? (i64, all dimensions). What no index names is zero. ONNX
/// `MaxUnpool`, channels first. Where output sizes are given, the indices still count in a tensor
/// of the sizes that the windows tell, as in ONNX.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxUnpool {
    /// Sizes of the window, one for each spatial dimension.
    pub kernel: Vec<usize>,
    /// Strides and padding (explicit).
    pub window: Window,
}

impl MaxUnpool {
    fn natural(&self, x: &[Dim]) -> OpResult<Vec<Dim>> {
        let (batch, channels, spatial) = Layout::ChannelsFirst.split(x)?;
        let extra = vec![0; spatial.len()];
        let spatial = self.window.transposed_dims(&spatial, &self.kernel, &extra, None)?;
        Ok(Layout::ChannelsFirst.join(batch, channels, &spatial))
    }
}

impl Op for MaxUnpool {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if cx.dtype(1)? != DType::I64 || !is_number(ty.dtype) {
            return Err(OpError::new(format!(
                "MaxUnpool does not take {} with indices of {}",
                ty.dtype,
                cx.dtype(1)?
            )));
        }
        let shape = match (cx.opt(2), cx.ints(2)?, ty.shape.dims()) {
            (Some(_), Some(sizes), _) => sizes
                .iter()
                .map(|n| usize::try_from(*n).map(Dim::from))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| OpError::new(format!("output sizes {sizes:?}")))?
                .into(),
            (Some(_), None, Some(x)) => cx.unknown_dims(x.len()),
            (None, _, Some(x)) => self.natural(x)?.into(),
            (_, _, None) => Shape::unknown(),
        };
        Ok(vec![ValueType::new(ty.dtype, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, indices) = (inputs.get(0)?, inputs.slice::<i64>(1)?);
        let out_dims = &inputs.output_dims(self, 1)?[0];
        let dims: Vec<Dim> = x.dims.iter().map(|d| Dim::from(*d)).collect();
        let natural = crate::op::fixed_dims(&self.natural(&dims)?.into())?;
        if out_dims.len() != natural.len() || indices.len() != x.len() {
            return Err(OpError::new(format!(
                "{} values and {} indices for an output of {out_dims:?}",
                x.len(),
                indices.len()
            )));
        }
        let total = crate::elements(&natural)
            .ok_or_else(|| OpError::new(format!("sizes {natural:?} are too large")))?;
        let to_at = crate::ops::broadcast::strides(out_dims);
        let from_at = crate::ops::broadcast::strides(&natural);
        crate::dispatch_number!(x.dtype, T => {
            let y = outputs.slice::<T>(0, out_dims)?;
            y.fill(T::of_integer(0));
            for (v, index) in x.slice::<T>()?.iter().zip(indices) {
                let index = usize::try_from(*index).ok().filter(|i| *i < total);
                let place = index.and_then(|index| {
                    (0..natural.len()).try_fold(0, |sum, i| {
                        let along = index / from_at[i] % natural[i];
                        (along < out_dims[i]).then(|| sum + along * to_at[i])
                    })
                });
                let Some(place) = place else {
                    return Err(OpError::new(format!("index {index:?} is outside of {natural:?}")));
                };
                y[place] = *v;
            }
            Ok(())
        }, else => Err(OpError::new(format!("MaxUnpool does not take {}", x.dtype))))
    }
}

/// Max pool over regions of interest: x (batch, channels, height, width) and regions (rows of
/// batch index, x1, y1, x2, y2, in the scale before `spatial_scale`), each divided into a grid of
/// `pooled` rows and columns. ONNX `MaxRoiPool`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxRoiPool {
    /// Rows and columns of the output.
    pub pooled: [usize; 2],
    /// From the regions' coordinates to x's.
    pub spatial_scale: f32,
}

impl Op for MaxRoiPool {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 2)?;
        let channels = match cx.dims(0)? {
            Some([_, c, _, _]) => c.clone(),
            Some(dims) => return Err(OpError::new(format!("x has rank {}, not 4", dims.len()))),
            None => cx.unknown_dim(),
        };
        let regions = match cx.dims(1)? {
            Some([n, five]) if five.fixed().is_none_or(|f| f == 5) => n.clone(),
            Some(_) => return Err(OpError::new("regions must be rows of five")),
            None => cx.unknown_dim(),
        };
        let [rows, columns] = self.pooled.map(Dim::from);
        Ok(vec![ValueType::new(dtype, vec![regions, channels, rows, columns])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let [batch, channels, height, width] = *x.dims else {
            return Err(OpError::new("x must have rank 4"));
        };
        let regions = crate::number::to_f64s(&inputs.get(1)?)?;
        let scale = f64::from(self.spatial_scale);
        let [rows, columns] = self.pooled;
        crate::dispatch_float!(x.dtype, T => {
            let x = x.slice::<T>()?;
            let mut y = outputs.slice::<T>(0, out_dims)?.iter_mut();
            for region in regions.chunks_exact(5) {
                let n = region[0];
                if !(n >= 0.0 && n < batch as f64) {
                    return Err(OpError::new(format!("a region in image {n} of {batch}")));
                }
                // Coordinates round away from zero at a half, as C's round.
                let edge = |i: usize| (region[i] * scale).round();
                let cell = |low: f64, high: f64, cells: usize, i: usize, size: usize| {
                    let step = (high - low + 1.0).max(1.0) / cells as f64;
                    let clip = |v: f64| (v + low).clamp(0.0, size as f64) as usize;
                    clip((i as f64 * step).floor())..clip(((i + 1) as f64 * step).ceil())
                };
                for c in 0..channels {
                    let image = &x[(n as usize * channels + c) * height * width..];
                    for row in 0..rows {
                        for column in 0..columns {
                            let across = cell(edge(1), edge(3), columns, column, width);
                            let down = cell(edge(2), edge(4), rows, row, height);
                            let all = down.flat_map(|r| {
                                across.clone().map(move |c| image[r * width + c])
                            });
                            let max = largest(all);
                            if let Some(y) = y.next() {
                                *y = if max == T::MIN { T::of_f64(0.0) } else { max };
                            }
                        }
                    }
                }
            }
            Ok(())
        }, else => Err(OpError::new(format!("MaxRoiPool does not take {}", x.dtype))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error, eval_opt};
    use crate::ops::window::Padding;

    fn pool(kind: PoolKind, kernel: usize, stride: usize, pads: usize, ceil: bool) -> Pool {
        Pool {
            kind,
            kernel: vec![kernel],
            window: Window {
                stride: vec![stride],
                dilation: vec![1],
                padding: Padding::Explicit { before: vec![pads], after: vec![pads] },
            },
            ceil,
            layout: Layout::ChannelsFirst,
            activation: Activation::None,
        }
    }

    fn line(data: &[f32]) -> Tensor {
        Tensor::from_slice(&[1, 1, data.len()], data).unwrap()
    }

    #[test]
    fn padding_counts_only_where_asked() {
        let x = line(&[3., 6., 9.]);
        let of = |kind, ceil| {
            eval(&pool(kind, 3, 2, 1, ceil), std::slice::from_ref(&x))[0]
                .slice::<f32>()
                .unwrap()
                .to_vec()
        };
        assert_eq!(of(PoolKind::Average { include_padding: false }, false), [4.5, 7.5]);
        assert_eq!(of(PoolKind::Average { include_padding: true }, false), [3., 5.]);
        assert_eq!(of(PoolKind::Max, false), [6., 9.]);
        assert_eq!(of(PoolKind::Lp { p: 1.0 }, false), [9., 15.]);
        let rms = of(PoolKind::RootMeanSquare, false);
        assert!((rms[0] - 22.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn what_rounding_up_adds_is_not_padding() {
        let x = line(&[1., 2., 3., 4.]);
        let op = pool(PoolKind::Average { include_padding: true }, 3, 2, 0, true);
        assert_eq!(eval(&op, &[x])[0].slice::<f32>().unwrap(), [2., 3.5]);
    }

    #[test]
    fn bytes_have_maxima_but_no_means() {
        let x = Tensor::from_slice(&[1, 1, 2], &[-5i8, -7]).unwrap();
        let op = pool(PoolKind::Max, 2, 1, 1, false);
        assert_eq!(eval(&op, std::slice::from_ref(&x))[0].slice::<i8>().unwrap(), [-5, -5, -7]);
        let op = pool(PoolKind::Average { include_padding: false }, 2, 1, 0, false);
        assert!(eval_error(&op, &[x]).contains("i8"));
    }

    #[test]
    fn global_pools_of_both_layouts() {
        let x = Tensor::from_slice(&[1, 2, 2], &[1f32, 2., 3., 4.]).unwrap();
        for (layout, wanted) in
            [(Layout::ChannelsFirst, [1.5, 3.5]), (Layout::ChannelsLast, [2., 3.])]
        {
            let kind = PoolKind::Average { include_padding: false };
            let out = eval(&GlobalPool { kind, layout }, std::slice::from_ref(&x));
            assert_eq!(out[0].slice::<f32>().unwrap(), wanted);
        }
    }

    #[test]
    fn indices_and_back() {
        let x = Tensor::from_slice(&[1, 1, 2, 4], &[1f32, 5., 2., 3., 4., 0., 9., 8.]).unwrap();
        let window = Window { stride: vec![2, 2], ..Window::unit(2) };
        let mut op = MaxPoolWithIndices {
            kernel: vec![2, 2],
            window: window.clone(),
            ceil: false,
            layout: Layout::ChannelsFirst,
            column_major: false,
        };
        let out = eval_opt(&op, &[Some(x.clone())], 2).unwrap();
        assert_eq!(out[0].slice::<f32>().unwrap(), [5., 9.]);
        assert_eq!(out[1].slice::<i64>().unwrap(), [1, 6]);
        let back = eval(&MaxUnpool { kernel: vec![2, 2], window }, &out);
        assert_eq!(back[0].slice::<f32>().unwrap(), [0., 5., 0., 0., 0., 0., 9., 0.]);
        op.column_major = true;
        let out = eval_opt(&op, &[Some(x)], 2).unwrap();
        assert_eq!(out[1].slice::<i64>().unwrap(), [2, 5]);
    }

    #[test]
    fn unpool_refuses_indices_outside() {
        let op = MaxUnpool { kernel: vec![2], window: Window::unit(1) };
        let error =
            eval_error(&op, &[line(&[1.]), Tensor::from_slice(&[1, 1, 1], &[7i64]).unwrap()]);
        assert!(error.contains("outside"), "{error}");
    }

    #[test]
    fn regions_of_interest() {
        let x = Tensor::from_slice(&[1, 1, 2, 2], &[1f32, 2., 3., 4.]).unwrap();
        let regions =
            Tensor::from_slice(&[2, 5], &[0f32, 0., 0., 1., 1., 0., 0., 0., 0., 0.]).unwrap();
        let out = eval(&MaxRoiPool { pooled: [1, 1], spatial_scale: 1.0 }, &[x, regions]);
        assert_eq!(out[0].slice::<f32>().unwrap(), [4., 1.]);
    }
}
