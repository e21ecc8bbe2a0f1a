//! The gradient of attention of rows.

use super::attention::{cells, chains, head, slopes, tables};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::{LowerCx, reference};
use crate::scratch::PerWorker;
use kinglet_graph::ops::rows::{RowAttention, RowAttentionGradient, RowTables};
use kinglet_graph::{Graph, OpError, OpResult, Runner, Tensor, TensorView};
use kinglet_kernels::gemm_f32::Rows;
use kinglet_kernels::rows_attention::gradient::{Chain, Place, Places};
use kinglet_kernels::rows_attention::{Biases, HeadAttention};
use kinglet_kernels::shared::SharedMut;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<RowAttentionGradient>() else { return Ok(None) };
    let RowAttention { heads, key, value, .. } = op.forward;
    let Ok(pages) = op.forward.pages(cx.graph.state(op.forward.state).ty.dtype) else {
        return Ok(None);
    };
    let n = cx.dims(cx.output(0))?[0];
    if n == 0 || heads == 0 || key == 0 || value == 0 || op.forward.window == Some(0) {
        return Ok(None);
    }
    let head = head(cx, &op.forward, pages);
    let sunk = match cx.input(SINKS) {
        Some(_) => (4 * n * heads).next_multiple_of(64),
        None => 0,
    };
    let kernel = AttentionGradient {
        op: *op,
        head,
        n,
        slopes: slopes(&op.forward),
        own: PerWorker::new(head.gradient_scratch(n)),
        starts: (4 * (n + 1)).next_multiple_of(64),
        sunk,
    };
    let scratch = kernel.starts + sunk + kernel.own.planned(cx.threads);
    // From 4096 bytes on scratch is aligned.
    Ok(Some(Lowered::new(kernel).with_scratch(scratch.max(4096))))
}

/// The input that holds sinks.
const SINKS: usize = 7;

struct AttentionGradient {
    op: RowAttentionGradient,
    head: HeadAttention,
    /// Rows of a step.
    n: usize,
    slopes: Vec<f32>,
    own: PerWorker,
    /// Bytes of the table of chains' first rows.
    starts: usize,
    /// Bytes of what each row gives to sinks.
    sunk: usize,
}

impl Kernel for AttentionGradient {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (op, head, n, pool) = (&self.op.forward, &self.head, self.n, io.pool);
        let RowAttention { heads, kv_heads, key, value, .. } = *op;
        let (q, dy): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let (rows, sinks) = tables(io, 2)?;
        if !begin_at_zero(&rows) {
            // Rows that go on with what a sequence holds, and trees.
            return reference::eval(&self.op, io, &NoGraphs);
        }
        let cells: &[u8] = cells(io, op, &rows)?;
        let (starts, rest) = io.scratch.split_at_mut(self.starts);
        let (sunk, planned) = rest.split_at_mut(self.sunk);
        let starts: &mut [i32] = bytemuck::try_cast_slice_mut(starts)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let sunk: &mut [f32] = bytemuck::try_cast_slice_mut(sunk)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let planned = SharedMut::new(planned);
        let count = chains(&rows, n, starts);
        let starts = &starts[..=count];
        let group = head.group;
        // Rows that are padding have none.
        let padding = || (0..n).filter(|i| rows.sequences[*i] < 0);
        let widths = [heads * key, kv_heads * key, kv_heads * value];
        let dense = if op.value_in_key { 2 } else { 3 };
        for (out, width) in io.outputs.iter_mut().zip(widths).take(dense) {
            let out = out.slice_mut::<f32>()?;
            padding().for_each(|i| out[i * width..(i + 1) * width].fill(0.0));
        }
        sunk.fill(0.0);
        let mut outputs = io.outputs.iter_mut();
        let mut next = || -> OpResult<SharedMut<'_, f32>> {
            let out = outputs.next().ok_or_else(|| OpError::new("an output is missing"))?;
            Ok(SharedMut::new(out.slice_mut()?))
        };
        let (dq, dk) = (next()?, next()?);
        let dv = if op.value_in_key { None } else { Some(next()?) };
        let d_sinks = if sinks.is_empty() { None } else { Some(next()?) };
        let shared_sunk = SharedMut::new(&mut *sunk);
        pool.run(count * kv_heads, |task, worker| {
            let (chain, kv) = (task / kv_heads, task % kv_heads);
            let (first, end) = (starts[chain] as usize, starts[chain + 1] as usize);
            if rows.sequences[first] < 0 {
                return;
            }
            // Where a table of `heads` heads of `each` elements has this task's, and its stride.
            let place = |heads: usize, each: usize| {
                ((first * heads + kv * (heads / kv_heads)) * each, heads * each)
            };
            let ((start_q, stride_q), (start_y, stride_y)) =
                (place(heads, key), place(heads, value));
            let of_group = |all: &'_ [f32]| match all.is_empty() {
                true => 0..0,
                false => kv * group..(kv + 1) * group,
            };
            let chain = Chain {
                slots: &rows.slots[first..end],
                queries: Rows { data: &q[start_q..], stride: stride_q },
                results: Rows { data: &dy[start_y..], stride: stride_y },
            };
            let biases = Biases {
                slopes: &self.slopes[of_group(&self.slopes)],
                sinks: &sinks[of_group(sinks)],
            };
            let to = Places {
                queries: Place::new(dq, place(heads, key)),
                keys: Place::new(dk, place(kv_heads, key)),
                values: dv.map(|dv| Place::new(dv, place(kv_heads, value))),
                sinks: d_sinks.map(|_| Place::new(shared_sunk, place(heads, 1))),
            };
            // SAFETY: every worker has its own scratch, and every task its own rows and heads.
            unsafe {
                let own = self.own.of(pool, planned, worker);
                head.gradient(cells, kv, chain, biases, to, own);
            }
        });
        if let Some(d_sinks) = d_sinks {
            // SAFETY: the tasks have ended, and nobody else has it.
            let d_sinks = unsafe { d_sinks.slice(0..heads) };
            d_sinks.fill(0.0);
            for row in sunk.chunks_exact(heads).take(n) {
                d_sinks.iter_mut().zip(row).for_each(|(d, more)| *d += more);
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("attention gradient {:?} {}", self.head.pages.held, self.head.isa.name())
            .to_lowercase()
    }

    fn why(&self) -> &'static str {
        "threads share heads of keys, and runs of rows that follow one another"
    }
}

/// For an op that runs no graph.
struct NoGraphs;

impl Runner for NoGraphs {
    fn run_subgraph(&self, _: &Graph, _: &[TensorView<'_>]) -> OpResult<Vec<Tensor>> {
        Err(OpError::new("attention runs no graph"))
    }
}

/// Whether each row follows the one before it, or none and is at position 0.
fn begin_at_zero(rows: &RowTables<'_>) -> bool {
    (0..rows.sequences.len()).filter(|i| rows.sequences[*i] >= 0).all(|i| {
        let (parent, position) = (rows.parents[i], rows.positions[i]);
        (parent < 0 && position == 0) || (parent >= 0 && parent == i as i32 - 1)
    })
}
