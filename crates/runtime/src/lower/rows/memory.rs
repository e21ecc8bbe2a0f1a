//! Memories that rows change one after the other. Threads share out channels or heads, which know
//! nothing of each other, and take all rows in order.

use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::{Cut, constant};
use kinglet_graph::ops::rows::{DeltaRule, RowConv, SelectiveScan};
use kinglet_graph::{OpError, OpResult, StateMut};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::row_memory::{ConvRow, DeltaHead, ScanHead};
use kinglet_kernels::shared::SharedMut;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if cx.op::<RowConv>().is_some() {
        return conv(cx);
    }
    let (isa, out) = (cx.isa, cx.dims(cx.output(0))?);
    if out.contains(&0) {
        return Ok(None);
    }
    if let Some(op) = cx.op::<SelectiveScan>() {
        let work = 8 * out[0] * out[1] * op.keys;
        let cut = Cut::new(op.heads, 1, work, cx.threads);
        return Ok(Some(Lowered::new(Scan { isa, op: *op, cut })));
    }
    let Some(op) = cx.op::<DeltaRule>() else { return Ok(None) };
    let cut = Cut::new(op.heads, 1, 3 * out[0] * out[1] * op.key, cx.threads);
    Ok(Some(Lowered::new(Delta { isa, op: *op, cut })))
}

fn conv(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(weights), Some(w)) = (constant(cx, 1)?, cx.input(1)) else { return Ok(None) };
    let (w, out) = (cx.dims(w)?, cx.dims(cx.output(0))?);
    let (&[channels, width], &[n, _]) = (&w[..], &out[..]) else { return Ok(None) };
    if [channels, width, n].contains(&0) {
        return Ok(None);
    }
    let taps: Vec<f32> =
        (0..width).flat_map(|t| (0..channels).map(move |c| weights[c * width + t])).collect();
    let bytes = size_of_val(&taps[..]);
    let cut = Cut::new(channels, 16, n * channels * width, cx.threads);
    let kernel = Conv { isa: cx.isa, taps, channels, width, cut };
    Ok(Some(Lowered::new(kernel).with_absorbed(&[1], bytes)))
}

/// The state's sequences: how many, and what each holds, of the sizes `sizes`.
fn memories<'a>(
    state: Option<StateMut<'a>>,
    sizes: &[usize],
) -> OpResult<(usize, SharedMut<'a, f32>)> {
    let state = state.ok_or_else(|| OpError::new("its state is missing"))?;
    match *state.dims {
        [held, ref rest @ ..] if rest == sizes => Ok((held, SharedMut::new(state.into_slice()?))),
        ref other => Err(OpError::new(format!("a state of sizes {other:?}"))),
    }
}

/// For each row its sequence, or none for padding, and whether that starts; checked.
fn rows<'a>(
    io: &Io<'a>,
    at: usize,
    held: usize,
) -> OpResult<impl Iterator<Item = Option<(usize, bool)>> + Clone + use<'a>> {
    let (sequences, positions): (&[i32], &[i32]) = (io.input(at)?, io.input(at + 1)?);
    if let Some(sequence) = sequences.iter().find(|s| **s >= 0 && **s as usize >= held) {
        return Err(OpError::new(format!("sequence {sequence} of {held}")));
    }
    let row = |(s, p): (&i32, &i32)| usize::try_from(*s).ok().map(|s| (s, *p == 0));
    Ok(sequences.iter().zip(positions).map(row))
}

struct Conv {
    isa: Isa,
    /// [width, channels].
    taps: Vec<f32>,
    channels: usize,
    width: usize,
    cut: Cut,
}

impl Kernel for Conv {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Conv { isa, channels, width, .. } = *self;
        let before = width - 1;
        let (held, state) = memories(io.state.take(), &[before, channels])?;
        let rows = rows(io, 3, held)?;
        let x: &[f32] = io.input(0)?;
        let bias: &[f32] = match io.inputs.get(2).copied().flatten() {
            Some(bias) => bias.slice()?,
            None => &[],
        };
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        io.pool.run(self.cut.tasks, |task, _| {
            let part = self.cut.part(task);
            for (i, row) in rows.clone().enumerate() {
                let at = i * channels;
                // SAFETY: every task has its own channels of every row.
                let out = unsafe { out.slice(at + part.start..at + part.end) };
                let Some((sequence, starts)) = row else {
                    out.fill(0.0);
                    continue;
                };
                let line = |t: usize| {
                    let at = (sequence * before + t) * channels;
                    at + part.start..at + part.end
                };
                if starts {
                    // SAFETY: as above.
                    (0..before).for_each(|t| unsafe { state.slice(line(t)).fill(0.0) });
                }
                let row = ConvRow {
                    x: &x[at..][part.clone()],
                    past: state
                        .part(sequence * before * channels..(sequence + 1) * before * channels),
                    channel: part.start,
                    taps: &self.taps[part.start..],
                    stride: channels,
                    width,
                    bias: if bias.is_empty() { bias } else { &bias[part.clone()] },
                    out,
                };
                // SAFETY: as above.
                unsafe { row.run(isa) };
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("row convolution {}", self.isa.name())
    }
}

struct Scan {
    isa: Isa,
    op: SelectiveScan,
    cut: Cut,
}

impl Kernel for Scan {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let SelectiveScan { heads, size, keys, groups, .. } = self.op;
        let (held, state) = memories(io.state.take(), &[heads, size, keys])?;
        let rows = rows(io, 6, held)?;
        let (x, delta, a): (&[f32], &[f32], &[f32]) = (io.input(0)?, io.input(1)?, io.input(2)?);
        let (b, c, d): (&[f32], &[f32], &[f32]) = (io.input(3)?, io.input(4)?, io.input(5)?);
        let each = a.len() / heads;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        io.pool.run(self.cut.tasks, |task, _| {
            for (i, row) in rows.clone().enumerate() {
                for head in self.cut.part(task) {
                    let of_head = i * heads + head;
                    let at = of_head * size;
                    // SAFETY: every task has its own heads of every row and memory.
                    let out = unsafe { out.slice(at..at + size) };
                    let Some((sequence, starts)) = row else {
                        out.fill(0.0);
                        continue;
                    };
                    let memory = (sequence * heads + head) * size * keys;
                    // SAFETY: as above.
                    let memory = unsafe { state.slice(memory..memory + size * keys) };
                    if starts {
                        memory.fill(0.0);
                    }
                    let group = (i * groups + head / (heads / groups)) * keys;
                    let head = ScanHead {
                        x: &x[at..at + size],
                        delta: delta[of_head],
                        a: &a[head * each..][..each],
                        b: &b[group..group + keys],
                        c: &c[group..group + keys],
                        d: d[head],
                        memory,
                        out,
                    };
                    head.run(self.isa);
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("selective scan {}", self.isa.name())
    }
}

struct Delta {
    isa: Isa,
    op: DeltaRule,
    cut: Cut,
}

impl Kernel for Delta {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let DeltaRule { heads, key_heads, key, value, .. } = self.op;
        let (held, state) = memories(io.state.take(), &[heads, key, value])?;
        let rows = rows(io, 5, held)?;
        let (q, k, v): (&[f32], &[f32], &[f32]) = (io.input(0)?, io.input(1)?, io.input(2)?);
        let (gate, beta): (&[f32], &[f32]) = (io.input(3)?, io.input(4)?);
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        io.pool.run(self.cut.tasks, |task, _| {
            for (i, row) in rows.clone().enumerate() {
                for head in self.cut.part(task) {
                    let of_head = i * heads + head;
                    let at = of_head * value;
                    // SAFETY: every task has its own heads of every row and memory.
                    let out = unsafe { out.slice(at..at + value) };
                    let Some((sequence, starts)) = row else {
                        out.fill(0.0);
                        continue;
                    };
                    let memory = (sequence * heads + head) * key * value;
                    // SAFETY: as above.
                    let memory = unsafe { state.slice(memory..memory + key * value) };
                    if starts {
                        memory.fill(0.0);
                    }
                    let from = (i * key_heads + self.op.key_head(head)) * key;
                    let head = DeltaHead {
                        q: &q[from..from + key],
                        k: &k[from..from + key],
                        v: &v[at..at + value],
                        gate: gate[of_head],
                        beta: beta[of_head],
                        memory,
                        out,
                    };
                    head.run(self.isa);
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("delta rule {}", self.isa.name())
    }
}
