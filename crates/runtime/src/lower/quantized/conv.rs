//! Convolutions, depthwise ones and matrix products with constant weights.

use super::{binary, byte, byte_output, byte_value, bytes_of, input_bytes, part, rescale, tasks};
use crate::bands::{Band, BandShape, Banded};
use crate::kernel::{Io, Kernel, Lowered, OutView};
use crate::lower::LowerCx;
use crate::scratch::PerWorker;
use kinglet_graph::ops::conv::conv_dims;
use kinglet_graph::ops::quantized::{Clamp, Factors, QConv, QConvAdd, QMatMul};
use kinglet_graph::ops::window::{AxisWindow, Layout, WeightLayout};
use kinglet_graph::{DType, OpError, OpResult, Quant, ValueType};
use kinglet_kernels::qbinary::ByteArithmetic;
use kinglet_kernels::qconv::{ConvShape, PackedQConv, QOutput, QWeights, Residual};
use kinglet_kernels::qdepthwise::PackedQDepthwise;
use kinglet_kernels::requant::Byte;
use kinglet_kernels::shared::SharedMut;
use kinglet_kernels::window::Lines;
use std::borrow::Cow;
use std::ops::Range;

/// [`QConv`] and [`QConvAdd`] over one or two spatial dimensions, channels last.
pub(super) fn lower_conv(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if let Some(op) = cx.op::<QConvAdd>() {
        // What the convolution gives before the sum.
        let product = ValueType {
            dtype: op.conv.to,
            shape: cx.output(0).ty.shape.clone(),
            quant: Some(op.product.clone()),
        };
        return match sum(cx, op, &product)? {
            Some(sum) => conv(cx, &op.conv, &product, Some(sum)),
            None => Ok(None),
        };
    }
    match cx.op::<QConv>() {
        Some(op) => conv(cx, op, &cx.output(0).ty, None),
        None => Ok(None),
    }
}

/// The sum of `op`'s `product` and its residual.
fn sum(cx: &LowerCx<'_>, op: &QConvAdd, product: &ValueType) -> OpResult<Option<ByteArithmetic>> {
    let (Some(residual), y) = (cx.input(3), &cx.output(0).ty) else { return Ok(None) };
    let (Some(a), Some(b)) = (byte_value(product), byte_value(&residual.ty)) else {
        return Ok(None);
    };
    let (Some((_, scale, _)), Some(output)) = (byte_value(y), byte_output(y, op.sum.clamp)) else {
        return Ok(None);
    };
    binary::bytes(cx.isa, &op.sum, [a, b], (scale, output))
}

/// A convolution to `y`, to which `sum` adds input 3.
fn conv(
    cx: &LowerCx<'_>,
    op: &QConv,
    y: &ValueType,
    sum: Option<ByteArithmetic>,
) -> OpResult<Option<Lowered>> {
    let (Some(x), Some(w)) = (cx.input(0), cx.input(1)) else { return Ok(None) };
    let Some(weights) = Weights::of(cx)? else { return Ok(None) };
    let Some((x_kind, _, x_zero)) = byte_value(&x.ty) else { return Ok(None) };
    let (Some(x_quant), Some(w_quant), Some(y_quant)) = (&x.ty.quant, &w.ty.quant, &y.quant) else {
        return Ok(None);
    };
    if op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x_dims, w_dims) = (cx.dims(x)?, cx.dims(w)?);
    let position: Vec<usize> = (0..w_dims.len()).collect();
    let (channel_axis, ..) = op.weight_layout.split(&position)?;
    let dims = conv_dims(&op.window, op.groups, (op.layout, op.weight_layout), &x_dims, &w_dims)?;
    let Some(shape) =
        shape(&dims.windows, dims.batch, dims.in_channels, dims.out_channels, op.groups)
    else {
        return Ok(None);
    };
    let factors = op.factors(x.ty.dtype, x_quant, w_quant, y_quant)?;
    let Some(output) = output(y, factors, op.clamp) else { return Ok(None) };
    if !weights.fit(w_quant, channel_axis, dims.out_channels) {
        return Ok(None);
    }
    let depthwise = op.groups == dims.in_channels && op.groups > 1;
    if depthwise && sum.is_some() {
        return Ok(None);
    }
    // Depthwise weights lie kernel, then channels; others channels, kernel, input channels.
    let data = if depthwise {
        arranged(weights.data, op.weight_layout, &w_dims, [2, 3, 0, 1])?
    } else {
        arranged(weights.data, op.weight_layout, &w_dims, [0, 2, 3, 1])?
    };
    let weights = QWeights {
        data: &data,
        kind: weights.kind,
        zero_points: &w_quant.zero_point,
        bias: &weights.bias,
    };
    let product = Product { x: (x_kind, x_zero), weights, output };
    Ok(Some(if depthwise { product.depthwise(cx, &shape) } else { product.conv(cx, &shape, sum) }))
}

/// [`QMatMul`] by constant weights of two dimensions.
pub(super) fn lower_matmul(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QMatMul>() else { return Ok(None) };
    let (Some(a), Some(b), y) = (cx.input(0), cx.input(1), cx.output(0)) else { return Ok(None) };
    let Some(weights) = Weights::of(cx)? else { return Ok(None) };
    let Some((a_kind, _, a_zero)) = byte_value(&a.ty) else { return Ok(None) };
    let (Some(a_quant), Some(b_quant), Some(y_quant)) = (&a.ty.quant, &b.ty.quant, &y.ty.quant)
    else {
        return Ok(None);
    };
    let (a_dims, b_dims) = (cx.dims(a)?, cx.dims(b)?);
    let &[b_rows, b_columns] = b_dims.as_slice() else { return Ok(None) };
    let Some((&depth, lead)) = a_dims.split_last() else { return Ok(None) };
    let columns = if op.transpose_b { b_rows } else { b_columns };
    if op.transpose_a || depth * columns != b_rows * b_columns || depth == 0 || columns == 0 {
        return Ok(None);
    }
    let factors = op.factors(a_quant, b_quant, y_quant)?;
    let Some(output) = output(&y.ty, factors, op.clamp) else { return Ok(None) };
    if !weights.fit(b_quant, if op.transpose_b { 0 } else { 1 }, columns) {
        return Ok(None);
    }
    let order = if op.transpose_b { [0, 1] } else { [1, 0] };
    let data = permuted(weights.data, &b_dims, &order);
    let weights = QWeights {
        data: &data,
        kind: weights.kind,
        zero_points: &b_quant.zero_point,
        bias: &weights.bias,
    };
    let shape = ConvShape::matrix(lead.iter().product(), depth, columns);
    Ok(Some(Product { x: (a_kind, a_zero), weights, output }.conv(cx, &shape, None)))
}

/// What the kernels write: bytes, or the accumulators where these are the output.
fn output(y: &ValueType, factors: Factors, clamp: Clamp) -> Option<QOutput> {
    let whole = Clamp { low: i32::MIN, high: i32::MAX };
    match factors {
        Factors::None if y.dtype == DType::I32 && clamp == whole => {
            (y.quant.as_ref()?.single()?.1 == 0).then_some(QOutput::Accumulators)
        }
        factors => Some(QOutput::Bytes(rescale(factors)?, byte_output(y, clamp)?)),
    }
}

/// Constant 8-bit weights and a constant 32-bit bias.
struct Weights<'a> {
    data: &'a [u8],
    kind: Byte,
    bias: Vec<i32>,
}

impl<'a> Weights<'a> {
    fn of(cx: &LowerCx<'a>) -> OpResult<Option<Weights<'a>>> {
        let Some(view) = cx.constant(1) else { return Ok(None) };
        let Some(kind) = byte(view.dtype) else { return Ok(None) };
        let bias = match (cx.input(2), cx.constant(2)) {
            (None, _) => Vec::new(),
            (Some(_), Some(bias)) if bias.dtype == DType::I32 => bias.slice::<i32>()?.to_vec(),
            _ => return Ok(None),
        };
        Ok(Some(Weights { data: view.bytes, kind, bias }))
    }

    /// Whether the bias and the quantisation are of `channels` output channels along `axis`, and
    /// zero points are values of the type; the reference implementation says what is wrong.
    fn fit(&self, quant: &Quant, axis: usize, channels: usize) -> bool {
        let (low, high) = self.kind.limits();
        let one_or_each = |len: usize| len == 1 || len == channels && quant.axis == Some(axis);
        (self.bias.is_empty() || self.bias.len() == channels)
            && one_or_each(quant.scale.len())
            && one_or_each(quant.zero_point.len())
            && quant.zero_point.iter().all(|zero| (low..=high).contains(zero))
    }
}

/// Weights in the order of dimensions `order`, whose elements stand for output channels
/// (0), input channels (1), kernel rows (2) and kernel columns (3).
pub(super) fn arranged<'a>(
    data: &'a [u8],
    layout: WeightLayout,
    dims: &[usize],
    order: [usize; 4],
) -> OpResult<Cow<'a, [u8]>> {
    // What each dimension stands for: labels ride along with `split`.
    let spatial: &[usize] = if dims.len() == 3 { &[3] } else { &[2, 3] };
    let position: Vec<usize> = (0..dims.len()).collect();
    let (out, input, places) = layout.split(&position)?;
    let mut axis_of = [None; 4];
    axis_of[0] = Some(out);
    axis_of[1] = Some(input);
    for (label, place) in spatial.iter().zip(places) {
        axis_of[*label] = Some(place);
    }
    let order: Vec<usize> = order.iter().filter_map(|label| axis_of[*label]).collect();
    if order.len() != dims.len() {
        return Err(OpError::new("weights of a convolution have one or two kernel sizes"));
    }
    Ok(permuted(data, dims, &order))
}

/// Bytes of a tensor of `dims` with its dimensions in another order.
pub(super) fn permuted<'a>(data: &'a [u8], dims: &[usize], order: &[usize]) -> Cow<'a, [u8]> {
    // Dimensions of one element lie anywhere.
    let long: Vec<usize> = order.iter().copied().filter(|axis| dims[*axis] != 1).collect();
    if long.is_sorted() {
        return Cow::Borrowed(data);
    }
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; dims.len()];
    for _ in 0..data.len() {
        let at: usize = order.iter().zip(&index).map(|(axis, i)| strides[*axis] * i).sum();
        out.push(data[at]);
        for place in (0..order.len()).rev() {
            index[place] += 1;
            if index[place] < dims[order[place]] {
                break;
            }
            index[place] = 0;
        }
    }
    Cow::Owned(out)
}

/// The kernels' geometry; one spatial dimension is an image of one row.
pub(super) fn shape(
    windows: &[AxisWindow],
    batch: usize,
    in_channels: usize,
    out_channels: usize,
    groups: usize,
) -> Option<ConvShape> {
    let one = AxisWindow {
        input: 1,
        kernel: 1,
        stride: 1,
        dilation: 1,
        pad_before: 0,
        pad_after: 0,
        output: 1,
    };
    let [rows, columns] = match windows {
        [columns] => [one, *columns],
        [rows, columns] => [*rows, *columns],
        _ => return None,
    };
    let both = |f: fn(&AxisWindow) -> usize| [f(&rows), f(&columns)];
    Some(ConvShape {
        batch,
        input: both(|w| w.input),
        in_channels,
        output: both(|w| w.output),
        out_channels,
        kernel: both(|w| w.kernel),
        stride: both(|w| w.stride),
        dilation: both(|w| w.dilation),
        pad: both(|w| w.pad_before),
        groups,
    })
}

/// What packing needs besides the geometry.
struct Product<'a> {
    x: (Byte, i32),
    weights: QWeights<'a>,
    output: QOutput,
}

impl Product<'_> {
    fn conv(self, cx: &LowerCx<'_>, shape: &ConvShape, sum: Option<ByteArithmetic>) -> Lowered {
        let packed = PackedQConv::new(cx.isa, shape, self.x, &self.weights, &self.output);
        let scratch = PerWorker::new(packed.scratch_bytes());
        let cost = shape.output_len().saturating_mul(shape.depth());
        let tasks = tasks(shape.rows().max(packed.panels()), cost, cx.threads);
        // Weights that outweigh the input are read by one thread only: each takes some columns.
        let by_panels = packed.panels() >= 6 * cx.threads
            && self.weights.data.len() > shape.input_len().max(64 << 10)
            || shape.rows() < cx.threads;
        let units = if by_panels { packed.panels() } else { shape.rows() };
        let workers = workers(tasks.min(units), cx.threads);
        let (name, bytes) = (cx.isa.name(), packed.packed_bytes());
        Lowered::new(Conv { packed, sum, scratch, tasks, by_panels, name })
            .with_scratch(scratch.planned(workers))
            .with_absorbed(&[1, 2], bytes)
    }

    fn depthwise(self, cx: &LowerCx<'_>, shape: &ConvShape) -> Lowered {
        let packed = PackedQDepthwise::new(cx.isa, shape, self.x, &self.weights, &self.output);
        let scratch = PerWorker::new(packed.scratch_bytes());
        // A tap of a depthwise kernel costs several times one of a dense one.
        let cost = shape.output_len().saturating_mul(8 * shape.kernel[0] * shape.kernel[1]);
        let by_blocks = packed.blocks() >= packed.lines();
        let tasks = tasks(packed.lines().max(packed.blocks()), cost, cx.threads);
        let units = if by_blocks { packed.blocks() } else { packed.lines() };
        let workers = workers(tasks.min(units), cx.threads);
        let (name, bytes) = (cx.isa.name(), packed.packed_bytes());
        Lowered::new(Depthwise { packed, scratch, tasks, by_blocks, name })
            .with_scratch(scratch.planned(workers))
            .with_absorbed(&[1, 2], bytes)
    }
}

/// Workers that may take part: a lone task is the caller's, who is worker 0.
fn workers(tasks: usize, threads: usize) -> usize {
    if tasks <= 1 { 1 } else { threads }
}

/// The output, shared between tasks.
#[derive(Clone, Copy)]
enum Out<'a> {
    Bytes(SharedMut<'a, u8>),
    Accumulators(SharedMut<'a, i32>),
}

impl<'a> Out<'a> {
    fn of(output: &'a mut OutView<'_>) -> OpResult<Out<'a>> {
        Ok(match output.dtype {
            DType::I32 => Out::Accumulators(SharedMut::new(output.slice_mut()?)),
            _ => Out::Bytes(SharedMut::new(&mut *output.bytes)),
        })
    }
}

struct Conv {
    packed: PackedQConv,
    /// Adds input 3.
    sum: Option<ByteArithmetic>,
    scratch: PerWorker,
    tasks: usize,
    by_panels: bool,
    name: &'static str,
}

impl Kernel for Conv {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = input_bytes(io, 0)?;
        let residual = match &self.sum {
            Some(sum) => Some(Residual { sum, data: input_bytes(io, 3)? }),
            None => None,
        };
        let out = Out::of(&mut io.outputs[0])?;
        let planned = SharedMut::new(&mut *io.scratch);
        let (rows, panels) = (self.packed.rows(), self.packed.panels());
        let units = if self.by_panels { panels } else { rows };
        let tasks = self.tasks.min(units);
        let pool = io.pool;
        pool.run(tasks, |i, worker| {
            let mine = part(units, tasks, i);
            let (rows, panels) = if self.by_panels { (0..rows, mine) } else { (mine, 0..panels) };
            // SAFETY: each worker has its own scratch, each task its own part of the output.
            unsafe {
                let scratch = self.scratch.of(pool, planned, worker);
                match out {
                    Out::Bytes(out) => self.packed.run(rows, panels, input, residual, out, scratch),
                    Out::Accumulators(out) => {
                        self.packed.run_accumulators(rows, panels, input, out, scratch);
                    }
                }
            }
        });
        Ok(())
    }

    fn banded(&self) -> Option<&dyn Banded> {
        let whole = self.packed.shape().is_pointwise() && self.packed.makes_bytes();
        whole.then_some(self)
    }

    fn describe(&self) -> String {
        let sum = if self.sum.is_some() { " and sum" } else { "" };
        format!("qconv {}{sum}", self.name)
    }

    fn why(&self) -> &'static str {
        match (self.packed.reads_in_place(), self.by_panels) {
            (true, false) => "rows are read in place; threads share rows",
            (true, true) => "rows are read in place; weights outweigh them, so threads share these",
            (false, false) => {
                "lines of windows, or bytes of another sign, are copied; threads share rows"
            }
            (false, true) => {
                "lines of windows, or bytes of another sign, are copied; threads share weights, which outweigh them"
            }
        }
    }
}

impl Banded for Conv {
    fn shape(&self) -> BandShape {
        let shape = self.packed.shape();
        BandShape {
            lines: shape.batch * shape.output[0],
            line_bytes: shape.output[1] * shape.out_channels,
            scratch: self.packed.scratch_bytes(),
            pointwise: true,
        }
    }

    fn lines_read(&self, lines: Range<usize>) -> Range<usize> {
        lines
    }

    fn run_band(&self, band: Band<'_>) -> OpResult {
        let shape = self.packed.shape();
        let line = shape.output[1] * shape.in_channels;
        let first = band.lines.start - band.input.first;
        let input = &band.input.data[first * line..][..band.lines.len() * line];
        let residual = match &self.sum {
            Some(sum) => {
                let line = shape.output[1] * shape.out_channels;
                let data = bytes_of(band.inputs, 3)?;
                Some(Residual { sum, data: &data[band.lines.start * line..band.lines.end * line] })
            }
            None => None,
        };
        let (rows, panels) = (band.lines.len() * shape.output[1], self.packed.panels());
        let out = SharedMut::new(band.out);
        // SAFETY: the output is ours alone.
        unsafe { self.packed.run(0..rows, 0..panels, input, residual, out, band.scratch) };
        Ok(())
    }
}

struct Depthwise {
    packed: PackedQDepthwise,
    scratch: PerWorker,
    tasks: usize,
    by_blocks: bool,
    name: &'static str,
}

impl Kernel for Depthwise {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = input_bytes(io, 0)?;
        let out = Out::of(&mut io.outputs[0])?;
        let planned = SharedMut::new(&mut *io.scratch);
        let (lines, blocks) = (self.packed.lines(), self.packed.blocks());
        let units = if self.by_blocks { blocks } else { lines };
        let tasks = self.tasks.min(units);
        let pool = io.pool;
        pool.run(tasks, |i, worker| {
            let mine = part(units, tasks, i);
            let (lines, blocks) = if self.by_blocks { (0..lines, mine) } else { (mine, 0..blocks) };
            // SAFETY: as for `Conv`.
            unsafe {
                let scratch = self.scratch.of(pool, planned, worker);
                match out {
                    Out::Bytes(out) => {
                        let (input, out) = (Lines::all(input), Lines::all(out));
                        self.packed.run(lines, blocks, input, out, scratch);
                    }
                    Out::Accumulators(out) => {
                        self.packed.run_accumulators(lines, blocks, input, out, scratch);
                    }
                }
            }
        });
        Ok(())
    }

    fn banded(&self) -> Option<&dyn Banded> {
        self.packed.makes_bytes().then_some(self)
    }

    fn describe(&self) -> String {
        format!("qdepthwise {}", self.name)
    }

    fn why(&self) -> &'static str {
        match self.by_blocks {
            true => "each channel by itself; few lines, so threads share channels",
            false => "each channel by itself; threads share lines",
        }
    }
}

impl Banded for Depthwise {
    fn shape(&self) -> BandShape {
        let shape = self.packed.shape();
        BandShape {
            lines: self.packed.lines(),
            line_bytes: shape.output[1] * shape.out_channels,
            scratch: self.packed.scratch_bytes(),
            pointwise: false,
        }
    }

    fn lines_read(&self, lines: Range<usize>) -> Range<usize> {
        self.packed.lines_read(lines)
    }

    fn run_band(&self, band: Band<'_>) -> OpResult {
        let out = Lines { data: SharedMut::new(band.out), first: band.lines.start };
        let blocks = 0..self.packed.blocks();
        // SAFETY: the output is ours alone.
        unsafe { self.packed.run(band.lines, blocks, band.input, out, band.scratch) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permuted_reorders_dimensions() {
        let data = [0, 1, 2, 3, 4, 5];
        assert_eq!(*permuted(&data, &[2, 3], &[1, 0]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(*permuted(&data, &[1, 2, 3], &[0, 1, 2]), data);
        assert_eq!(*permuted(&data, &[3, 1, 2], &[2, 0, 1]), [0, 2, 4, 1, 3, 5]);
    }
}
