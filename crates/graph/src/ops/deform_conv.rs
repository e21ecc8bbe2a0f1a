//! Convolution whose windows are deformed by learnt offsets.

use crate::number::Number;
use crate::ops::conv::{conv_dims, conv_macs, conv_shape, float};
use crate::ops::window::{Layout, WeightLayout, Window};
use crate::{Cost, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Convolution of images (batch, channels, height, width) in which each element of each window is
/// moved by an offset and read by bilinear interpolation, zeros outside. Inputs x, weights,
/// offsets (batch, offset groups × kernel height × kernel width × 2 (y, x), output height, output
/// width), bias?, mask? (as the offsets, without the 2; multiplies what is read). ONNX
/// `DeformConv`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeformConv {
    /// Strides, dilations, padding.
    pub window: Window,
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Groups of input channels that share offsets.
    pub offset_groups: usize,
}

const LAYOUTS: (Layout, WeightLayout) = (Layout::ChannelsFirst, WeightLayout::OutInSpatial);

impl Op for DeformConv {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = float(cx, 5)?;
        cx.ty(2)?;
        let (x, weights) = (&cx.ty(0)?.shape, &cx.ty(1)?.shape);
        if [x, weights].iter().any(|s| s.rank().is_some_and(|r| r != 4)) {
            return Err(OpError::new(format!(
                "x is {x} and the weights {weights}: must be of rank 4"
            )));
        }
        Ok(vec![ValueType::new(dtype, conv_shape(&self.window, self.groups, LAYOUTS, x, weights)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let out_dims = &outputs.dims(self, inputs)?[0];
        let (x, weights, offsets) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let dims = conv_dims(&self.window, self.groups, LAYOUTS, x.dims, weights.dims)?;
        let &[h, w] = &dims.windows[..] else { return Err(OpError::new("x must have rank 4")) };
        let (channels, batch) = (dims.in_channels, dims.batch);
        let sharing = self.offset_groups;
        let taps = h.kernel * w.kernel;
        let expect = |i: usize, per_tap: usize| match inputs.opt(i) {
            Some(v) if v.dims != [batch, sharing * taps * per_tap, h.output, w.output] => {
                Err(OpError::new(format!("input {i} has sizes {:?}", v.dims)))
            }
            _ => Ok(()),
        };
        if sharing == 0 || channels % sharing != 0 || sharing > channels {
            return Err(OpError::new(format!("{channels} channels in {sharing} offset groups")));
        }
        expect(2, 2)?;
        expect(4, 1)?;
        if inputs.opt(3).is_some_and(|b| b.dims != [dims.out_channels]) {
            return Err(OpError::new("the bias must have one element for each output channel"));
        }
        crate::dispatch_float!(x.dtype, T => {
            let (x, weights) = (x.slice::<T>()?, weights.slice::<T>()?);
            let offsets = offsets.slice::<T>()?;
            let bias = inputs.opt(3).map(|b| b.slice::<T>()).transpose()?;
            let mask = inputs.opt(4).map(|b| b.slice::<T>()).transpose()?;
            let y = outputs.slice::<T>(0, out_dims)?;
            let area = h.output * w.output;
            let (per_in, per_out) = (channels / self.groups, dims.out_channels / self.groups);
            for (at, to) in y.iter_mut().enumerate() {
                let (n, oc) = (at / area / dims.out_channels, at / area % dims.out_channels);
                let (place, row, column) = (at % area, at % area / w.output, at % w.output);
                let mut sum = bias.map_or(0.0, |b| b[oc].to_f64());
                for i in 0..per_in {
                    let ic = oc / per_out * per_in + i;
                    let image = &x[(n * channels + ic) * h.input * w.input..][..h.input * w.input];
                    let shared = (n * sharing + ic / (channels / sharing)) * taps;
                    for tap in 0..taps {
                        let (ky, kx) = (tap / w.kernel, tap % w.kernel);
                        let moved = |axis: usize| {
                            offsets[((shared + tap) * 2 + axis) * area + place].to_f64()
                        };
                        let start = |o: usize, k: usize, a: &crate::ops::window::AxisWindow| {
                            (o * a.stride + k * a.dilation) as f64 - a.pad_before as f64
                        };
                        let v = bilinear(
                            |r, c| image[r * w.input + c].to_f64(),
                            [h.input, w.input],
                            start(row, ky, &h) + moved(0),
                            start(column, kx, &w) + moved(1),
                        );
                        let weight = weights[(oc * per_in + i) * taps + tap].to_f64();
                        let m = mask.map_or(1.0, |m| m[(shared + tap) * area + place].to_f64());
                        sum += v * weight * m;
                    }
                }
                *to = T::narrow(sum);
            }
            Ok(())
        }, else => Err(OpError::new(format!("DeformConv does not take {}", x.dtype))))
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_macs(conv_macs(LAYOUTS.1, inputs, outputs))
    }
}

/// The image between its pixels, zero outside.
fn bilinear(pixel: impl Fn(usize, usize) -> f64, size: [usize; 2], y: f64, x: f64) -> f64 {
    let (top, left) = (y.floor(), x.floor());
    let mut sum = 0.0;
    for (row, weight_y) in [(top, 1.0 - (y - top)), (top + 1.0, y - top)] {
        for (column, weight_x) in [(left, 1.0 - (x - left)), (left + 1.0, x - left)] {
            let inside = |v: f64, n: usize| v >= 0.0 && v < n as f64;
            if inside(row, size[0]) && inside(column, size[1]) {
                sum += weight_y * weight_x * pixel(row as usize, column as usize);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test::{check, error, t};

    #[test]
    fn offsets_move_what_is_read() {
        let op = DeformConv { window: Window::unit(2), groups: 1, offset_groups: 1 };
        let x = t(&[1, 1, 2, 2], &[1f32, 2., 3., 4.]);
        let w = t(&[1, 1, 1, 1], &[10f32]);
        // Down by half, and right by one, which leaves the image in the second column.
        let offsets = t(&[1, 2, 2, 2], &[0.5f32, 0., 0., 0., 0., 1., 1., 0.]);
        check(&op, &[&x, &w, &offsets], &[1, 1, 2, 2], &[20f32, 0., 40., 40.]);
        let bias = t(&[1], &[1f32]);
        let mask = t(&[1, 1, 2, 2], &[1f32, 1., 0.5, 0.]);
        let wanted = [21f32, 1., 21., 1.];
        check(&op, &[&x, &w, &offsets, &bias, &mask], &[1, 1, 2, 2], &wanted);
        assert!(error(&op, &[&x, &w, &mask]).contains("input 2"));
    }
}
