//! Batch normalisation by the batch's own statistics, and its gradient: channels last.

use super::LowerCx;
use super::float::{Cut, Parts, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::batch_norm::{BatchNormGradient, BatchNormTraining};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::batch_norm_f32::{Sums, combine};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::norm_f32::scale_and_shift;
use kinglet_kernels::shared::SharedMut;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (layout, epsilon, momentum) = if let Some(op) = cx.op::<BatchNormTraining>() {
        (op.layout, op.epsilon, Some(op.momentum))
    } else if let Some(op) = cx.op::<BatchNormGradient>() {
        (op.layout, op.epsilon, None)
    } else {
        return Ok(None);
    };
    let Some(x) = cx.input(0).filter(|_| is_f32(cx, 5)) else { return Ok(None) };
    let dims = cx.dims(x)?;
    let (len, channels) = (dims.iter().product::<usize>(), dims.last().copied().unwrap_or(0));
    if layout != Layout::ChannelsLast || len == 0 {
        return Ok(None);
    }
    let rows = len / channels;
    let batch =
        Batch { isa: cx.isa, epsilon, channels, rows, cut: Cut::new(rows, 1, len, cx.threads) };
    // Sums of each part, of all; means; and three factors.
    let floats = channels * (3 * (Parts::of(rows).count() + 1) + 4);
    let lowered = match momentum {
        Some(momentum) => Lowered::new(Forward { batch, momentum }),
        None => Lowered::new(Backward { batch }),
    };
    Ok(Some(lowered.with_scratch((floats * size_of::<f32>()).max(4096))))
}

struct Batch {
    isa: Isa,
    epsilon: f32,
    channels: usize,
    rows: usize,
    /// Over the rows.
    cut: Cut,
}

/// Scratch, by what it holds.
struct Room<'a> {
    of_parts: &'a mut [f32],
    sums: &'a mut [f32],
    mean: &'a mut [f32],
    factors: [&'a mut [f32]; 3],
}

impl Batch {
    fn carve<'a>(&self, scratch: &'a mut [u8]) -> OpResult<Room<'a>> {
        let scratch: &mut [f32] = bytemuck::try_cast_slice_mut(scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let c = self.channels;
        let (of_parts, rest) = scratch.split_at_mut(3 * c * Parts::of(self.rows).count());
        let (sums, rest) = rest.split_at_mut(3 * c);
        let (mean, rest) = rest.split_at_mut(c);
        let (a, rest) = rest.split_at_mut(c);
        let (b, rest) = rest.split_at_mut(c);
        Ok(Room { of_parts, sums, mean, factors: [a, b, &mut rest[..c]] })
    }

    /// Sums over all rows, in an order that the number of threads does not change.
    fn sum(&self, io: &Io<'_>, sums: Sums<'_>, x: &[f32], of_parts: &mut [f32], out: &mut [f32]) {
        let (c, len) = (self.channels, sums.count() * self.channels);
        let parts = Parts::of(self.rows);
        let shared = SharedMut::new(&mut *of_parts);
        io.pool.run(parts.count(), |part, _| {
            let rows = parts.part(part);
            // SAFETY: every part has its own sums.
            let to = unsafe { shared.slice(part * len..(part + 1) * len) };
            let range = rows.start * c..rows.end * c;
            let own = match sums {
                Sums::Gradient { mean, dy } => Sums::Gradient { mean, dy: &dy[range.clone()] },
                other => other,
            };
            own.run(self.isa, &x[range], c, to);
        });
        for (i, out) in out[..len].iter_mut().enumerate() {
            let of_parts = of_parts.iter().skip(i).step_by(len).take(parts.count());
            *out = of_parts.map(|sum| f64::from(*sum)).sum::<f64>() as f32;
        }
    }

    /// The means, from sums.
    fn means(&self, io: &Io<'_>, x: &[f32], room: &mut Room<'_>) {
        self.sum(io, Sums::Values, x, room.of_parts, room.sums);
        for (mean, sum) in room.mean.iter_mut().zip(&*room.sums) {
            *mean = sum / self.rows as f32;
        }
    }
}

struct Forward {
    batch: Batch,
    momentum: f32,
}

impl Kernel for Forward {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Batch { isa, epsilon, channels, rows, cut } = self.batch;
        let x: &[f32] = io.input(0)?;
        let (scale, bias): (&[f32], &[f32]) = (io.input(1)?, io.input(2)?);
        let scratch = std::mem::take(&mut io.scratch);
        let mut room = self.batch.carve(scratch)?;
        self.batch.means(io, x, &mut room);
        let Room { of_parts, sums, mean, factors: [by_x, shift, _] } = room;
        self.batch.sum(io, Sums::Squares { mean }, x, of_parts, sums);
        let variance = |c: usize| sums[c] / rows as f32;
        for c in 0..channels {
            by_x[c] = scale[c] / (variance(c) + epsilon).sqrt();
            shift[c] = bias[c] - mean[c] * by_x[c];
        }
        let keep = self.momentum;
        let (old_mean, old_variance): (&[f32], &[f32]) = (io.input(3)?, io.input(4)?);
        for (c, new) in io.output::<f32>(1)?.iter_mut().enumerate() {
            *new = old_mean[c] * keep + mean[c] * (1.0 - keep);
        }
        for (c, new) in io.output::<f32>(2)?.iter_mut().enumerate() {
            *new = old_variance[c] * keep + variance(c) * (1.0 - keep);
        }
        let (pool, piece) = (io.pool, cut.chunk() * channels);
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let x = &x[i * piece..][..out.len()];
            scale_and_shift(isa, x, by_x, shift, Unary::Identity, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("batch norm by the batch {}", self.batch.isa.name())
    }
}

struct Backward {
    batch: Batch,
}

impl Kernel for Backward {
    /// dx = a dy + b x + c, with factors for each channel.
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Batch { isa, epsilon, channels, rows, cut } = self.batch;
        let x: &[f32] = io.input(0)?;
        let (scale, dy): (&[f32], &[f32]) = (io.input(1)?, io.input(2)?);
        let scratch = std::mem::take(&mut io.scratch);
        let mut room = self.batch.carve(scratch)?;
        self.batch.means(io, x, &mut room);
        let Room { of_parts, sums, mean, factors: [by_x, by_dy, shift] } = room;
        self.batch.sum(io, Sums::Gradient { mean, dy }, x, of_parts, sums);
        let n = rows as f32;
        let (squares, rest) = sums.split_at(channels);
        let (of_dy, crossed) = rest.split_at(channels);
        let inverse = |c: usize| 1.0 / (squares[c] / n + epsilon).sqrt();
        for c in 0..channels {
            let inverse = inverse(c);
            by_dy[c] = scale[c] * inverse;
            by_x[c] = -by_dy[c] * crossed[c] / n * inverse * inverse;
            shift[c] = -by_dy[c] * of_dy[c] / n - by_x[c] * mean[c];
        }
        for (c, d) in io.output::<f32>(1)?.iter_mut().enumerate() {
            *d = crossed[c] * inverse(c);
        }
        io.output::<f32>(2)?.copy_from_slice(&of_dy[..channels]);
        let (pool, piece) = (io.pool, cut.chunk() * channels);
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let range = i * piece..i * piece + out.len();
            combine(isa, (&x[range.clone()], by_x), (&dy[range], by_dy), shift, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("gradient of batch norm {}", self.batch.isa.name())
    }
}
