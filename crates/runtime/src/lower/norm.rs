//! Float normalisations: layer, RMS, batch, and of single channels.

use super::LowerCx;
use super::float::{Cut, constant, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::broadcast::axis_of;
use kinglet_graph::ops::norm::{BatchNorm, GroupNorm, LayerNorm, RmsNorm};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::norm_f32::{NormF32, instance_scale_and_shift, scale_and_shift};

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if cx.input(0).is_none() || cx.node.outputs.len() != 1 || !is_f32(cx, 5) {
        return Ok(None);
    }
    if let Some(op) = cx.op::<LayerNorm>() {
        rows(cx, op.axis, op.epsilon, true)
    } else if let Some(op) = cx.op::<RmsNorm>() {
        rows(cx, op.axis, op.epsilon, false)
    } else if let Some(op) = cx.op::<BatchNorm>() {
        batch(cx, op)
    } else if let Some(op) = cx.op::<GroupNorm>() {
        instance(cx, op)
    } else {
        Ok(None)
    }
}

fn rows(cx: &LowerCx<'_>, axis: i64, epsilon: f32, centred: bool) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0) else { return Ok(None) };
    let dims = cx.dims(x)?;
    let columns: usize = dims[axis_of(axis, dims.len())?..].iter().product();
    for value in [1, 2].into_iter().filter_map(|i| cx.input(i)) {
        let sizes = cx.dims(value)?;
        // Sizes that end in the row's and hold no more are the row's.
        let whole = sizes.iter().product::<usize>() == columns;
        if !whole || sizes.iter().rev().zip(dims.iter().rev()).any(|(a, b)| a != b && *a != 1) {
            return Ok(None);
        }
    }
    let len: usize = dims.iter().product();
    if len == 0 {
        return Ok(None);
    }
    let cut = Cut::new(len / columns, 1, 4 * len, cx.threads);
    Ok(Some(Lowered::new(Rows { isa: cx.isa, epsilon, centred, columns, cut })))
}

struct Rows {
    isa: Isa,
    epsilon: f32,
    centred: bool,
    columns: usize,
    cut: Cut,
}

impl Kernel for Rows {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let there = |i: usize| io.inputs.get(i).is_some_and(Option::is_some);
        let scale = there(1).then(|| io.input(1)).transpose()?;
        let bias = there(2).then(|| io.input(2)).transpose()?;
        let norm = NormF32 { epsilon: self.epsilon, centred: self.centred, scale, bias };
        let pool = io.pool;
        let piece = self.cut.chunk() * self.columns;
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            norm.run(self.isa, &x[i * piece..][..out.len()], self.columns, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{} norm {}", if self.centred { "layer" } else { "rms" }, self.isa.name())
    }
}

fn batch(cx: &LowerCx<'_>, op: &BatchNorm) -> OpResult<Option<Lowered>> {
    let (Some(scale), Some(bias), Some(mean), Some(variance)) =
        (constant(cx, 1)?, constant(cx, 2)?, constant(cx, 3)?, constant(cx, 4)?)
    else {
        return Ok(None);
    };
    if op.layout != Layout::ChannelsLast || scale.is_empty() {
        return Ok(None);
    }
    let (mut factors, mut shifts) = (Vec::new(), Vec::new());
    for c in 0..scale.len() {
        let deviation = (f64::from(variance[c]) + f64::from(op.epsilon)).sqrt();
        let factor = f64::from(scale[c]) / deviation;
        factors.push(factor as f32);
        shifts.push((f64::from(bias[c]) - f64::from(mean[c]) * factor) as f32);
    }
    let len: usize = cx.dims(cx.output(0))?.iter().product();
    let cut = Cut::new(len / scale.len(), 1, len, cx.threads);
    let bytes = 2 * size_of_val(scale);
    let kernel = Batch { isa: cx.isa, scale: factors, shift: shifts, cut };
    Ok(Some(Lowered::new(kernel).with_absorbed(&[1, 2, 3, 4], bytes)))
}

struct Batch {
    isa: Isa,
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// Over the pixels.
    cut: Cut,
}

impl Kernel for Batch {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let pool = io.pool;
        let piece = self.cut.chunk() * self.scale.len();
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let x = &x[i * piece..][..out.len()];
            scale_and_shift(self.isa, x, &self.scale, &self.shift, Unary::Identity, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("batch norm {}", self.isa.name())
    }
}

/// A group normalisation whose groups are single channels.
fn instance(cx: &LowerCx<'_>, op: &GroupNorm) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0) else { return Ok(None) };
    let (images, channels, spatial) = op.layout.split(&cx.dims(x)?)?;
    let pixels: usize = spatial.iter().product();
    let single = op.groups.is_none_or(|groups| groups == channels);
    if op.layout != Layout::ChannelsLast || !single || images * pixels * channels == 0 {
        return Ok(None);
    }
    let cut = Cut::new(images, 1, 4 * images * pixels * channels, cx.threads);
    let kernel = Instance { isa: cx.isa, epsilon: op.epsilon, channels, pixels, cut };
    let scratch = cx.threads * 2 * channels * size_of::<f32>();
    Ok(Some(Lowered::new(kernel).with_scratch(scratch)))
}

struct Instance {
    isa: Isa,
    epsilon: f32,
    channels: usize,
    pixels: usize,
    /// Over the images.
    cut: Cut,
}

impl Kernel for Instance {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, gamma, beta): (&[f32], &[f32], &[f32]) = (io.input(0)?, io.input(1)?, io.input(2)?);
        let scratch: &mut [f32] = bytemuck::try_cast_slice_mut(io.scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let scratch = kinglet_kernels::shared::SharedMut::new(scratch);
        let pool = io.pool;
        let image = self.pixels * self.channels;
        let piece = self.cut.chunk() * image;
        let out = io.outputs[0].slice_mut::<f32>()?;
        pool.for_chunks(out, piece, |i, out, worker| {
            let own = 2 * self.channels;
            // SAFETY: every worker has its own part of the scratch.
            let own = unsafe { scratch.slice(worker * own..(worker + 1) * own) };
            let (scale, shift) = own.split_at_mut(self.channels);
            let x = &x[i * piece..][..out.len()];
            for (x, y) in x.chunks_exact(image).zip(out.chunks_exact_mut(image)) {
                instance_scale_and_shift(x, self.epsilon, (gamma, beta), scale, shift);
                scale_and_shift(self.isa, x, scale, shift, Unary::Identity, y);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("instance norm {}", self.isa.name())
    }
}
