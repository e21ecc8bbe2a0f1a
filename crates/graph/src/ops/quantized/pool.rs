//! Pools over quantised images.

use super::{Clamp, Rescale, quantized_input, single, store, stored};
use crate::ops::broadcast::Offsets;
use crate::ops::conv::ImageStrides;
use crate::ops::window::{Layout, Window};
use crate::{Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

/// Which pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QPoolKind {
    /// The mean of the elements inside the input, rounded to nearest, halves away from zero.
    Average,
    /// The largest element inside the input.
    Max,
}

/// A pool over an image of integers. Under [`Rescale::FixedPoint`] the output has the input's
/// quantisation.
#[derive(Clone, Debug, PartialEq)]
pub struct QPool {
    /// Which.
    pub kind: QPoolKind,
    /// Sizes of the window.
    pub kernel: Vec<usize>,
    /// Strides, dilations, padding.
    pub window: Window,
    /// Layout of input and output.
    pub layout: Layout,
    /// Limits of the stored result.
    pub clamp: Clamp,
    /// How the result is brought to the output's scale.
    pub rescale: Rescale,
}

impl Op for QPool {
    fn name(&self) -> &'static str {
        match self.kind {
            QPoolKind::Average => "QAveragePool",
            QPoolKind::Max => "QMaxPool",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        Clamp::of(ty.dtype)?;
        let Some(dims) = ty.shape.dims() else {
            return Ok(vec![ValueType::new(ty.dtype, Shape::unknown())]);
        };
        let (batch, channels, spatial) = self.layout.split::<Dim>(dims)?;
        let spatial = self.window.output_dims(&spatial, &self.kernel, false)?;
        Ok(vec![ValueType::new(ty.dtype, self.layout.join(batch, channels, &spatial))])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let (in_scale, in_zero) = single(inputs.quant(0)?)?;
        let (out_scale, out_zero) = single(outputs.quant(0)?)?;
        let (batch, channels, spatial) = self.layout.split(view.dims)?;
        let windows = self.window.resolve(&spatial, &self.kernel, false)?;
        let sizes: Vec<usize> = windows.iter().map(|w| w.output).collect();
        let out_dims = self.layout.join(batch, channels, &sizes);
        let (x_at, y_at) =
            (ImageStrides::of(self.layout, view.dims)?, ImageStrides::of(self.layout, &out_dims)?);
        let values = stored(&view)?;
        let mut result = vec![0; out_dims.iter().product()];
        let mut positions = Offsets::new(&sizes, [&y_at.spatial]);
        loop {
            let position: Vec<usize> = positions.index().to_vec();
            let Some([at]) = positions.next() else { break };
            let taps = self.taps(&windows, &position, &x_at);
            if taps.is_empty() {
                return Err(OpError::new("a window of the pool lies in the padding alone"));
            }
            for n in 0..batch {
                for c in 0..channels {
                    let from = n * x_at.batch + c * x_at.channel;
                    let elements = taps.iter().map(|tap| values[from + tap]);
                    let value = match (self.kind, self.rescale) {
                        (QPoolKind::Max, _) => elements.max().unwrap_or(0),
                        (QPoolKind::Average, Rescale::Float) => {
                            let sum: i64 =
                                elements.map(|x| i64::from(x) - i64::from(in_zero)).sum();
                            let scale = in_scale / (out_scale * taps.len() as f32);
                            ((sum as f32 * scale).round_ties_even() as i32).saturating_add(out_zero)
                        }
                        (QPoolKind::Average, _) => mean(elements, taps.len()),
                    };
                    result[n * y_at.batch + c * y_at.channel + at] = self.clamp.apply(value);
                }
            }
        }
        store(outputs, 0, view.dtype, &out_dims, &result)
    }
}

impl QPool {
    /// The offsets of the window's elements that lie inside the input.
    fn taps(
        &self,
        windows: &[crate::ops::window::AxisWindow],
        position: &[usize],
        x: &ImageStrides,
    ) -> Vec<usize> {
        let steps = vec![0; self.kernel.len()];
        let mut elements = Offsets::new(&self.kernel, [&steps]);
        let mut taps = Vec::new();
        loop {
            let element: Vec<usize> = elements.index().to_vec();
            if elements.next().is_none() {
                return taps;
            }
            taps.extend((0..windows.len()).try_fold(0, |sum, i| {
                Some(sum + windows[i].input_at(position[i], element[i])? * x.spatial[i])
            }));
        }
    }
}

fn mean(elements: impl Iterator<Item = i32>, count: usize) -> i32 {
    let count = count as i64;
    let sum: i64 = elements.map(i64::from).sum();
    let half = if sum > 0 { count / 2 } else { -(count / 2) };
    ((sum + half) / count) as i32
}
