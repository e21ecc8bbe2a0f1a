//! Products of floats with stored integer weights: the floats are quantised to 8 bits as they
//! come, row by row or image by image, with the scale that fits them.

use super::{quantized_input, stored};
use crate::ops::activation::Activation;
use crate::ops::conv::{
    Conv, ImageStrides, WeightStrides, conv_dims, conv_macs, conv_shape, for_each_window,
};
use crate::{
    Cost, DType, Dim, Dims, InferCx, Inputs, Op, OpError, OpResult, Outputs, Quant, Shape,
    ValueType,
};

/// Floats as 8-bit integers: `real = scale × (stored − zero)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dynamic {
    /// Stored values, from −128 or −127 to 127.
    pub values: Vec<i32>,
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero: i32,
}

impl Dynamic {
    /// Symmetric about zero: the largest magnitude becomes 127.
    pub(crate) fn symmetric(reals: &[f32]) -> Dynamic {
        let range = reals.iter().fold(0f32, |m, x| m.max(x.abs()));
        if range == 0.0 {
            return Dynamic { values: vec![0; reals.len()], scale: 1.0, zero: 0 };
        }
        let inverse = 127.0 / range;
        let quantise = |x: &f32| ((x * inverse).round() as i32).clamp(-127, 127);
        Dynamic { values: reals.iter().map(quantise).collect(), scale: range / 127.0, zero: 0 }
    }

    /// From the smallest to the largest number, zero among them.
    pub(crate) fn asymmetric(reals: &[f32]) -> Dynamic {
        let min = f64::from(reals.iter().fold(0f32, |m, x| m.min(*x)));
        let max = f64::from(reals.iter().fold(0f32, |m, x| m.max(*x)));
        if min == max {
            return Dynamic { values: vec![0; reals.len()], scale: 1.0, zero: 0 };
        }
        let scale = (max - min) / 255.0;
        let (from_min, from_max) = (-128.0 - min / scale, 127.0 - max / scale);
        let (min_error, max_error) = (128.0 + (min / scale).abs(), 127.0 + (max / scale).abs());
        let zero = if min_error < max_error { from_min } else { from_max };
        let zero = zero.clamp(-128.0, 127.0).round();
        let scale = scale as f32;
        let inverse = 1.0 / scale;
        let quantise = |x: &f32| ((zero as f32 + x * inverse).round() as i32).clamp(-128, 127);
        Dynamic { values: reals.iter().map(quantise).collect(), scale, zero: zero as i32 }
    }

    pub(crate) fn of(reals: &[f32], asymmetric: bool) -> Dynamic {
        if asymmetric { Dynamic::asymmetric(reals) } else { Dynamic::symmetric(reals) }
    }
}

fn weights_type<'a>(cx: &InferCx<'a>) -> OpResult<&'a ValueType> {
    let (x, weights) = (cx.ty(0)?, quantized_input(cx, 1)?);
    if x.dtype != DType::F32 || !matches!(weights.dtype, DType::I8 | DType::I4) {
        return Err(OpError::new(format!("a product of {x} and {weights} is not supported")));
    }
    let zeros = weights.quant.as_ref().is_some_and(|q| q.zero_point.iter().all(|z| *z == 0));
    if !zeros {
        return Err(OpError::new("weights with a zero point other than 0 are not supported"));
    }
    Ok(weights)
}

fn biases<'a>(inputs: &Inputs<'a>, len: usize) -> OpResult<Option<&'a [f32]>> {
    let Some(view) = inputs.opt(2) else { return Ok(None) };
    let bias = view.slice::<f32>()?;
    match bias.len() == len {
        true => Ok(Some(bias)),
        false => {
            Err(OpError::new(format!("its bias has {} values for {len} channels", bias.len())))
        }
    }
}

/// `x [.., k] × weights [n, k]ᵀ + bias [n]?`: f32 x and bias, int8 or int4 weights with one scale
/// or one for each of the n rows. Each row of x is quantised by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridMatMul {
    /// Quantise rows with a zero point, and not symmetrically.
    pub asymmetric: bool,
    /// Applied to the result.
    pub activation: Activation,
}

impl Op for HybridMatMul {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let weights = weights_type(cx)?;
        let (Some(x), Some(w)) = (cx.dims(0)?, weights.shape.dims()) else {
            return Ok(vec![ValueType::new(DType::F32, Shape::unknown())]);
        };
        match (x, w) {
            ([.., k], [n, k2]) if k.fixed().zip(k2.fixed()).is_none_or(|(a, b)| a == b) => {
                let mut dims: Vec<Dim> = x.to_vec();
                dims.pop();
                dims.push(n.clone());
                Ok(vec![ValueType::new(DType::F32, dims)])
            }
            _ => Err(OpError::new(format!("sizes {} and {} do not fit", cx.ty(0)?, weights))),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let quant = inputs.quant(1)?;
        let (&[n, k], Some(k2)) = (weights.dims, x.dims.last()) else {
            return Err(OpError::new("a product needs two dimensions of weights"));
        };
        if k != *k2 {
            return Err(OpError::new(format!("inner sizes {k2} and {k} differ")));
        }
        let bias = biases(inputs, n)?;
        let w = stored(&weights)?;
        let mut dims: Dims = x.dims.into();
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        let reals = x.slice::<f32>()?;
        let out = outputs.slice::<f32>(0, &dims)?;
        for (row, out) in reals.chunks(k.max(1)).zip(out.chunks_mut(n.max(1))) {
            let row = Dynamic::of(row, self.asymmetric);
            for (c, out) in out.iter_mut().enumerate() {
                let w = &w[c * k..(c + 1) * k];
                let pairs = row.values.iter().zip(w);
                let dot =
                    pairs.fold(0i32, |s, (x, w)| s.wrapping_add((x - row.zero).wrapping_mul(*w)));
                let sum = bias.map_or(0.0, |b| b[c]) + dot as f32 * (row.scale * quant.scale_at(c));
                *out = self.activation.at(f64::from(sum)) as f32;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let size = |ty: Option<&ValueType>| ty.and_then(|ty| ty.shape.fixed());
        let k = size(inputs.get(1).copied().flatten()).and_then(|w| w.last().copied()).unwrap_or(0);
        let out = size(outputs.first().copied()).map_or(0, |d| d.iter().product::<usize>());
        Cost::traffic(inputs, outputs).with_macs((out as u64).saturating_mul(k as u64))
    }
}

/// A convolution of f32 x with int8 weights of one scale or one for each output channel, and an
/// f32 bias. Each image is quantised by itself: with a zero point where the weights have many
/// scales, symmetrically where they have one.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridConv {
    /// The convolution.
    pub conv: Conv,
}

impl Op for HybridConv {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let weights = weights_type(cx)?;
        let layouts = (self.conv.layout, self.conv.weight_layout);
        let shape = conv_shape(
            &self.conv.window,
            self.conv.groups,
            layouts,
            &cx.ty(0)?.shape,
            &weights.shape,
        )?;
        Ok(vec![ValueType::new(DType::F32, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let quant: &Quant = inputs.quant(1)?;
        let Conv { window, groups, layout, weight_layout, activation } = &self.conv;
        let dims = conv_dims(window, *groups, (*layout, *weight_layout), x.dims, weights.dims)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let bias = biases(inputs, dims.out_channels)?;
        let image = x.len() / dims.batch.max(1);
        let asymmetric = quant.scale.len() > 1;
        let images: Vec<Dynamic> =
            x.slice::<f32>()?.chunks(image.max(1)).map(|i| Dynamic::of(i, asymmetric)).collect();
        let w = stored(&weights)?;
        let x_at = ImageStrides::of(*layout, x.dims)?;
        let w_at = WeightStrides::of(*weight_layout, weights.dims)?;
        let y_at = ImageStrides::of(*layout, out_dims)?;
        let (per_in, per_out) = (dims.in_channels / groups, dims.out_channels / groups);
        let out = outputs.slice::<f32>(0, out_dims)?;
        for_each_window(&dims.windows, &x_at, &w_at, &y_at, |_, spatial, taps| {
            for (n, image) in images.iter().enumerate() {
                for oc in 0..dims.out_channels {
                    let first = oc / per_out * per_in;
                    let mut sum = 0i32;
                    for (x_tap, w_tap) in taps {
                        for ic in 0..per_in {
                            let x = image.values[(first + ic) * x_at.channel + x_tap] - image.zero;
                            let w = w[oc * w_at.output + ic * w_at.input + w_tap];
                            sum = sum.wrapping_add(x.wrapping_mul(w));
                        }
                    }
                    let real = sum as f32 * quant.scale_at(oc) * image.scale;
                    let real = real + bias.map_or(0.0, |b| b[oc]);
                    out[n * y_at.batch + oc * y_at.channel + spatial] =
                        activation.at(f64::from(real)) as f32;
                }
            }
        });
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let macs = conv_macs(self.conv.weight_layout, inputs, outputs);
        Cost::traffic(inputs, outputs).with_macs(macs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_always_exact() {
        for reals in [[-1.0f32, 0.0, 3.0], [2.0, 0.0, 5.0], [-4.0, 0.0, -1.0]] {
            let q = Dynamic::asymmetric(&reals);
            assert_eq!(q.values[1], q.zero, "{reals:?}");
            for (v, x) in q.values.iter().zip(reals) {
                assert!(((v - q.zero) as f32 * q.scale - x).abs() <= q.scale, "{reals:?}");
            }
        }
        assert_eq!(Dynamic::symmetric(&[0.5, -2.0]).values, [32, -127]);
    }
}
