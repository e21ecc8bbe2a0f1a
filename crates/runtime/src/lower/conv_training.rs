//! Float convolutions whose weights are no constants, the gradients of convolutions, and transposed
//! convolutions with strides of channels each by itself: channels-last images, one or two spatial
//! dimensions, channels all with all or each by itself.

use super::LowerCx;
use super::conv::weight_strides;
use super::float::{Cut, Parts, activation, geometry, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::conv::{Conv, ConvTranspose, ConvWeightGradient, conv_dims};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::conv_f32::{ConvShape, WeightStrides};
use kinglet_kernels::conv_training_f32::{ConvWeights, TrainedConv};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if !is_f32(cx, 3) {
        return Ok(None);
    }
    if let Some(op) = cx.op::<Conv>() {
        return forward(cx, op);
    }
    if let Some(op) = cx.op::<ConvTranspose>() {
        return back(cx, op);
    }
    match cx.op::<ConvWeightGradient>() {
        Some(op) => weights(cx, op),
        None => Ok(None),
    }
}

fn forward(cx: &LowerCx<'_>, op: &Conv) -> OpResult<Option<Lowered>> {
    let (Some(x), Some(w)) = (cx.input(0), cx.input(1)) else { return Ok(None) };
    if op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x, w) = (cx.dims(x)?, cx.dims(w)?);
    let dims = conv_dims(&op.window, op.groups, (op.layout, op.weight_layout), &x, &w)?;
    let (Some((window, input, output)), Some(then)) =
        (geometry(&dims.windows, dims.in_channels, dims.out_channels), activation(op.activation))
    else {
        return Ok(None);
    };
    let shape = ConvShape { input, output, window, groups: op.groups };
    let strides = weight_strides(op.weight_layout, &w)?;
    Ok(conv(cx, shape, true, dims.batch, strides, then))
}

fn back(cx: &LowerCx<'_>, op: &ConvTranspose) -> OpResult<Option<Lowered>> {
    let (Some(x), Some(w)) = (cx.input(0), cx.input(1)) else { return Ok(None) };
    if op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x, w) = (cx.dims(x)?, cx.dims(w)?);
    let (_, _, spatial) = op.layout.split(&cx.dims(cx.output(0))?)?;
    let dims = op.dims(&x, &w, &spatial, cx.input(3).is_some())?;
    // The windows are those of the convolution back: its input is this op's output.
    let (Some((window, input, output)), Some(then)) =
        (geometry(&dims.windows, dims.out_channels, dims.in_channels), activation(op.activation))
    else {
        return Ok(None);
    };
    let shape = ConvShape { input, output, window, groups: op.groups };
    let strides = weight_strides(op.weight_layout, &w)?;
    // What goes into this op comes out of that convolution.
    let strides = WeightStrides { output: strides.input, input: strides.output, ..strides };
    Ok(conv(cx, shape, false, dims.batch, strides, then))
}

fn conv(
    cx: &LowerCx<'_>,
    shape: ConvShape,
    forward: bool,
    batch: usize,
    strides: WeightStrides,
    then: Unary,
) -> Option<Lowered> {
    let conv = TrainedConv::new(cx.isa, shape, forward)?;
    let written = if forward { shape.output } else { shape.input };
    let lines = batch * conv.lines();
    if lines == 0 || written.is_empty() || conv.packed_len() == 0 {
        return None;
    }
    let work = batch * shape.output.pixels() * conv.packed_len();
    let cut = Cut::new(lines, 1, work, cx.threads);
    let scratch = (conv.packed_len() * size_of::<f32>()).max(4096);
    let line = written.width * written.channels;
    let residual = forward && cx.input(3).is_some();
    let kernel = Direct { isa: cx.isa, conv, strides, then, residual, line, cut };
    Some(Lowered::new(kernel).with_scratch(scratch))
}

struct Direct {
    isa: Isa,
    conv: TrainedConv,
    strides: WeightStrides,
    then: Unary,
    /// Whether input 3 is added before `then`.
    residual: bool,
    /// Elements of a line of the result.
    line: usize,
    /// Over the lines.
    cut: Cut,
}

impl Kernel for Direct {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, weights): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let bias: Option<&[f32]> = match io.inputs.get(2).copied().flatten() {
            Some(bias) => Some(bias.slice()?),
            None => None,
        };
        let residual: Option<&[f32]> = match self.residual {
            true => Some(io.input(3)?),
            false => None,
        };
        let packed: &mut [f32] = bytemuck::try_cast_slice_mut(std::mem::take(&mut io.scratch))
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        self.conv.pack(weights, self.strides, packed);
        let (pool, packed, lines) = (io.pool, &*packed, self.cut.chunk());
        pool.for_chunks(io.output::<f32>(0)?, lines * self.line, |i, out, _| {
            let first = i * lines;
            self.conv.run(first..first + out.len() / self.line, x, packed, bias, out);
            if let Some(residual) = residual {
                let own = &residual[first * self.line..];
                out.iter_mut().zip(own).for_each(|(v, residual)| *v += residual);
            }
            self.then.run(self.isa, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("direct conv {}, packed when run", self.isa.name())
    }
}

fn weights(cx: &LowerCx<'_>, op: &ConvWeightGradient) -> OpResult<Option<Lowered>> {
    let (Some(x), true) = (cx.input(0), op.layout == Layout::ChannelsLast) else {
        return Ok(None);
    };
    let (x, w) = (cx.dims(x)?, cx.dims(cx.output(0))?);
    let dims = conv_dims(&op.window, op.groups, (op.layout, op.weight_layout), &x, &w)?;
    let Some((window, input, output)) =
        geometry(&dims.windows, dims.in_channels, dims.out_channels)
    else {
        return Ok(None);
    };
    let shape = ConvShape { input, output, window, groups: op.groups };
    let Some(of) = ConvWeights::new(cx.isa, shape) else { return Ok(None) };
    let lines = dims.batch * output.height;
    if lines == 0 || output.is_empty() || of.sum_len() == 0 {
        return Ok(None);
    }
    let scratch = Parts::of(lines).count() * of.sum_len() * size_of::<f32>();
    let strides = weight_strides(op.weight_layout, &w)?;
    let kernel = Weights { isa: cx.isa, of, strides, lines };
    Ok(Some(Lowered::new(kernel).with_scratch(scratch.max(4096))))
}

struct Weights {
    isa: Isa,
    of: ConvWeights,
    strides: WeightStrides,
    /// Of the output, over the whole batch.
    lines: usize,
}

impl Kernel for Weights {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, dy): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let sums: &mut [f32] = bytemuck::try_cast_slice_mut(std::mem::take(&mut io.scratch))
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let (parts, len) = (Parts::of(self.lines), self.of.sum_len());
        let shared = SharedMut::new(&mut *sums);
        io.pool.run(parts.count(), |part, _| {
            // SAFETY: every part has its own sum.
            let sum = unsafe { shared.slice(part * len..(part + 1) * len) };
            self.of.run(parts.part(part), x, dy, sum);
        });
        self.of.finish(sums, parts.count(), self.strides, io.output(0)?);
        Ok(())
    }

    fn describe(&self) -> String {
        format!("gradient of conv weights {}", self.isa.name())
    }
}
