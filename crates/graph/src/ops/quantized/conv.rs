//! Convolution of quantised images.

use super::matmul::Bias;
use super::{Clamp, Factors, Rescale, quantized_input, single, store, stored};
use crate::ops::conv::{
    ConvTranspose, ImageStrides, WeightStrides, conv_dims, conv_macs, conv_shape, for_each_window,
};
use crate::ops::window::{Layout, WeightLayout, Window};
use crate::{Cost, DType, InferCx, Inputs, Op, OpError, OpResult, Outputs, Quant, ValueType};

/// Convolution: x, weights, bias?.
///
/// x is int8, uint8 or int16 with one scale; the weights int8, uint8 or int4 with one scale or one
/// for each output channel; the bias int32, or int64 with 16-bit x, at scale x × weights. The
/// accumulator is 32 bits wide; 64 with 16-bit x unless there is an int32 bias. Padding stands
/// for zero.
#[derive(Clone, Debug, PartialEq)]
pub struct QConv {
    /// Strides, dilations, padding.
    pub window: Window,
    /// Groups that the channels are split into: each group of outputs sees its own inputs.
    pub groups: usize,
    /// Layout of x and the output.
    pub layout: Layout,
    /// Layout of the weights.
    pub weight_layout: WeightLayout,
    /// Element type of the output.
    pub to: DType,
    /// Limits of the stored result.
    pub clamp: Clamp,
    /// How the accumulator is brought to the output's scale.
    pub rescale: Rescale,
}

/// The factors from accumulators to outputs of a convolution of `x`. ONNX multiplies scales in
/// single precision; so does TFLite those of uint8 operands.
fn factors(rescale: Rescale, x: DType, scales: [&Quant; 3]) -> OpResult<Factors> {
    let [xq, weights, out] = scales;
    let (xs, out) = (single(xq)?.0, single(out)?.0);
    rescale.factors(weights.scale.iter().map(|w| match (rescale, x) {
        (Rescale::Float, _) | (_, DType::U8) => f64::from(xs * w) / f64::from(out),
        _ => f64::from(xs) * f64::from(*w) / f64::from(out),
    }))
}

/// Weights less their zero points.
fn centred_weights(view: &crate::TensorView<'_>, quant: &Quant, axis: usize) -> OpResult<Vec<i32>> {
    if quant.scale.len() > 1 && quant.axis != Some(axis) {
        return Err(OpError::new("its weights' scales do not belong to output channels"));
    }
    let around = crate::ops::broadcast::AroundAxis::new(view.dims, axis);
    let mut values = stored(view)?;
    if quant.zero_point.iter().any(|z| *z != 0) {
        for (i, value) in values.iter_mut().enumerate() {
            *value = value
                .wrapping_sub(quant.zero_point_at(i / around.inner.max(1) % around.len.max(1)));
        }
    }
    Ok(values)
}

/// The dimension of the weights that the output channels are.
fn output_axis(layout: WeightLayout, rank: usize) -> usize {
    match layout {
        WeightLayout::OutInSpatial | WeightLayout::OutSpatialIn => 0,
        WeightLayout::InOutSpatial => 1,
        WeightLayout::SpatialOutIn => rank.saturating_sub(2),
        WeightLayout::InSpatialOut | WeightLayout::SpatialInOut => rank.saturating_sub(1),
    }
}

impl QConv {
    /// The factors from accumulators to outputs, one or one for each output channel, for x of
    /// element type `dtype` and the operands' quantisation.
    pub fn factors(
        &self,
        dtype: DType,
        x: &Quant,
        weights: &Quant,
        out: &Quant,
    ) -> OpResult<Factors> {
        factors(self.rescale, dtype, [x, weights, out])
    }
}

impl Op for QConv {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (x, weights) = (quantized_input(cx, 0)?, quantized_input(cx, 1)?);
        Clamp::of(self.to)?;
        let layouts = (self.layout, self.weight_layout);
        let shape = conv_shape(&self.window, self.groups, layouts, &x.shape, &weights.shape)?;
        Bias::check(cx.opt(2), self.layout.channels(&shape))?;
        Ok(vec![ValueType::new(self.to, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let (x_quant, w_quant, out_quant) = (inputs.quant(0)?, inputs.quant(1)?, outputs.quant(0)?);
        let layouts = (self.layout, self.weight_layout);
        let dims = conv_dims(&self.window, self.groups, layouts, x.dims, weights.dims)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let factors = self.factors(x.dtype, x_quant, w_quant, out_quant)?;
        let (_, out_zero) = single(out_quant)?;
        let bias = Bias::of(inputs.opt(2), dims.out_channels)?;
        let wide = x.dtype == DType::I16 && !bias.narrow;
        let xv = super::centred(&x)?;
        let wv = centred_weights(
            &weights,
            w_quant,
            output_axis(self.weight_layout, weights.dims.len()),
        )?;
        let x_at = ImageStrides::of(self.layout, x.dims)?;
        let w_at = WeightStrides::of(self.weight_layout, weights.dims)?;
        let y_at = ImageStrides::of(self.layout, out_dims)?;
        let (per_in, per_out) = (dims.in_channels / self.groups, dims.out_channels / self.groups);
        let mut result = vec![0; out_dims.iter().product()];
        for_each_window(&dims.windows, &x_at, &w_at, &y_at, |_, spatial, taps| {
            for n in 0..dims.batch {
                for oc in 0..dims.out_channels {
                    let first = oc / per_out * per_in;
                    let products = taps.iter().map(|(x_tap, w_tap)| {
                        let x = &xv[n * x_at.batch + first * x_at.channel + x_tap..];
                        let w = &wv[oc * w_at.output + w_tap..];
                        (x, w)
                    });
                    let value = if wide {
                        let acc: i64 = products
                            .map(|(x, w)| dot_wide(x, x_at.channel, w, w_at.input, per_in))
                            .sum();
                        factors.apply_i64(oc, acc.wrapping_add(bias.at(oc)))
                    } else {
                        let acc = products.fold(bias.at(oc) as i32, |acc, (x, w)| {
                            acc.wrapping_add(dot(x, x_at.channel, w, w_at.input, per_in))
                        });
                        factors.apply(oc, acc)
                    };
                    let at = n * y_at.batch + oc * y_at.channel + spatial;
                    result[at] = self.clamp.apply(value.saturating_add(out_zero));
                }
            }
        });
        store(outputs, 0, self.to, out_dims, &result)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_macs(conv_macs(self.weight_layout, inputs, outputs))
    }
}

fn dot(x: &[i32], x_step: usize, w: &[i32], w_step: usize, len: usize) -> i32 {
    if x_step == 1 && w_step == 1 {
        let pairs = x[..len].iter().zip(&w[..len]);
        return pairs.fold(0i32, |sum, (x, w)| sum.wrapping_add(x.wrapping_mul(*w)));
    }
    (0..len).fold(0i32, |sum, i| sum.wrapping_add(x[i * x_step].wrapping_mul(w[i * w_step])))
}

fn dot_wide(x: &[i32], x_step: usize, w: &[i32], w_step: usize, len: usize) -> i64 {
    (0..len).map(|i| i64::from(x[i * x_step]) * i64::from(w[i * w_step])).sum()
}

/// Convolution's transpose: x, weights, bias?, spatial output sizes?; types as for [`QConv`].
#[derive(Clone, Debug, PartialEq)]
pub struct QConvTranspose {
    /// Window, groups and layouts; the activation is none.
    pub geometry: ConvTranspose,
    /// Element type of the output.
    pub to: DType,
    /// Limits of the stored result.
    pub clamp: Clamp,
    /// How the accumulator is brought to the output's scale.
    pub rescale: Rescale,
}

impl QConvTranspose {
    /// As [`QConv::factors`].
    pub fn factors(
        &self,
        dtype: DType,
        x: &Quant,
        weights: &Quant,
        out: &Quant,
    ) -> OpResult<Factors> {
        factors(self.rescale, dtype, [x, weights, out])
    }
}

impl Op for QConvTranspose {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        quantized_input(cx, 0)?;
        quantized_input(cx, 1)?;
        Clamp::of(self.to)?;
        Ok(vec![ValueType::new(self.to, self.geometry.shape(cx)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let (x_quant, w_quant, out_quant) = (inputs.quant(0)?, inputs.quant(1)?, outputs.quant(0)?);
        let out_dims = &inputs.output_dims(self, 1)?[0];
        let (layout, weight_layout) = (self.geometry.layout, self.geometry.weight_layout);
        let (_, _, spatial) = layout.split(out_dims)?;
        let dims = self.geometry.dims(x.dims, weights.dims, &spatial, inputs.opt(3).is_some())?;
        let groups = self.geometry.groups;
        let factors = self.factors(x.dtype, x_quant, w_quant, out_quant)?;
        let (_, out_zero) = single(out_quant)?;
        let bias = Bias::of(inputs.opt(2), dims.out_channels)?;
        let wide = x.dtype == DType::I16 && !bias.narrow;
        let xv = super::centred(&x)?;
        let wv =
            centred_weights(&weights, w_quant, output_axis(weight_layout, weights.dims.len()))?;
        let x_at = ImageStrides::of(layout, x.dims)?;
        let w_at = WeightStrides::of(weight_layout, weights.dims)?;
        let y_at = ImageStrides::of(layout, out_dims)?;
        let (per_in, per_out) = (dims.in_channels / groups, dims.out_channels / groups);
        let mut sums = vec![0i64; out_dims.iter().product()];
        // The windows are those of the convolution back: they read our output.
        for_each_window(&dims.windows, &y_at, &w_at, &x_at, |_, spatial, taps| {
            for n in 0..dims.batch {
                for oc in 0..dims.out_channels {
                    let first = oc / per_out * per_in;
                    for (y_tap, w_tap) in taps {
                        let x = &xv[n * x_at.batch + first * x_at.channel + spatial..];
                        let w = &wv[oc % per_out * w_at.output + first * w_at.input + w_tap..];
                        sums[n * y_at.batch + oc * y_at.channel + y_tap] +=
                            dot_wide(x, x_at.channel, w, w_at.input, per_in);
                    }
                }
            }
        });
        let mut result = Vec::with_capacity(sums.len());
        for (i, sum) in sums.into_iter().enumerate() {
            let oc = i / y_at.channel % dims.out_channels;
            let value = match wide {
                true => factors.apply_i64(oc, sum.wrapping_add(bias.at(oc))),
                false => factors.apply(oc, (sum as i32).wrapping_add(bias.at(oc) as i32)),
            };
            result.push(self.clamp.apply(value.saturating_add(out_zero)));
        }
        store(outputs, 0, self.to, out_dims, &result)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        self.geometry.cost(inputs, outputs)
    }
}
