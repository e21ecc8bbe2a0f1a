//! Resizing of 8-bit images as TensorFlow Lite's reference kernels round it.

use super::{byte, part, tasks};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use kinglet_graph::ops::resize::{Arithmetic, Interpolation, Resize};
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::qresize::{ResizeTap, resize_line};
use kinglet_kernels::requant::Byte;
use kinglet_kernels::shared::SharedMut;

/// Bilinear [`Resize`] in TFLite's arithmetic, of bytes to known sizes.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(op), Some(x), y) = (cx.op::<Resize>(), cx.input(0), cx.output(0)) else {
        return Ok(None);
    };
    let Some(kind) = byte(x.ty.dtype) else { return Ok(None) };
    let bilinear = op.arithmetic == Arithmetic::TfLite && op.interpolation == Interpolation::Linear;
    // Sizes that only running tells are the reference implementation's to check.
    let known = (1..4).all(|i| cx.input(i).is_none() || cx.constant(i).is_some());
    let (from, to) = (cx.dims(x)?, cx.dims(y)?);
    let (&[batch, height, width, channels], &[batch2, rows, columns, channels2]) =
        (from.as_slice(), to.as_slice())
    else {
        return Ok(None);
    };
    let fits = (batch, channels) == (batch2, channels2);
    let elements = batch * height * width * channels * rows * columns;
    if !bilinear || !known || !fits || elements == 0 {
        return Ok(None);
    }
    let (Some(down), Some(across)) =
        (taps(op, kind, height, rows)?, taps(op, kind, width, columns)?)
    else {
        return Ok(None);
    };
    let lines = batch * rows;
    let tasks = tasks(lines, lines * columns * channels * 20, cx.threads);
    let absorbed: Vec<usize> = (1..4).filter(|i| cx.constant(*i).is_some()).collect();
    let resize =
        QResize { isa: cx.isa, kind, rows: down, columns: across, height, width, channels, tasks };
    Ok(Some(Lowered::new(resize).with_absorbed(&absorbed, 0)))
}

/// Where the samples of a dimension lie; `None` where the kernel's numbers are too small for it.
fn taps(op: &Resize, kind: Byte, input: usize, output: usize) -> OpResult<Option<Vec<ResizeTap>>> {
    let mut taps = Vec::with_capacity(output);
    for i in 0..output {
        let tap = match kind {
            Byte::Signed => {
                let (low, high, distance) = op.tflite_tap_of_signed(input, output, i)?;
                if !(-2048..=2048).contains(&distance) {
                    return Ok(None);
                }
                ResizeTap { low, high, fixed: distance as i32, real: 0.0 }
            }
            Byte::Unsigned => {
                let (low, high, real) = op.tflite_tap(input, output, i)?;
                ResizeTap { low, high, fixed: 0, real }
            }
        };
        if tap.low >= input || tap.high >= input {
            return Ok(None);
        }
        taps.push(tap);
    }
    Ok(Some(taps))
}

struct QResize {
    isa: Isa,
    kind: Byte,
    rows: Vec<ResizeTap>,
    columns: Vec<ResizeTap>,
    height: usize,
    width: usize,
    channels: usize,
    tasks: usize,
}

impl Kernel for QResize {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Some(input) = io.inputs.first().copied().flatten() else {
            return Err(OpError::new("input 0 is missing"));
        };
        let (from, to) = (self.width * self.channels, self.columns.len() * self.channels);
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        let lines = out.len() / to;
        io.pool.run(self.tasks, |i, _| {
            for line in part(lines, self.tasks, i) {
                let (image, row) = (line / self.rows.len(), self.rows[line % self.rows.len()]);
                let source = |y: usize| &input.bytes[(image * self.height + y) * from..][..from];
                // SAFETY: each task has its own lines of the output.
                let out = unsafe { out.slice(line * to..(line + 1) * to) };
                let sources = [source(row.low), source(row.high)];
                resize_line(self.isa, self.kind, sources, row, &self.columns, self.channels, out);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("qresize {}", self.isa.name())
    }
}
