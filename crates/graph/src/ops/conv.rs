//! Convolution and transposed convolution of floats, over any number of spatial dimensions.

use crate::number::Number;
use crate::ops::activation::Activation;
use crate::ops::broadcast::{Offsets, strides};
use crate::ops::unary::Unary;
use crate::ops::window::{AxisWindow, Layout, Padding, WeightLayout, Window, Windows};
use crate::{
    Cost, DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueId, ValueType,
};
use smallvec::SmallVec;
use std::sync::Arc;

/// Convolution: x, weights, bias?, residual?. The residual has the output's sizes and is added
/// after the bias, before the activation. ONNX `Conv`; TFLite `CONV_2D`, `CONV_3D` and
/// `DEPTHWISE_CONV_2D` (as many groups as input channels).
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Strides, dilations, padding.
    pub window: Window,
    /// Groups that the channels are split into: each group of outputs sees its own inputs.
    pub groups: usize,
    /// Layout of x, the residual and the output.
    pub layout: Layout,
    /// Layout of the weights.
    pub weight_layout: WeightLayout,
    /// Applied to the result.
    pub activation: Activation,
}

/// The sizes of a convolution, all known and checked.
#[derive(Clone, Debug)]
pub struct ConvDims {
    /// Images.
    pub batch: usize,
    /// Channels of x.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The windows along the spatial dimensions.
    pub windows: Windows,
}

/// What the shape rules of convolutions of any type share: the sizes of the output, where x and
/// the weights have these.
pub(crate) fn conv_shape(
    window: &Window,
    groups: usize,
    layouts: (Layout, WeightLayout),
    x: &Shape,
    weights: &Shape,
) -> OpResult<Shape> {
    let (Some(x), Some(weights)) = (x.dims(), weights.dims()) else {
        return Ok(Shape::unknown());
    };
    let (batch, channels, spatial) = layouts.0.split(x)?;
    let (out, per_group, kernel) = layouts.1.split(weights)?;
    check_groups(groups, channels.fixed(), per_group.fixed(), out.fixed())?;
    let kernel: Option<Vec<usize>> = kernel.iter().map(Dim::fixed).collect();
    let Some(kernel) = kernel else {
        return Err(OpError::new("the size of the kernel must be known"));
    };
    let spatial = window.output_dims(&spatial, &kernel, false)?;
    Ok(Shape::new(layouts.0.join(batch, out, &spatial)))
}

fn check_groups(
    groups: usize,
    channels: Option<usize>,
    per_group: Option<usize>,
    out: Option<usize>,
) -> OpResult {
    let outputs_split = groups > 0 && out.is_none_or(|out| out % groups == 0);
    let fits = match (channels, per_group) {
        (Some(c), Some(p)) => p.checked_mul(groups) == Some(c),
        _ => true,
    };
    if outputs_split && fits {
        return Ok(());
    }
    let text = |n: Option<usize>| n.map_or("?".to_string(), |n| n.to_string());
    Err(OpError::new(format!(
        "{} channels in, {groups} groups of {} channels, {} channels out: do not fit",
        text(channels),
        text(per_group),
        text(out)
    )))
}

/// The sizes of a convolution of x by weights of these sizes.
pub fn conv_dims(
    window: &Window,
    groups: usize,
    layouts: (Layout, WeightLayout),
    x: &[usize],
    weights: &[usize],
) -> OpResult<ConvDims> {
    let (batch, in_channels, spatial) = layouts.0.split(x)?;
    let (out_channels, per_group, kernel) = layouts.1.split(weights)?;
    check_groups(groups, Some(in_channels), Some(per_group), Some(out_channels))?;
    let windows = window.resolve(&spatial, &kernel, false)?;
    Ok(ConvDims { batch, in_channels, out_channels, windows })
}

impl Op for Conv {
    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        let activation = self.activation.then(function)?;
        Some(Arc::new(Conv { activation, ..self.clone() }))
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (x, weights) = (cx.ty(0)?, cx.ty(1)?);
        let layouts = (self.layout, self.weight_layout);
        let shape = conv_shape(&self.window, self.groups, layouts, &x.shape, &weights.shape)?;
        let out = ValueType::new(float(cx, 4)?, shape);
        check_bias(cx.opt(2), self.layout.channels(&out.shape))?;
        if let Some(residual) = cx.opt(3) {
            check_same(&residual.shape, &out.shape)?;
        }
        Ok(vec![out])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, weights) = (g.input(0)?, g.input(1)?);
        let dy = g.of_first()?;
        let dy = g.before(self.activation, dy, || {
            Arc::new(Conv { activation: Activation::None, ..self.clone() })
        })?;
        let mut gradients = vec![None; g.inputs()];
        if g.wants(0) {
            let (x_dims, w_dims) = (g.dims(x)?, g.fixed(weights)?);
            let spatial = self.layout.split(&x_dims)?.2;
            let spatial: Option<Vec<usize>> = spatial.iter().map(Dim::fixed).collect();
            let spatial = spatial.ok_or_else(|| {
                OpError::new("the sizes of images must be known to train what lies before them")
            })?;
            let (_, _, kernel) = self.weight_layout.split(&w_dims)?;
            let windows = self.window.resolve(&spatial, &kernel, false)?;
            let back = ConvTranspose {
                window: explicit(&self.window, &windows),
                output_padding: windows.iter().map(unread).collect(),
                groups: self.groups,
                layout: self.layout,
                weight_layout: self.weight_layout.transposed(),
                activation: Activation::None,
            };
            gradients[0] = Some(g.apply(back, &[dy, weights])?);
        }
        if g.wants(1) {
            let (_, _, kernel) = self.weight_layout.split(&g.fixed(weights)?)?;
            let op = ConvWeightGradient {
                window: self.window.clone(),
                kernel,
                groups: self.groups,
                layout: self.layout,
                weight_layout: self.weight_layout,
            };
            gradients[1] = Some(g.apply(op, &[x, dy])?);
        }
        if g.opt_input(2).is_some() && g.wants(2) {
            gradients[2] = Some(bias_gradient(g, self.layout, dy)?);
        }
        if g.opt_input(3).is_some() {
            gradients[3] = Some(dy);
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let layouts = (self.layout, self.weight_layout);
        let dims = conv_dims(&self.window, self.groups, layouts, x.dims, weights.dims)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        crate::dispatch_float!(x.dtype, T => {
            let x_at = ImageStrides::of(self.layout, x.dims)?;
            let w_at = WeightStrides::of(self.weight_layout, weights.dims)?;
            let y_at = ImageStrides::of(self.layout, out_dims)?;
            let (x, w) = (inputs.slice::<T>(0)?, inputs.slice::<T>(1)?);
            let bias = inputs.opt(2).map(|b| b.slice::<T>()).transpose()?;
            let residual = inputs.opt(3).map(|b| b.slice::<T>()).transpose()?;
            let y = outputs.slice::<T>(0, out_dims)?;
            let (per_in, per_out) =
                (dims.in_channels / self.groups, dims.out_channels / self.groups);
            for_each_window(&dims.windows, &x_at, &w_at, &y_at, |_, spatial, taps| {
                for n in 0..dims.batch {
                    for oc in 0..dims.out_channels {
                        let first = oc / per_out * per_in;
                        let mut sum = bias.map_or(0.0, |b| b[oc].wide());
                        for (x_tap, w_tap) in taps {
                            let from = n * x_at.batch + first * x_at.channel + x_tap;
                            let weight = oc * w_at.output + w_tap;
                            for ic in 0..per_in {
                                sum += x[from + ic * x_at.channel].wide()
                                    * w[weight + ic * w_at.input].wide();
                            }
                        }
                        let at = n * y_at.batch + oc * y_at.channel + spatial;
                        sum += residual.map_or(0.0, |r| r[at].wide());
                        y[at] = self.activation.on(sum);
                    }
                }
            });
            Ok(())
        }, else => Err(OpError::new(format!("Conv does not take {}", x.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_macs(conv_macs(self.weight_layout, inputs, outputs))
    }
}

/// Multiply-accumulates of a convolution: for each output, its group's share of the weights.
pub(crate) fn conv_macs(
    layout: WeightLayout,
    inputs: &[Option<&ValueType>],
    outputs: &[&ValueType],
) -> u64 {
    let weights = inputs.get(1).copied().flatten().and_then(|w| w.shape.fixed());
    let weights = weights.and_then(|w| layout.split(&w).ok());
    let output = outputs.first().and_then(|y| y.shape.fixed());
    match (weights, output) {
        (Some((_, per_group, kernel)), Some(y)) => {
            let taps = kernel.iter().chain([&per_group]);
            y.iter().chain(taps).fold(1u64, |n, d| n.saturating_mul(*d as u64))
        }
        _ => 0,
    }
}

/// Convolution's transpose: x, weights, bias?, spatial output sizes? (integers). Each input
/// element adds a scaled kernel to the output. Where output sizes are given, the padding follows
/// from them. ONNX `ConvTranspose`; TFLite `TRANSPOSE_CONV` and `CONV_3D_TRANSPOSE`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvTranspose {
    /// Strides, dilations, padding: those of the convolution that this is the transpose of.
    pub window: Window,
    /// Added to the end of each spatial dimension of the output.
    pub output_padding: Vec<usize>,
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Layout of x and the output.
    pub layout: Layout,
    /// Layout of the weights; the output channels are those of one group.
    pub weight_layout: WeightLayout,
    /// Applied to the result.
    pub activation: Activation,
}

impl ConvTranspose {
    /// The sizes for x and weights of these sizes, the output's spatial sizes being `output`.
    /// The windows are those of the convolution back, from the output to x.
    pub fn dims(
        &self,
        x: &[usize],
        weights: &[usize],
        output: &[usize],
        wanted: bool,
    ) -> OpResult<ConvDims> {
        let (batch, in_channels, spatial) = self.layout.split(x)?;
        let (per_group, inputs, kernel) = self.weight_layout.split(weights)?;
        check_transpose_groups(self.groups, Some(in_channels), Some(inputs))?;
        let windows = self.window.resolve_transposed(
            &spatial,
            &kernel,
            &self.output_padding,
            output,
            wanted,
        )?;
        let out_channels = per_group
            .checked_mul(self.groups)
            .ok_or_else(|| OpError::new(format!("{} groups are too many", self.groups)))?;
        Ok(ConvDims { batch, in_channels, out_channels, windows })
    }

    /// The shape rule: the sizes of the output, whatever the element types.
    pub(crate) fn shape(&self, cx: &InferCx<'_>) -> OpResult<Shape> {
        let (Some(x), Some(weights)) = (cx.dims(0)?, cx.dims(1)?) else {
            return Ok(Shape::unknown());
        };
        let (batch, channels, spatial) = self.layout.split(x)?;
        let (per_group, inputs, kernel) = self.weight_layout.split(weights)?;
        check_transpose_groups(self.groups, channels.fixed(), inputs.fixed())?;
        let out = per_group.mul(&Dim::from(self.groups));
        check_bias(cx.opt(2), Some(&out))?;
        let kernel: Option<Vec<usize>> = kernel.iter().map(Dim::fixed).collect();
        let kernel = kernel.ok_or_else(|| OpError::new("the size of the kernel must be known"))?;
        let wanted = cx.ints(3)?;
        let spatial = match (cx.opt(3), &wanted) {
            (Some(_), None) => spatial.iter().map(|_| cx.unknown_dim()).collect(),
            _ => self.window.transposed_dims(
                &spatial,
                &kernel,
                &self.output_padding,
                wanted.as_deref(),
            )?,
        };
        Ok(Shape::new(self.layout.join(batch, out, &spatial)))
    }
}

fn check_transpose_groups(
    groups: usize,
    channels: Option<usize>,
    inputs: Option<usize>,
) -> OpResult {
    match (channels, inputs) {
        (Some(c), Some(i)) if c != i => {
            Err(OpError::new(format!("{c} channels in, the weights take {i}")))
        }
        (Some(c), _) if groups == 0 || c % groups != 0 => {
            Err(OpError::new(format!("{c} channels in do not split into {groups} groups")))
        }
        _ => Ok(()),
    }
}

impl Op for ConvTranspose {
    fn then(&self, function: Unary) -> Option<Arc<dyn Op>> {
        let activation = self.activation.then(function)?;
        Some(Arc::new(ConvTranspose { activation, ..self.clone() }))
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 3)?;
        Ok(vec![ValueType::new(dtype, self.shape(cx)?)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, weights) = (g.input(0)?, g.input(1)?);
        let dy = g.of_first()?;
        let dy = g.before(self.activation, dy, || {
            Arc::new(ConvTranspose { activation: Activation::None, ..self.clone() })
        })?;
        let (x_dims, w_dims, y_dims) = (g.fixed(x)?, g.fixed(weights)?, g.fixed(g.output(0))?);
        let (_, _, spatial) = self.layout.split(&y_dims)?;
        let wanted = g.opt_input(3).is_some();
        let dims = self.dims(&x_dims, &w_dims, &spatial, wanted)?;
        let (window, kernel) = (
            explicit(&self.window, &dims.windows),
            dims.windows.iter().map(|w| w.kernel).collect(),
        );
        let weight_layout = self.weight_layout.transposed();
        let mut gradients = vec![None; g.inputs()];
        if g.wants(0) {
            let back = Conv {
                window: window.clone(),
                groups: self.groups,
                layout: self.layout,
                weight_layout,
                activation: Activation::None,
            };
            gradients[0] = Some(g.apply(back, &[dy, weights])?);
        }
        if g.wants(1) {
            let op = ConvWeightGradient {
                window,
                kernel,
                groups: self.groups,
                layout: self.layout,
                weight_layout,
            };
            gradients[1] = Some(g.apply(op, &[dy, x])?);
        }
        if g.opt_input(2).is_some() && g.wants(2) {
            gradients[2] = Some(bias_gradient(g, self.layout, dy)?);
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let out_dims = &inputs.output_dims(self, 1)?[0];
        let (_, _, spatial) = self.layout.split(out_dims)?;
        let dims = self.dims(x.dims, weights.dims, &spatial, inputs.opt(3).is_some())?;
        crate::dispatch_float!(x.dtype, T => {
            let x_at = ImageStrides::of(self.layout, x.dims)?;
            let w_at = WeightStrides::of(self.weight_layout, weights.dims)?;
            let y_at = ImageStrides::of(self.layout, out_dims)?;
            let (x, w) = (inputs.slice::<T>(0)?, inputs.slice::<T>(1)?);
            let bias = inputs.opt(2).map(|b| b.slice::<T>()).transpose()?;
            let y = outputs.slice::<T>(0, out_dims)?;
            let (per_in, per_out) =
                (dims.in_channels / self.groups, dims.out_channels / self.groups);
            let mut sums = vec![0f64; y.len()];
            // The windows are those of the convolution back: they read our output.
            for_each_window(&dims.windows, &y_at, &w_at, &x_at, |_, spatial, taps| {
                for n in 0..dims.batch {
                    for oc in 0..dims.out_channels {
                        let group = oc / per_out;
                        for (y_tap, w_tap) in taps {
                            let weight = oc % per_out * w_at.output + w_tap;
                            let mut sum = 0.0;
                            for ic in group * per_in..(group + 1) * per_in {
                                let from = n * x_at.batch + ic * x_at.channel + spatial;
                                sum += x[from].wide() * w[weight + ic * w_at.input].wide();
                            }
                            sums[n * y_at.batch + oc * y_at.channel + y_tap] += sum;
                        }
                    }
                }
            });
            for (i, (to, sum)) in y.iter_mut().zip(&sums).enumerate() {
                let oc = i / y_at.channel % dims.out_channels;
                *to = self.activation.on(sum + bias.map_or(0.0, |b| b[oc].wide()));
            }
            Ok(())
        }, else => Err(OpError::new(format!("ConvTranspose does not take {}", x.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        // Every input element meets its group's share of the weights.
        let sizes = |i: usize| inputs.get(i).copied().flatten().and_then(|ty| ty.shape.fixed());
        let macs = match (sizes(0), sizes(1).and_then(|w| self.weight_layout.split(&w).ok())) {
            (Some(x), Some((out, _, kernel))) => {
                x.iter().chain(&kernel).chain([&out]).fold(1u64, |n, d| n.saturating_mul(*d as u64))
            }
            _ => 0,
        };
        Cost::traffic(inputs, outputs).with_macs(macs)
    }
}

/// The gradient of a [`Conv`] with respect to its weights, from x and the gradient of its output:
/// each weight meets what it was multiplied with.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvWeightGradient {
    /// Strides, dilations, padding of the convolution.
    pub window: Window,
    /// Spatial sizes of the weights.
    pub kernel: Vec<usize>,
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Layout of x and the output.
    pub layout: Layout,
    /// Layout of the weights.
    pub weight_layout: WeightLayout,
}

impl Op for ConvWeightGradient {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 2)?;
        let (Some(x), Some(dy)) = (cx.dims(0)?, cx.dims(1)?) else {
            return Ok(vec![ValueType::new(dtype, Shape::unknown())]);
        };
        let (_, channels, spatial) = self.layout.split(x)?;
        let (_, out, of_output) = self.layout.split(dy)?;
        check_groups(self.groups, channels.fixed(), None, out.fixed())?;
        let per_group = channels.fixed().filter(|c| c % self.groups == 0).map(|c| c / self.groups);
        let per_group = per_group.ok_or_else(|| {
            OpError::new(format!("{channels} channels do not split into {} groups", self.groups))
        })?;
        check_same(
            &self.window.output_dims(&spatial, &self.kernel, false)?.into(),
            &of_output.into(),
        )?;
        let kernel: Vec<Dim> = self.kernel.iter().map(|k| Dim::from(*k)).collect();
        let shape = self.weight_layout.join(out, per_group.into(), &kernel);
        Ok(vec![ValueType::new(dtype, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, dy) = (inputs.get(0)?, inputs.get(1)?);
        let w_dims = &outputs.dims(self, inputs)?[0];
        let layouts = (self.layout, self.weight_layout);
        let dims = conv_dims(&self.window, self.groups, layouts, x.dims, w_dims)?;
        let of_output: Vec<usize> = dims.windows.iter().map(|w| w.output).collect();
        if self.layout.join(dims.batch, dims.out_channels, &of_output) != dy.dims {
            return Err(OpError::new(format!("x of {:?} with dy of {:?}", x.dims, dy.dims)));
        }
        crate::dispatch_float!(x.dtype, T => {
            let x_at = ImageStrides::of(self.layout, x.dims)?;
            let w_at = WeightStrides::of(self.weight_layout, w_dims)?;
            let y_at = ImageStrides::of(self.layout, dy.dims)?;
            let (x, dy) = (inputs.slice::<T>(0)?, inputs.slice::<T>(1)?);
            let (per_in, per_out) =
                (dims.in_channels / self.groups, dims.out_channels / self.groups);
            let out = outputs.slice::<T>(0, w_dims)?;
            let mut sums = vec![0f64; out.len()];
            for_each_window(&dims.windows, &x_at, &w_at, &y_at, |_, spatial, taps| {
                for n in 0..dims.batch {
                    for oc in 0..dims.out_channels {
                        let first = oc / per_out * per_in;
                        let by = dy[n * y_at.batch + oc * y_at.channel + spatial].wide();
                        for (x_tap, w_tap) in taps {
                            let from = n * x_at.batch + first * x_at.channel + x_tap;
                            let weight = oc * w_at.output + w_tap;
                            for ic in 0..per_in {
                                sums[weight + ic * w_at.input] +=
                                    x[from + ic * x_at.channel].wide() * by;
                            }
                        }
                    }
                }
            });
            for (to, sum) in out.iter_mut().zip(sums) {
                *to = T::narrow(sum);
            }
            Ok(())
        }, else => Err(OpError::new(format!("ConvWeightGradient does not take {}", x.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let dy = inputs.get(1).copied().flatten().and_then(|ty| ty.shape.fixed());
        let weights =
            outputs.first().and_then(|w| self.weight_layout.split(&w.shape.fixed()?).ok());
        let macs = match (dy, weights) {
            (Some(dy), Some((_, per_group, kernel))) => {
                let taps = kernel.iter().chain([&per_group]);
                dy.iter().chain(taps).fold(1u64, |n, d| n.saturating_mul(*d as u64))
            }
            _ => 0,
        };
        Cost::traffic(inputs, outputs).with_macs(macs)
    }
}

/// `window` with its padding as numbers.
fn explicit(window: &Window, resolved: &[AxisWindow]) -> Window {
    let padding = Padding::Explicit {
        before: resolved.iter().map(|w| w.pad_before).collect(),
        after: resolved.iter().map(|w| w.pad_after).collect(),
    };
    Window { padding, ..window.clone() }
}

/// Elements at the end of the padded input that no window reads.
fn unread(w: &AxisWindow) -> usize {
    let reach = w.output.saturating_sub(1) * w.stride + w.span();
    (w.pad_before + w.input + w.pad_after).saturating_sub(reach)
}

/// The sum over everything but the channels.
fn bias_gradient(g: &mut Gradient<'_>, layout: Layout, dy: ValueId) -> OpResult<ValueId> {
    let rank = g.rank(dy)?;
    let channel = if layout == Layout::ChannelsFirst { 1 } else { rank - 1 };
    let axes: Vec<usize> = (0..rank).filter(|a| *a != channel).collect();
    g.sum(dy, &axes, false)
}

/// Strides of a batch of images, in elements.
#[derive(Clone, Debug)]
pub(crate) struct ImageStrides {
    pub batch: usize,
    pub channel: usize,
    pub spatial: Vec<usize>,
}

impl ImageStrides {
    pub fn of(layout: Layout, dims: &[usize]) -> OpResult<ImageStrides> {
        let (batch, channel, spatial) = layout.split(&strides(dims))?;
        Ok(ImageStrides { batch, channel, spatial })
    }
}

/// Strides of weights, in elements.
#[derive(Clone, Debug)]
pub(crate) struct WeightStrides {
    pub output: usize,
    pub input: usize,
    pub spatial: Vec<usize>,
}

impl WeightStrides {
    pub fn of(layout: WeightLayout, dims: &[usize]) -> OpResult<WeightStrides> {
        let (output, input, spatial) = layout.split(&strides(dims))?;
        Ok(WeightStrides { output, input, spatial })
    }
}

/// Calls `body` for each output position with its index, its offset in y's spatial dimensions and, for each
/// element of the window that lies inside x, its offsets in x's and the weights' ones.
pub(crate) fn for_each_window(
    windows: &[AxisWindow],
    x: &ImageStrides,
    weights: &WeightStrides,
    y: &ImageStrides,
    mut body: impl FnMut(&[usize], usize, &[(usize, usize)]),
) {
    let outputs: SmallVec<[usize; 3]> = windows.iter().map(|w| w.output).collect();
    let kernel: SmallVec<[usize; 3]> = windows.iter().map(|w| w.kernel).collect();
    let mut taps = Vec::new();
    let mut positions = Offsets::new(&outputs, [&y.spatial]);
    loop {
        let position: SmallVec<[usize; 3]> = positions.index().into();
        let Some([at]) = positions.next() else { return };
        taps.clear();
        let mut elements = Offsets::new(&kernel, [&weights.spatial]);
        loop {
            let element: SmallVec<[usize; 3]> = elements.index().into();
            let Some([weight]) = elements.next() else { break };
            let from = (0..windows.len()).try_fold(0, |sum, i| {
                let input = windows[i].input_at(position[i], element[i])?;
                Some(sum + input * x.spatial[i])
            });
            taps.extend(from.map(|from| (from, weight)));
        }
        body(&position, at, &taps);
    }
}

/// The one float type of the first `inputs` inputs.
pub(crate) fn float(cx: &InferCx<'_>, inputs: usize) -> OpResult<DType> {
    let dtype = cx.dtype(0)?;
    let known = crate::dispatch_float!(dtype, T => size_of::<T>() > 0, else => false);
    let odd = (0..inputs).filter_map(|i| cx.opt(i)).find(|ty| ty.dtype != dtype);
    match odd {
        None if known => Ok(dtype),
        None => Err(OpError::new(format!("takes floats, was given {dtype}"))),
        Some(odd) => Err(OpError::new(format!("takes one type, was given {dtype} and {odd}"))),
    }
}

fn check_bias(bias: Option<&ValueType>, channels: Option<&Dim>) -> OpResult {
    let Some(dims) = bias.and_then(|b| b.shape.dims()) else { return Ok(()) };
    let fits = |n: &Dim| match (n.fixed(), channels.and_then(Dim::fixed)) {
        (Some(n), Some(c)) => n == c,
        _ => true,
    };
    match dims {
        [n] if fits(n) => Ok(()),
        _ => Err(OpError::new(format!(
            "a bias of sizes {} for {} channels",
            Shape::new(dims.to_vec()),
            channels.map_or("unknown".to_string(), |c| c.to_string())
        ))),
    }
}

/// An error where the sizes of a residual and of the output are known and differ.
pub(crate) fn check_same(a: &Shape, b: &Shape) -> OpResult {
    let differ = match (a.dims(), b.dims()) {
        (Some(a), Some(b)) => {
            a.len() != b.len()
                || a.iter()
                    .zip(b)
                    .any(|(a, b)| matches!((a.fixed(), b.fixed()), (Some(a), Some(b)) if a != b))
        }
        _ => false,
    };
    if differ {
        Err(OpError::new(format!("a residual of sizes {a} for an output of {b}")))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error, eval_opt};
    use crate::ops::window::Padding;

    fn conv(groups: usize, layout: Layout, weight_layout: WeightLayout, padding: Padding) -> Conv {
        Conv {
            window: Window { padding, ..Window::unit(2) },
            groups,
            layout,
            weight_layout,
            activation: Activation::None,
        }
    }

    fn ramp(dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        let data: Vec<f32> = (0..n).map(|i| i as f32).collect();
        Tensor::from_slice(dims, &data).unwrap()
    }

    fn ones(dims: &[usize]) -> Tensor {
        Tensor::from_slice(dims, &vec![1f32; dims.iter().product()]).unwrap()
    }

    #[test]
    fn sums_of_neighbours() {
        let op = conv(1, Layout::ChannelsFirst, WeightLayout::OutInSpatial, Padding::SameUpper);
        let out = eval(&op, &[ramp(&[1, 1, 3, 3]), ones(&[1, 1, 3, 3])]);
        let wanted = [8., 15., 12., 21., 36., 27., 20., 33., 24.];
        assert_eq!(out[0].slice::<f32>().unwrap(), wanted);
    }

    #[test]
    fn both_layouts_agree() {
        // x[c][i] = 3 c + i over 2 channels of 1x3; weights w[o][i][k] distinct.
        let x_first = ramp(&[1, 2, 1, 3]);
        let x_last = Tensor::from_slice(&[1, 1, 3, 2], &[0f32, 3., 1., 4., 2., 5.]).unwrap();
        let w_first = Tensor::from_slice(&[1, 2, 1, 2], &[1f32, 2., 3., 4.]).unwrap();
        let w_last = Tensor::from_slice(&[1, 1, 2, 2], &[1f32, 3., 2., 4.]).unwrap();
        let bias = Tensor::from_slice(&[1], &[0.5f32]).unwrap();
        let wanted = [0. + 2. + 9. + 16. + 0.5, 1. + 4. + 12. + 20. + 0.5];
        for (layout, weight_layout, x, w) in [
            (Layout::ChannelsFirst, WeightLayout::OutInSpatial, x_first, w_first),
            (Layout::ChannelsLast, WeightLayout::OutSpatialIn, x_last, w_last),
        ] {
            let op = conv(1, layout, weight_layout, Padding::Valid);
            let out = eval(&op, &[x, w, bias.clone()]);
            assert_eq!(out[0].slice::<f32>().unwrap(), wanted, "{layout:?}");
        }
    }

    #[test]
    fn depthwise_with_residual_and_activation() {
        let mut op = conv(2, Layout::ChannelsLast, WeightLayout::InSpatialOut, Padding::Valid);
        op.activation = Activation::Relu;
        let x = Tensor::from_slice(&[1, 1, 1, 2], &[2f32, -3.0]).unwrap();
        let w = Tensor::from_slice(&[1, 1, 1, 4], &[1f32, 10., 1., 10.]).unwrap();
        let residual = Tensor::from_slice(&[1, 1, 1, 4], &[1f32, 1., 5., 1.]).unwrap();
        let inputs = [Some(x), Some(w), None, Some(residual)];
        let out = eval_opt(&op, &inputs, 1).unwrap();
        assert_eq!(out[0].slice::<f32>().unwrap(), [3., 21., 2., 0.]);
    }

    #[test]
    fn transpose_spreads_each_element() {
        let op = ConvTranspose {
            window: Window { stride: vec![2], ..Window::unit(1) },
            output_padding: vec![0],
            groups: 1,
            layout: Layout::ChannelsFirst,
            weight_layout: WeightLayout::InOutSpatial,
            activation: Activation::None,
        };
        let x = Tensor::from_slice(&[1, 1, 2], &[1f32, 10.]).unwrap();
        let w = Tensor::from_slice(&[1, 1, 3], &[1f32, 2., 3.]).unwrap();
        let out = eval(&op, &[x.clone(), w.clone()]);
        assert_eq!(out[0].slice::<f32>().unwrap(), [1., 2., 13., 20., 30.]);
        let sized = Tensor::from_slice(&[1], &[6i64]).unwrap();
        let out = eval_opt(&op, &[Some(x), Some(w), None, Some(sized)], 1).unwrap();
        assert_eq!(out[0].slice::<f32>().unwrap(), [1., 2., 13., 20., 30., 0.]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let op = conv(2, Layout::ChannelsFirst, WeightLayout::OutInSpatial, Padding::Valid);
        let error = eval_error(&op, &[ramp(&[1, 3, 2, 2]), ones(&[2, 1, 1, 1])]);
        assert!(error.contains("2 groups"), "{error}");
        let error = eval_error(&op, &[ramp(&[1, 2, 2, 2]), ones(&[2, 1, 3, 3])]);
        assert!(error.contains("does not fit"), "{error}");
        let error = eval_error(&op, &[ramp(&[1, 2, 2, 2]), ones(&[2, 1, 1, 1]), ones(&[3])]);
        assert!(error.contains("bias"), "{error}");
    }
}
