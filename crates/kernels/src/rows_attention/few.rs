//! Few queries: products of singles, a block at a time.

use super::running::{Halves, Lines, Running, Singles, Source, add_values, finish_scores, weigh};
use super::{BLOCK, HeadAttention, Held, Pages, Run};
use crate::scratch::{carve, need};
use crate::simd::{Kernel, Simd};

/// Queries that meet a line of keys or values together, at most.
const MOST_QUERIES: usize = 4;

/// So many queries meet halves as they are held; for more of them these are read once.
const FEW_QUERIES: usize = 2 * MOST_QUERIES;

/// Bytes of scratch for so many queries.
pub(super) fn scratch(op: &HeadAttention, queries: usize) -> usize {
    need::<f32>(BLOCK * op.pages.key)
        + need::<f32>(op.pages.key)
        + need::<f32>(BLOCK * op.value)
        + Running::scratch(op, queries, BLOCK * queries)
}

pub(super) struct Few<'a>(pub Run<'a>);

impl Kernel for Few<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut scratch = std::mem::take(&mut self.0.scratch);
        let run = self.0;
        let Run { op, state, head, rows, seen, .. } = run;
        let HeadAttention { pages, group, value, .. } = *op;
        let (key, queries) = (pages.key, rows.len() * group);
        let Some(all) = run.positions() else { return };
        let keys = carve::<f32>(&mut scratch, key * BLOCK);
        let one = carve::<f32>(&mut scratch, key);
        let values = carve::<f32>(&mut scratch, BLOCK * value);
        let mut running = Running::new(op, rows, run.biases, BLOCK * queries, &mut scratch);
        // Cells that nobody sees are computed with the others and then dropped.
        keys.fill(0.0);
        let as_held = pages.held == Held::F16 && pages.value > 0 && queries <= FEW_QUERIES;
        for block in all.start() / BLOCK..=all.end() / BLOCK {
            let start = block * BLOCK;
            let positions = *all.start().max(&start)..=*all.end().min(&(start + BLOCK - 1));
            if as_held && let Some(cell) = seen.page(positions.clone()) {
                let (keys, values) = state[pages.page_of(cell, head)].split_at(pages.values_at());
                // SAFETY: a page has `key` lines of a block and a block of values.
                unsafe { running.meet(s, start, Halves::new(keys), Halves::new(values)) };
                continue;
            }
            run.read(s, positions, keys, one, values);
            // SAFETY: `key` lines of a block, and a block of values.
            unsafe { running.meet(s, start, Singles::new(keys), Singles::new(values)) };
        }
        // SAFETY: the caller of `HeadAttention::run` promises that the rows' results are ours.
        unsafe { running.finish(run.out) };
    }
}

impl Running<'_> {
    /// Takes the block of positions from `start` on.
    ///
    /// # Safety
    /// `keys` has `key` lines of a block, `values` a block of lines of `value`.
    #[inline(always)]
    unsafe fn meet<S: Simd, X: Source>(&mut self, s: S, start: usize, keys: X, values: X) {
        let Running { op, rows, biases, scores, tops, totals, fades, sums } = self;
        let HeadAttention { pages: Pages { key, .. }, group, value, .. } = **op;
        let queries = rows.len() * group;
        let query = |q: usize| rows[q / group].query[q % group * key..][..key].as_ptr();
        let mut q = 0;
        // SAFETY: queries have `key` elements, `keys` as many lines of a block, and `scores` a line
        // for each query.
        unsafe {
            while q < queries {
                let n = MOST_QUERIES.min(queries - q);
                let at =
                    [query(q), query(q + 1.min(n - 1)), query(q + 2.min(n - 1)), query(q + n - 1)];
                let to = scores[q * BLOCK..].as_mut_ptr();
                match n {
                    1 => score::<S, X, 1>(s, at, key, keys, to),
                    2 => score::<S, X, 2>(s, at, key, keys, to),
                    3 => score::<S, X, 3>(s, at, key, keys, to),
                    _ => score::<S, X, 4>(s, at, key, keys, to),
                }
                q += n;
            }
        }
        let seen = |q: usize| op.seen(rows[q / group].position, start, BLOCK);
        for q in 0..queries {
            let seen = seen(q);
            if seen.is_empty() {
                continue;
            }
            let scores = &mut scores[q * BLOCK..][..BLOCK];
            let slope = biases.slopes.get(q % group).copied().unwrap_or(0.0);
            let distance = rows[q / group].position as f32 - start as f32;
            let top = finish_scores(s, op, op.scale, slope, distance, &seen, scores).max(tops[q]);
            // Few blocks raise the top.
            fades[q] = if top == tops[q] { 1.0 } else { (tops[q] - top).exp() };
            totals[q] = totals[q] * fades[q] + weigh(s, top, scores);
            tops[q] = top;
        }
        let mut q = 0;
        while q < queries {
            let most = MOST_QUERIES.min(queries - q);
            // Rows side by side that see the same positions meet each line together.
            let alike = (q + 1..q + most).all(|other| seen(other) == seen(q));
            let (n, seen) = if alike { (most, seen(q)) } else { (1, seen(q)) };
            if !seen.is_empty() {
                let lines = Lines {
                    weights: scores[q * BLOCK + seen.start..].as_ptr(),
                    stride: BLOCK,
                    values,
                    fades: fades[q..q + n].as_ptr(),
                    sums: sums[q * value..(q + n) * value].as_mut_ptr(),
                    seen,
                    width: value,
                };
                // SAFETY: each query has a block of weights, a fade and a line of sums; each
                // position of the block has a line of values.
                unsafe {
                    match n {
                        1 => add_values::<S, X, 1, 4>(s, lines),
                        2 => add_values::<S, X, 2, 4>(s, lines),
                        3 => add_values::<S, X, 3, 2>(s, lines),
                        _ => add_values::<S, X, 4, 2>(s, lines),
                    }
                }
            }
            q += n;
        }
    }
}

/// Products of the first `Q` queries with a block of keys, by element.
///
/// # Safety
/// Each query has `key` elements, `keys` `key` lines of a block, `out` `Q` lines.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
unsafe fn score<S: Simd, X: Source, const Q: usize>(
    s: S,
    queries: [*const f32; MOST_QUERIES],
    key: usize,
    keys: X,
    out: *mut f32,
) {
    for at in (0..BLOCK).step_by(2 * S::LANES) {
        let mut acc = [[s.zero(); 2]; Q];
        // SAFETY: the caller's promise; `2 * LANES` divides a block.
        unsafe {
            for e in 0..key {
                let line = e * BLOCK + at;
                let line = [keys.load(s, line), keys.load(s, line + S::LANES)];
                for q in 0..Q {
                    let x = s.splat(*queries[q].add(e));
                    acc[q][0] = s.fma(x, line[0], acc[q][0]);
                    acc[q][1] = s.fma(x, line[1], acc[q][1]);
                }
            }
            for q in 0..Q {
                s.store(out.add(q * BLOCK + at), acc[q][0]);
                s.store(out.add(q * BLOCK + at + S::LANES), acc[q][1]);
            }
        }
    }
}
