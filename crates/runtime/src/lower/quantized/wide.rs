//! Convolutions and matrix products of 16-bit activations with constant 8-bit weights.

use super::conv::{arranged, permuted, shape};
use super::{part, tasks};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::scratch::PerWorker;
use kinglet_graph::ops::conv::conv_dims;
use kinglet_graph::ops::quantized::{Clamp, Factors, QConv, QMatMul};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::qconv::ConvShape;
use kinglet_kernels::qconv16::QConv16;
use kinglet_kernels::shared::SharedMut;

/// [`QConv`] over one or two spatial dimensions, channels last.
pub(super) fn lower_conv(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QConv>() else { return Ok(None) };
    let Some(parts) = Parts::of(cx)? else { return Ok(None) };
    let (Some(x), Some(w)) = (cx.input(0), cx.input(1)) else { return Ok(None) };
    if op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x_dims, w_dims) = (cx.dims(x)?, cx.dims(w)?);
    let dims = conv_dims(&op.window, op.groups, (op.layout, op.weight_layout), &x_dims, &w_dims)?;
    let Some(shape) =
        shape(&dims.windows, dims.batch, dims.in_channels, dims.out_channels, op.groups)
    else {
        return Ok(None);
    };
    let (Some(x), Some(w), Some(y)) = (&x.ty.quant, &w.ty.quant, &cx.output(0).ty.quant) else {
        return Ok(None);
    };
    let position: Vec<usize> = (0..w_dims.len()).collect();
    let (channel_axis, ..) = op.weight_layout.split(&position)?;
    if w.scale.len() > 1 && w.axis != Some(channel_axis) {
        return Ok(None);
    }
    let factors = op.factors(DType::I16, x, w, y)?;
    let data = arranged(parts.weights, op.weight_layout, &w_dims, [0, 2, 3, 1])?;
    parts.lowered(cx, &shape, bytemuck::cast_slice(&data), factors, op.clamp)
}

/// [`QMatMul`] by weights of two dimensions.
pub(super) fn lower_matmul(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QMatMul>() else { return Ok(None) };
    let Some(parts) = Parts::of(cx)? else { return Ok(None) };
    let (Some(a), Some(b)) = (cx.input(0), cx.input(1)) else { return Ok(None) };
    let (a_dims, b_dims) = (cx.dims(a)?, cx.dims(b)?);
    let (Some((&depth, lead)), &[b_rows, b_columns]) = (a_dims.split_last(), b_dims.as_slice())
    else {
        return Ok(None);
    };
    let columns = if op.transpose_b { b_rows } else { b_columns };
    if op.transpose_a || depth * columns != b_rows * b_columns || depth * columns == 0 {
        return Ok(None);
    }
    let (Some(a), Some(b), Some(y)) = (&a.ty.quant, &b.ty.quant, &cx.output(0).ty.quant) else {
        return Ok(None);
    };
    if b.scale.len() > 1 && b.axis != Some(usize::from(!op.transpose_b)) {
        return Ok(None);
    }
    let factors = op.factors(a, b, y)?;
    let order = if op.transpose_b { [0, 1] } else { [1, 0] };
    let data = permuted(parts.weights, &b_dims, &order);
    let shape = ConvShape::matrix(lead.iter().product(), depth, columns);
    parts.lowered(cx, &shape, bytemuck::cast_slice(&data), factors, op.clamp)
}

/// What both kinds of product need of a node.
struct Parts<'a> {
    weights: &'a [u8],
    bias: Vec<i64>,
    /// The sums wrap to 32 bits, as the bias has.
    narrow: bool,
    zero_point: i32,
}

impl<'a> Parts<'a> {
    fn of(cx: &LowerCx<'a>) -> OpResult<Option<Parts<'a>>> {
        let (Some(x), Some(w), y) = (cx.input(0), cx.input(1), cx.output(0)) else {
            return Ok(None);
        };
        let Some(weights) = cx.constant(1) else { return Ok(None) };
        let (bias, narrow) = match (cx.input(2), cx.constant(2)) {
            (None, _) => (Vec::new(), false),
            (Some(_), Some(bias)) if [DType::I32, DType::I64].contains(&bias.dtype) => {
                (bias.ints()?, bias.dtype == DType::I32)
            }
            _ => return Ok(None),
        };
        let centred = |q: Option<&kinglet_graph::Quant>| {
            q.is_some_and(|q| q.zero_point.iter().all(|zero| *zero == 0))
        };
        let types = [x.ty.dtype, weights.dtype, y.ty.dtype];
        let Some((_, zero_point)) = y.ty.quant.as_ref().and_then(|q| q.single()) else {
            return Ok(None);
        };
        let fits = types == [DType::I16, DType::I8, DType::I16]
            && centred(x.ty.quant.as_deref())
            && centred(w.ty.quant.as_deref());
        Ok(fits.then_some(Parts { weights: weights.bytes, bias, narrow, zero_point }))
    }

    fn lowered(
        self,
        cx: &LowerCx<'_>,
        shape: &ConvShape,
        weights: &[i8],
        factors: Factors,
        clamp: Clamp,
    ) -> OpResult<Option<Lowered>> {
        if shape.input_len() * shape.output_len() == 0
            || !(self.bias.is_empty() || self.bias.len() == shape.out_channels)
        {
            return Ok(None);
        }
        let conv = QConv16::new(cx.isa, shape, weights);
        let (sums, patch) = conv.scratch();
        let scratch = PerWorker::new(8 * sums + 2 * patch);
        let cost = shape.output_len().saturating_mul(2 * shape.depth());
        let tasks = tasks(shape.rows(), cost, cx.threads);
        let (Parts { bias, narrow, zero_point, .. }, packed) = (self, conv.packed_bytes());
        let absorbed: &[usize] = if cx.input(2).is_some() { &[1, 2] } else { &[1] };
        let planned = scratch.planned(if tasks <= 1 { 1 } else { cx.threads });
        let clamp = Clamp { low: clamp.low.max(-32768), high: clamp.high.min(32767) };
        let wide = Wide { conv, bias, narrow, factors, zero_point, clamp, scratch, tasks };
        Ok(Some(Lowered::new(wide).with_scratch(planned).with_absorbed(absorbed, packed)))
    }
}

struct Wide {
    conv: QConv16,
    /// One for each output channel, or empty.
    bias: Vec<i64>,
    narrow: bool,
    factors: Factors,
    zero_point: i32,
    clamp: Clamp,
    scratch: PerWorker,
    tasks: usize,
}

impl Wide {
    fn finish(&self, channel: usize, sum: i64) -> i16 {
        let sum = sum.wrapping_add(self.bias.get(channel).copied().unwrap_or(0));
        let value = match self.narrow {
            true => self.factors.apply(channel, sum as i32),
            false => self.factors.apply_i64(channel, sum),
        };
        self.clamp.apply(value.saturating_add(self.zero_point)) as i16
    }
}

impl Kernel for Wide {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = io.input::<i16>(0)?;
        let planned = SharedMut::new(&mut *io.scratch);
        let out = SharedMut::new(io.outputs[0].slice_mut::<i16>()?);
        let (pool, (channels, patch)) = (io.pool, self.conv.scratch());
        if out.len() != self.conv.rows() * channels {
            return Err(OpError::new("its output is not of the size planned"));
        }
        pool.run(self.tasks, |i, worker| {
            // SAFETY: each worker has its own scratch.
            let scratch = unsafe { self.scratch.of(pool, planned, worker) };
            let (sums, rest) = scratch.split_at_mut(8 * channels);
            let scratch = (
                bytemuck::cast_slice_mut::<u8, i64>(sums),
                bytemuck::cast_slice_mut::<u8, i16>(&mut rest[..2 * patch]),
            );
            let rows = part(self.conv.rows(), self.tasks, i);
            self.conv.run(rows, input, scratch, |row, sums| {
                // SAFETY: each task has its own rows of the output.
                let out = unsafe { out.slice(row * channels..(row + 1) * channels) };
                for (c, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                    *out = self.finish(c, *sum);
                }
            });
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "qconv of 16 bits".into()
    }
}
