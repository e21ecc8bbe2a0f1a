//! Pools, means over pixels, softmax.

use super::{byte_output, byte_value, input_bytes, part, rescale, tasks};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use kinglet_graph::OpResult;
use kinglet_graph::ops::quantized::{
    Clamp, QPool, QPoolKind, QReduce, QReduceKind, QSoftmax, Rescale,
};
use kinglet_graph::ops::window::Layout;
use kinglet_kernels::qconv::ConvShape;
use kinglet_kernels::qpool::{self, QSpatialMean};
use kinglet_kernels::qsoftmax;
use kinglet_kernels::shared::SharedMut;

/// [`QPool`] over one or two spatial dimensions, channels last.
pub(super) fn lower_pool(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QPool>() else { return Ok(None) };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let Some((byte, ..)) = byte_value(&x.ty) else { return Ok(None) };
    let Some(output) = byte_output(&y.ty, op.clamp) else { return Ok(None) };
    let kind = match (op.kind, op.rescale) {
        (QPoolKind::Max, _) => qpool::QPoolKind::Max,
        (QPoolKind::Average, Rescale::Float) => return Ok(None),
        (QPoolKind::Average, _) => qpool::QPoolKind::Mean,
    };
    if op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let x_dims = cx.dims(x)?;
    let (batch, channels, spatial) = op.layout.split(&x_dims)?;
    let windows = op.window.resolve(&spatial, &op.kernel, false)?;
    let Some(shape) = super::conv::shape(&windows, batch, channels, channels, 1) else {
        return Ok(None);
    };
    let limits = (output.min, output.max);
    let Some(pool) = qpool::QPool::new(cx.isa, kind, &shape, byte, limits) else {
        return Ok(None);
    };
    let line = shape.output[1] * channels;
    let cost = shape.output_len().saturating_mul(4 * shape.kernel[0] * shape.kernel[1]);
    let tasks = tasks(pool.lines(), cost, cx.threads);
    Ok(Some(Lowered::new(Pool { pool, shape, line, tasks, name: cx.isa.name() })))
}

struct Pool {
    pool: qpool::QPool,
    shape: ConvShape,
    /// Bytes of a line of the output.
    line: usize,
    tasks: usize,
    name: &'static str,
}

impl Kernel for Pool {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = input_bytes(io, 0)?;
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        if self.shape.output_len() == 0 {
            return Ok(());
        }
        io.pool.run(self.tasks, |i, _| {
            let lines = part(self.pool.lines(), self.tasks, i);
            // SAFETY: each task has its own lines of the output.
            let out = unsafe { out.slice(lines.start * self.line..lines.end * self.line) };
            self.pool.run(lines, input, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("qpool {}", self.name)
    }
}

/// [`QReduce`] over neighbouring dimensions.
pub(super) fn lower_mean(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QReduce>().filter(|op| op.kind != QReduceKind::Product) else {
        return Ok(None);
    };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let (Some((byte, scale, zero)), Some((out_byte, out_scale, _))) =
        (byte_value(&x.ty), byte_value(&y.ty))
    else {
        return Ok(None);
    };
    let Some(output) = byte_output(&y.ty, Clamp::of(y.ty.dtype)?) else { return Ok(None) };
    let dims = cx.dims(x)?;
    let rank = dims.len() as i64;
    let mut axes: Vec<i64> = op.axes.iter().map(|a| if *a < 0 { a + rank } else { *a }).collect();
    axes.sort_unstable();
    let neighbours = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else { return Ok(None) };
    if !neighbours || first < 0 || last >= rank || byte != out_byte {
        return Ok(None);
    }
    let (first, last) = (first as usize, last as usize);
    let outer: usize = dims[..first].iter().product();
    let pixels: usize = dims[first..=last].iter().product();
    let channels: usize = dims[last + 1..].iter().product();
    let divisor = if op.kind == QReduceKind::Mean { pixels.max(1) } else { 1 };
    let Some(rescale) = rescale(op.factors(scale, out_scale, divisor)?) else { return Ok(None) };
    if outer * pixels * channels == 0 {
        return Ok(None);
    }
    let mean = QSpatialMean::new(cx.isa, pixels, channels, (byte, zero), &rescale, output);
    let Some(mean) = mean else { return Ok(None) };
    let tasks = tasks(outer, outer * pixels * channels * 4, cx.threads);
    let image = pixels * channels;
    Ok(Some(Lowered::new(Mean { mean, outer, image, channels, tasks, name: cx.isa.name() })))
}

struct Mean {
    mean: QSpatialMean,
    outer: usize,
    image: usize,
    channels: usize,
    tasks: usize,
    name: &'static str,
}

impl Kernel for Mean {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = input_bytes(io, 0)?;
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        io.pool.run(self.tasks, |i, _| {
            let images = part(self.outer, self.tasks, i);
            let input = &input[images.start * self.image..images.end * self.image];
            let range = images.start * self.channels..images.end * self.channels;
            // SAFETY: each task has its own part of the output.
            self.mean.run(input, unsafe { out.slice(range) });
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("qmean {}", self.name)
    }
}

/// [`QSoftmax`] in fixed point, of one 8-bit type.
pub(super) fn lower_softmax(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QSoftmax>() else { return Ok(None) };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let (Some((kind, scale, _)), Some((out_kind, ..))) = (byte_value(&x.ty), byte_value(&y.ty))
    else {
        return Ok(None);
    };
    if kind != out_kind || op.rescale != Rescale::FixedPoint {
        return Ok(None);
    }
    let dims = cx.dims(x)?;
    let depth = dims.last().copied().unwrap_or(1).max(1);
    let rows = dims.iter().product::<usize>() / depth;
    let Some(softmax) = qsoftmax::QSoftmax::new(kind, op.beta, scale) else { return Ok(None) };
    let tasks = tasks(rows, rows * depth * 100, cx.threads);
    Ok(Some(Lowered::new(Softmax { softmax, rows, depth, tasks })))
}

struct Softmax {
    softmax: qsoftmax::QSoftmax,
    rows: usize,
    depth: usize,
    tasks: usize,
}

impl Kernel for Softmax {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = input_bytes(io, 0)?;
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        io.pool.run(self.tasks, |i, _| {
            for row in part(self.rows, self.tasks, i) {
                let range = row * self.depth..(row + 1) * self.depth;
                // SAFETY: each task has its own rows of the output.
                let out = unsafe { out.slice(range.clone()) };
                self.softmax.run(&input[range], out);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "qsoftmax".into()
    }
}
