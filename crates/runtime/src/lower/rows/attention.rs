//! Attention of rows over what their sequences hold.

use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::scratch::PerWorker;
use kinglet_graph::ops::rows::{PAGE, RowAttention, RowTables};
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::rows_attention::{Biases, HeadAttention, Pages, QueryRow, Seen};
use kinglet_kernels::shared::SharedMut;

/// Queries that share what is read of keys and values, about.
const QUERIES: usize = 32;
/// Rows of a task, at most.
const MOST_ROWS: usize = 16;
/// From so many rows on threads share the work of taking them in.
const FEW_ROWS: usize = 4;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<RowAttention>() else { return Ok(None) };
    let Ok(pages) = op.pages(cx.graph.state(op.state).ty.dtype) else { return Ok(None) };
    let n = cx.dims(cx.output(0))?[0];
    if n == 0 || op.heads == 0 || op.key == 0 || op.value == 0 {
        return Ok(None);
    }
    let head = head(cx, op, pages);
    let group = head.group;
    let rows = (QUERIES / group).clamp(1, MOST_ROWS).min(n);
    let kernel = Attention {
        op: *op,
        head,
        n,
        rows,
        slopes: slopes(op),
        own: PerWorker::new(head.scratch(rows) + (4 * n).next_multiple_of(64)),
        blocks: (4 * (n + 1)).next_multiple_of(64),
    };
    let scratch = kernel.blocks + kernel.own.planned(cx.threads);
    // From 4096 bytes on scratch is aligned.
    Ok(Some(Lowered::new(kernel).with_scratch(scratch.max(4096))))
}

/// What the kernels of an attention and of its gradient know of a head of keys.
pub(super) fn head(cx: &LowerCx<'_>, op: &RowAttention, pages: Pages) -> HeadAttention {
    HeadAttention {
        isa: cx.isa,
        pages,
        group: op.heads / op.kv_heads,
        value: op.value,
        scale: op.scale,
        softcap: op.softcap,
        window: op.window,
    }
}

/// ALiBi's slope of each head; none without ALiBi.
pub(super) fn slopes(op: &RowAttention) -> Vec<f32> {
    match op.alibi {
        Some(_) => (0..op.heads).map(|h| op.slope(h)).collect(),
        None => Vec::new(),
    }
}

/// The tables of rows in inputs `first` and the four after it, and the sinks in the one after these.
pub(super) fn tables<'a>(io: &Io<'a>, first: usize) -> OpResult<(RowTables<'a>, &'a [f32])> {
    let pages = io.inputs[first + 4].ok_or_else(|| OpError::new("the pages are missing"))?;
    let rows = RowTables {
        sequences: io.input(first)?,
        positions: io.input(first + 1)?,
        parents: io.input(first + 2)?,
        slots: io.input(first + 3)?,
        pages: pages.slice()?,
        per_sequence: *pages.dims.last().unwrap_or(&0),
    };
    let sinks = match io.inputs.get(first + 5).copied().flatten() {
        Some(sinks) => sinks.slice()?,
        None => &[],
    };
    Ok((rows, sinks))
}

/// The bytes of the state, which has all cells that `rows` name.
pub(super) fn cells<'a>(
    io: &mut Io<'a>,
    op: &RowAttention,
    rows: &RowTables<'_>,
) -> OpResult<&'a mut [u8]> {
    let state = io.state.take().ok_or_else(|| OpError::new("its state is missing"))?;
    let held = *state.dims.first().unwrap_or(&0);
    if *state.dims != *op.state_dims(held) {
        return Err(OpError::new(format!("a state of sizes {:?}", state.dims)));
    }
    RowAttention::check_rows(rows, held * PAGE)?;
    Ok(state.bytes)
}

struct Attention {
    op: RowAttention,
    head: HeadAttention,
    /// Rows of a step.
    n: usize,
    /// Rows of a task, at most.
    rows: usize,
    slopes: Vec<f32>,
    own: PerWorker,
    /// Bytes of the table of tasks' first rows.
    blocks: usize,
}

impl Kernel for Attention {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (op, head, n, pool) = (&self.op, &self.head, self.n, io.pool);
        let (q, k): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let v: &[f32] = if op.value_in_key { &[] } else { io.input(2)? };
        let (rows, sinks) = tables(io, 3)?;
        let cells = SharedMut::new(cells(io, op, &rows)?);
        // A head's rows one after the other: should two of them have one cell, the last one keeps
        // it, as in the reference.
        let take_in = |kv: usize| {
            for i in (0..n).filter(|i| rows.sequences[*i] >= 0) {
                let (at, cell) = (i * op.kv_heads + kv, rows.slots[i] as usize);
                let key = &k[at * op.key..][..op.key];
                let value = if op.value_in_key { &[] } else { &v[at * op.value..][..op.value] };
                // SAFETY: every task has its own head of all pages.
                let page = unsafe { cells.slice(head.pages.page_of(cell, kv)) };
                head.pages.take_in(head.isa, page, cell, key, value);
            }
        };
        match n {
            // Sooner done than shared out.
            ..FEW_ROWS => (0..op.kv_heads).for_each(take_in),
            _ => pool.run(op.kv_heads, |kv, _| take_in(kv)),
        }
        // SAFETY: nobody writes to it any more.
        let cells = unsafe { &*cells.slice(0..cells.len()) };
        let out = io.outputs[0].slice_mut::<f32>()?;
        let width = op.heads * op.value;
        for (out, sequence) in out.chunks_exact_mut(width).zip(rows.sequences) {
            if *sequence < 0 {
                out.fill(0.0);
            }
        }
        let out = SharedMut::new(out);
        let (starts, planned) = io.scratch.split_at_mut(self.blocks);
        let planned = SharedMut::new(planned);
        let starts: &mut [i32] = bytemuck::try_cast_slice_mut(starts)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let count = chains(&rows, self.rows, starts);
        let starts = &starts[..=count];
        pool.run(count * op.kv_heads, |task, worker| {
            let (block, kv) = (task / op.kv_heads, task % op.kv_heads);
            let of_block = starts[block] as usize..starts[block + 1] as usize;
            let last = of_block.end - 1;
            if rows.sequences[last] < 0 {
                return;
            }
            // SAFETY: every worker has its own scratch.
            let own = unsafe { self.own.of(pool, planned, worker) };
            let (chain, scratch) = own.split_at_mut((4 * n).next_multiple_of(64));
            let chain: &mut [i32] = bytemuck::cast_slice_mut(&mut chain[..4 * n]);
            // The cells of the last row's ancestors, among which the block's other rows are.
            let ancestors = rows.chain(last).count();
            for (row, slot) in rows.chain(last).zip(chain[..ancestors].iter_mut().rev()) {
                *slot = rows.slots[row];
            }
            let past = rows.positions[last] as usize + 1 - ancestors;
            let sequence = rows.sequences[last] as usize;
            let pages = &rows.pages[sequence * rows.per_sequence..][..rows.per_sequence];
            let seen = Seen { pages, past, chain: &chain[..ancestors] };
            let group = head.group;
            let query = |i: usize| QueryRow {
                position: rows.positions[i] as usize,
                query: &q[(i * op.heads + kv * group) * op.key..][..group * op.key],
                out: (i * op.heads + kv * group) * op.value,
            };
            let mut queries = [query(last); MOST_ROWS];
            queries.iter_mut().zip(of_block.clone()).for_each(|(to, i)| *to = query(i));
            let of_group = |all: &'_ [f32]| match all.is_empty() {
                true => 0..0,
                false => kv * group..(kv + 1) * group,
            };
            let biases = Biases {
                slopes: &self.slopes[of_group(&self.slopes)],
                sinks: &sinks[of_group(sinks)],
            };
            let queries = &queries[..of_block.len()];
            // SAFETY: every task has its own rows and heads.
            unsafe { head.run(cells, kv, queries, biases, seen, out, scratch) };
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("attention {:?} {}", self.head.pages.held, self.head.isa.name()).to_lowercase()
    }

    fn why(&self) -> &'static str {
        "threads share heads of keys, and blocks of rows that follow one another"
    }
}

/// Cuts rows into chains of at most `most` in which each follows the one before. Writes where
/// each starts, and the end, and returns how many there are.
pub(super) fn chains(rows: &RowTables<'_>, most: usize, starts: &mut [i32]) -> usize {
    let n = rows.sequences.len();
    let (mut count, mut first) = (0, 0);
    for i in 0..n {
        let follows = i > 0 && rows.parents[i] == i as i32 - 1 && rows.sequences[i] >= 0;
        if !follows || i - first == most {
            starts[count] = i as i32;
            (count, first) = (count + 1, i);
        }
    }
    starts[count] = n as i32;
    count
}
