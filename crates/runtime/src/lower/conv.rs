//! Float convolutions: channels-last images, constant weights, one or two spatial dimensions.

use super::LowerCx;
use super::float::{Cut, GridCut, activation, constant, geometry, is_f32};
use crate::bands::{Band, BandShape, Banded};
use crate::kernel::{Io, Kernel, Lowered, input};
use crate::scratch::PerWorker;
use kinglet_graph::ops::broadcast::strides;
use kinglet_graph::ops::conv::{Conv, ConvTranspose, conv_dims};
use kinglet_graph::ops::window::{Layout, WeightLayout};
use kinglet_graph::{Dims, OpError, OpResult, TensorView};
use kinglet_kernels::conv_f32::{
    ConvF32, ConvShape, ConvTransposedF32, PackedConv, PackedConvTransposed, PackedWinograd,
    WeightStrides, WinogradF32, turned,
};
use kinglet_kernels::depthwise_f32::{DepthwiseF32, PackedDepthwise};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::gemm_f32::{Epilogue, Rows};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;
use kinglet_kernels::window::Lines;
use std::ops::Range;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if let Some(op) = cx.op::<Conv>() {
        return conv(cx, op);
    }
    match cx.op::<ConvTranspose>() {
        Some(op) => transposed(cx, op),
        None => Ok(None),
    }
}

/// The strides of weights of `dims`.
pub(super) fn weight_strides(layout: WeightLayout, dims: &[usize]) -> OpResult<WeightStrides> {
    let (output, input, spatial) = layout.split(&strides(dims))?;
    let (vertical, horizontal) = match spatial[..] {
        [y, x] => (y, x),
        [x] => (0, x),
        _ => (0, 0),
    };
    Ok(WeightStrides { output, vertical, horizontal, input })
}

/// What all convolutions do to their results.
struct Finish {
    /// The bias, if it is constant; else input 2 is.
    bias: Option<Vec<f32>>,
    activation: Unary,
    residual: bool,
    channels: usize,
}

impl Finish {
    /// With the inputs that it absorbs.
    fn new(
        cx: &LowerCx<'_>,
        activation: Unary,
        residual: bool,
        channels: usize,
    ) -> OpResult<(Finish, Vec<usize>)> {
        let bias = constant(cx, 2)?.map(<[f32]>::to_vec);
        let absorbed = if bias.is_some() { vec![1, 2] } else { vec![1] };
        Ok((Finish { bias, activation, residual, channels }, absorbed))
    }

    fn epilogue<'a>(&'a self, inputs: &'a [Option<TensorView<'a>>]) -> OpResult<Epilogue<'a>> {
        let bias = match &self.bias {
            Some(bias) => Some(bias.as_slice()),
            None if inputs.get(2).is_some_and(Option::is_some) => Some(input(inputs, 2)?),
            None => None,
        };
        Ok(match self.residual {
            false => Epilogue { bias, activation: self.activation, ..Epilogue::default() },
            true => Epilogue {
                bias,
                activation: Unary::Identity,
                residual: Some(Rows { data: input(inputs, 3)?, stride: self.channels }),
                after: self.activation,
            },
        })
    }
}

fn conv(cx: &LowerCx<'_>, op: &Conv) -> OpResult<Option<Lowered>> {
    let (Some(x), Some(w), Some(weights)) = (cx.input(0), cx.input(1), constant_weights(cx)?)
    else {
        return Ok(None);
    };
    if !is_f32(cx, 4) || op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x, w): (Dims, Dims) = (cx.dims(x)?, cx.dims(w)?);
    let dims = conv_dims(&op.window, op.groups, (op.layout, op.weight_layout), &x, &w)?;
    let (Some((window, input, output)), Some(activation)) =
        (geometry(&dims.windows, dims.in_channels, dims.out_channels), activation(op.activation))
    else {
        return Ok(None);
    };
    let shape = ConvShape { input, output, window, groups: op.groups };
    let strides = weight_strides(op.weight_layout, &w)?;
    let finish = Finish::new(cx, activation, cx.input(3).is_some(), dims.out_channels)?;
    Ok(Some(packed(cx, shape, dims.batch, (weights, strides), finish)))
}

/// The kernel for a convolution of `batch` images by constant weights.
fn packed(
    cx: &LowerCx<'_>,
    shape: ConvShape,
    batch: usize,
    (weights, strides): (&[f32], WeightStrides),
    (finish, absorbed): (Finish, Vec<usize>),
) -> Lowered {
    let ConvShape { input, output, window, groups } = shape;
    let work = batch * output.len() * window.kernel[0] * window.kernel[1];
    if groups > 1 && groups == input.channels {
        let packed = PackedDepthwise::new(cx.isa, shape, weights, strides);
        let lines = batch * output.height;
        // Short images have lots of channels: those are what threads share then.
        let by_blocks = lines < 4 * cx.threads && packed.blocks() >= 2 * cx.threads;
        let total = if by_blocks { packed.blocks() } else { lines };
        let cut = Cut::new(total, if by_blocks { 1 } else { 2 }, work, cx.threads);
        let bytes = packed.bytes();
        let kernel = FloatDepthwise { packed, finish, lines, by_blocks, cut };
        return Lowered::new(kernel).with_absorbed(&absorbed, bytes);
    }
    if PackedWinograd::suits(&shape, cx.choices.winograd_channels) {
        let packed = PackedWinograd::new(cx.isa, shape, weights, strides);
        let work = work / 9 * 4 * input.channels;
        let (tiles, block) = (batch * packed.tiles(), packed.block_tiles());
        // Short images have few tiles, of which each thread is to have some.
        let grain = if tiles >= 2 * block * cx.threads { block } else { 1 };
        let cut = Cut::new(tiles, grain, work, cx.threads);
        let (bytes, scratch) = (packed.bytes(), PerWorker::new(packed.scratch_bytes()));
        let lowered = Lowered::new(FloatWinograd { packed, finish, cut, scratch });
        let lowered = lowered.with_absorbed(&absorbed, bytes);
        return lowered.with_scratch(scratch.planned(cx.threads));
    }
    let packed = PackedConv::new(cx.isa, shape, weights, strides);
    let (rows, tile) = (batch * output.pixels(), packed.tile_rows());
    let work = work * (input.channels / groups);
    let cut = GridCut::new(rows, tile, packed.panels(), work, cx.threads);
    let (bytes, scratch) = (packed.bytes(), PerWorker::new(packed.scratch_bytes()));
    let lines = batch * output.height;
    let kernel = FloatConv { packed, finish, lines, cut, scratch };
    let lowered = Lowered::new(kernel).with_absorbed(&absorbed, bytes);
    lowered.with_scratch(scratch.planned(cx.threads))
}

fn constant_weights<'a>(cx: &LowerCx<'a>) -> OpResult<Option<&'a [f32]>> {
    match cx.input(1) {
        Some(w) if w.ty.dtype == kinglet_graph::DType::F32 => constant(cx, 1),
        _ => Ok(None),
    }
}

struct FloatConv {
    packed: PackedConv,
    finish: Finish,
    /// Of output, over the whole batch.
    lines: usize,
    cut: GridCut,
    scratch: PerWorker,
}

impl Kernel for FloatConv {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let conv = ConvF32 { packed: &self.packed, epilogue: self.finish.epilogue(io.inputs)? };
        let input = io.input(0)?;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        let (pool, planned) = (io.pool, SharedMut::new(&mut *io.scratch));
        io.pool.run(self.cut.tasks(), |task, worker| {
            let (rows, panels) = self.cut.part(task);
            // SAFETY: every task has its own rows and panels, every worker its own scratch.
            unsafe {
                let scratch = self.scratch.of(pool, planned, worker);
                conv.run(rows, panels, input, out, scratch);
            }
        });
        Ok(())
    }

    fn banded(&self) -> Option<&dyn Banded> {
        self.packed.is_pointwise().then_some(self)
    }

    fn describe(&self) -> String {
        format!("conv {}", self.packed.isa().name())
    }

    fn why(&self) -> &'static str {
        match self.packed.is_pointwise() {
            true => "a product of matrices: windows of one pixel are read in place",
            false => "a product of matrices: windows are gathered a few at a time",
        }
    }
}

impl Banded for FloatConv {
    fn shape(&self) -> BandShape {
        let output = self.packed.shape().output;
        BandShape {
            lines: self.lines,
            line_bytes: output.width * output.channels * size_of::<f32>(),
            scratch: self.packed.scratch_bytes(),
            pointwise: true,
        }
    }

    fn lines_read(&self, lines: Range<usize>) -> Range<usize> {
        lines
    }

    fn run_band(&self, band: Band<'_>) -> OpResult {
        let ConvShape { input: image, output, .. } = self.packed.shape();
        let mut epilogue = self.finish.epilogue(band.inputs)?;
        if let Some(residual) = &mut epilogue.residual {
            residual.data = &residual.data[band.lines.start * output.width * output.channels..];
        }
        let first = (band.lines.start - band.input.first) * image.width * image.channels;
        let input = &floats(band.input.data)?[first..];
        let out = SharedMut::new(floats_mut(band.out)?);
        let rows = 0..band.lines.len() * output.width;
        let conv = ConvF32 { packed: &self.packed, epilogue };
        // SAFETY: the output is ours alone.
        unsafe { conv.run(rows, 0..self.packed.panels(), input, out, band.scratch) };
        Ok(())
    }
}

struct FloatWinograd {
    packed: PackedWinograd,
    finish: Finish,
    /// Of the tiles.
    cut: Cut,
    scratch: PerWorker,
}

impl Kernel for FloatWinograd {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let conv = WinogradF32 { packed: &self.packed, epilogue: self.finish.epilogue(io.inputs)? };
        let input = io.input(0)?;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        let (pool, planned) = (io.pool, SharedMut::new(&mut *io.scratch));
        io.pool.run(self.cut.tasks, |task, worker| {
            // SAFETY: every task has its own tiles, every worker its own scratch.
            unsafe {
                let scratch = self.scratch.of(pool, planned, worker);
                conv.run(self.cut.part(task), input, out, scratch);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("winograd conv {}", self.packed.isa().name())
    }

    fn why(&self) -> &'static str {
        "3 × 3 windows of as many channels as this way is faster from: 16 products for four pixels, not 36"
    }
}

struct FloatDepthwise {
    packed: PackedDepthwise,
    finish: Finish,
    lines: usize,
    /// Whether threads share the channel blocks, and not the lines.
    by_blocks: bool,
    cut: Cut,
}

impl Kernel for FloatDepthwise {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let conv =
            DepthwiseF32 { packed: &self.packed, epilogue: self.finish.epilogue(io.inputs)? };
        let input = io.input(0)?;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        io.pool.run(self.cut.tasks, |task, _| {
            let part = self.cut.part(task);
            let (lines, blocks) = match self.by_blocks {
                true => (0..self.lines, part),
                false => (part, 0..self.packed.blocks()),
            };
            // SAFETY: every task has its own lines or blocks.
            unsafe { conv.run(lines, blocks, Lines::all(input), Lines::all(out)) };
        });
        Ok(())
    }

    fn banded(&self) -> Option<&dyn Banded> {
        (!self.finish.residual).then_some(self)
    }

    fn describe(&self) -> String {
        format!("depthwise {}", self.packed.isa().name())
    }

    fn why(&self) -> &'static str {
        match self.by_blocks {
            true => "each channel by itself; few lines, so threads share channels",
            false => "each channel by itself; threads share lines",
        }
    }
}

impl Banded for FloatDepthwise {
    fn shape(&self) -> BandShape {
        let output = self.packed.shape().output;
        BandShape {
            lines: self.lines,
            line_bytes: output.width * output.channels * size_of::<f32>(),
            scratch: 0,
            pointwise: false,
        }
    }

    fn lines_read(&self, lines: Range<usize>) -> Range<usize> {
        self.packed.lines_read(lines)
    }

    fn run_band(&self, band: Band<'_>) -> OpResult {
        let epilogue = self.finish.epilogue(band.inputs)?;
        let conv = DepthwiseF32 { packed: &self.packed, epilogue };
        let input = Lines { data: floats(band.input.data)?, first: band.input.first };
        let out = SharedMut::new(floats_mut(band.out)?);
        let out = Lines { data: out, first: band.lines.start };
        // SAFETY: the output is ours alone.
        unsafe { conv.run(band.lines, 0..self.packed.blocks(), input, out) };
        Ok(())
    }
}

/// Bytes of a band as the floats that they are.
fn floats(bytes: &[u8]) -> OpResult<&[f32]> {
    bytemuck::try_cast_slice(bytes).map_err(|e| OpError::new(format!("a band of floats: {e}")))
}

fn floats_mut(bytes: &mut [u8]) -> OpResult<&mut [f32]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|e| OpError::new(format!("a band of floats: {e}")))
}

fn transposed(cx: &LowerCx<'_>, op: &ConvTranspose) -> OpResult<Option<Lowered>> {
    let (Some(x), Some(w), Some(weights)) = (cx.input(0), cx.input(1), constant_weights(cx)?)
    else {
        return Ok(None);
    };
    if !is_f32(cx, 3) || op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x, w) = (cx.dims(x)?, cx.dims(w)?);
    let (_, _, spatial) = op.layout.split(&cx.dims(cx.output(0))?)?;
    let dims = op.dims(&x, &w, &spatial, cx.input(3).is_some())?;
    // The windows are those of the convolution back: its input is this op's output.
    let (Some((window, output, input)), Some(activation)) =
        (geometry(&dims.windows, dims.out_channels, dims.in_channels), activation(op.activation))
    else {
        return Ok(None);
    };
    let shape = ConvShape { input, output, window, groups: op.groups };
    let strides = weight_strides(op.weight_layout, &w)?;
    let group_stride = dims.in_channels / op.groups.max(1) * strides.input;
    let (finish, mut absorbed) = Finish::new(cx, activation, false, dims.out_channels)?;
    absorbed.extend(cx.constant(3).map(|_| 3));
    if let Some((shape, weights, strides)) = turned(shape, weights, strides, group_stride) {
        let weights = (weights.as_slice(), strides);
        return Ok(Some(packed(cx, shape, dims.batch, weights, (finish, absorbed))));
    }
    if op.groups > 1 && op.groups == dims.in_channels && op.groups == dims.out_channels {
        // Nothing that the training kernel would not do as well, as it packs a few taps.
        return Ok(None);
    }
    let packed = PackedConvTransposed::new(cx.isa, shape, weights, strides, group_stride);
    let taps = window.kernel[0] * window.kernel[1];
    let work = dims.batch * input.len() * taps * (dims.out_channels / op.groups.max(1));
    let cut = Cut::new(dims.batch * output.height, 1, work, cx.threads);
    let (bytes, scratch) = (packed.bytes(), PerWorker::new(packed.scratch_bytes()));
    let kernel = FloatConvTransposed { isa: cx.isa, packed, finish, cut, scratch };
    let lowered = Lowered::new(kernel).with_absorbed(&absorbed, bytes);
    Ok(Some(lowered.with_scratch(scratch.planned(cx.threads))))
}

struct FloatConvTransposed {
    isa: Isa,
    packed: PackedConvTransposed,
    finish: Finish,
    cut: Cut,
    scratch: PerWorker,
}

impl Kernel for FloatConvTransposed {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let epilogue = self.finish.epilogue(io.inputs)?;
        let conv = ConvTransposedF32 { packed: &self.packed, epilogue };
        let input = io.input(0)?;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        let (pool, planned) = (io.pool, SharedMut::new(&mut *io.scratch));
        io.pool.run(self.cut.tasks, |task, worker| {
            // SAFETY: every task has its own lines, every worker its own scratch.
            unsafe {
                let scratch = self.scratch.of(pool, planned, worker);
                conv.run(self.cut.part(task), input, out, scratch);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("transposed conv {}", self.isa.name())
    }
}
