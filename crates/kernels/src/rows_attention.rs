//! Attention of a few rows over cells of keys and values, 32 positions at a time, with a running
//! softmax (arXiv 2205.14135).
//!
//! Blocks of positions start at multiples of 32 and each row takes them in order, so that a row's
//! result has the same bits whatever rows are computed with it.

use crate::encoded::Float;
use crate::encoding::Encoding;
use crate::halves::{narrow, widen};
use crate::isa::Isa;
use crate::math;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};

/// Positions of a block, and cells of a page.
pub const BLOCK: usize = 32;

/// Queries that meet a line of keys or values together, at most.
const MOST_QUERIES: usize = 4;

/// How keys and values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Singles.
    F32,
    /// Halves.
    F16,
    /// Blocks of `Q8_0`.
    Q8_0,
}

impl Held {
    /// Bytes of `n` elements; whole blocks where they are held in blocks.
    pub fn bytes(self, n: usize) -> usize {
        match self {
            Held::F32 => 4 * n,
            Held::F16 => 2 * n,
            Held::Q8_0 => n / 32 * 34,
        }
    }
}

/// The attention of one head of keys: how its cells lie and what is done with scores.
#[derive(Clone, Copy, Debug)]
pub struct HeadAttention {
    /// The instruction set.
    pub isa: Isa,
    /// How cells are held.
    pub held: Held,
    /// Heads of keys in a page.
    pub kv_heads: usize,
    /// Heads of queries that share a head of keys.
    pub group: usize,
    /// Elements of a key.
    pub key: usize,
    /// Elements of a value.
    pub value: usize,
    /// Whether values are the first elements of keys.
    pub value_in_key: bool,
    /// Factor on scores.
    pub scale: f32,
    /// Scores s become c tanh(s / c).
    pub softcap: Option<f32>,
    /// Positions seen, the row's own included.
    pub window: Option<usize>,
}

/// A row of queries.
#[derive(Clone, Copy)]
pub struct QueryRow<'a> {
    /// Its position.
    pub position: usize,
    /// [group, key].
    pub query: &'a [f32],
    /// Where its result starts: [group, value].
    pub out: usize,
}

/// What else is known of a group of heads.
#[derive(Clone, Copy)]
pub struct Biases<'a> {
    /// What a score loses for each position of distance, for each head; empty: nothing.
    pub slopes: &'a [f32],
    /// A score for each head that takes its share and gives nothing; empty: none.
    pub sinks: &'a [f32],
}

impl HeadAttention {
    /// Bytes of a page of one head.
    pub fn page_bytes(&self) -> usize {
        let values = if self.value_in_key { 0 } else { self.value };
        self.held.bytes(BLOCK * (self.key + values))
    }

    fn key_at(&self, cell: usize, head: usize) -> usize {
        (cell / BLOCK * self.kv_heads + head) * self.page_bytes()
            + self.held.bytes(cell % BLOCK * self.key)
    }

    fn value_at(&self, cell: usize, head: usize) -> usize {
        if self.value_in_key {
            return self.key_at(cell, head);
        }
        (cell / BLOCK * self.kv_heads + head) * self.page_bytes()
            + self.held.bytes(BLOCK * self.key + cell % BLOCK * self.value)
    }

    /// Takes a key and a value (none where it is in the key) of head `head` into a cell.
    ///
    /// # Safety
    /// Nobody else has this head's cell.
    ///
    /// # Panics
    /// Where the cell is not inside of `state`, or the lengths differ.
    pub unsafe fn take_in(
        &self,
        state: SharedMut<'_, u8>,
        (cell, head): (usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        let each = [(self.key_at(cell, head), key), (self.value_at(cell, head), value)];
        for (at, data) in each.into_iter().take(if self.value_in_key { 1 } else { 2 }) {
            // SAFETY: the caller's promise.
            let to = unsafe { state.slice(at..at + self.held.bytes(data.len())) };
            match self.held {
                Held::F32 => to.copy_from_slice(bytemuck::cast_slice(data)),
                Held::F16 => narrow(self.isa, data, to),
                Held::Q8_0 => Encoding::Q8_0.encode(data, to),
            }
        }
    }

    fn read(&self, state: &[u8], at: usize, out: &mut [f32]) {
        let bytes = &state[at..at + self.held.bytes(out.len())];
        match self.held {
            Held::F32 => widen(self.isa, Float::F32, bytes, out),
            Held::F16 => widen(self.isa, Float::F16, bytes, out),
            Held::Q8_0 => Encoding::Q8_0.decode(bytes, out),
        }
    }

    /// Bytes of scratch for `rows` rows at a time.
    pub fn scratch(&self, rows: usize) -> usize {
        let queries = rows * self.group;
        2 * need::<f32>(BLOCK * self.key)
            + need::<f32>(BLOCK * self.value)
            + need::<f32>(BLOCK * queries)
            + 3 * need::<f32>(queries)
            + need::<f32>(queries * self.value)
    }

    /// The attention of `rows`, which see the same cells up to their positions, over head `head`.
    /// `cell` tells where a position's key and value are held.
    ///
    /// # Safety
    /// Nobody else has the rows' results in `out`.
    ///
    /// # Panics
    /// Where a cell or a result is not inside, or scratch is too short.
    #[expect(clippy::too_many_arguments, reason = "each is a table of its own")]
    pub unsafe fn run(
        &self,
        state: &[u8],
        head: usize,
        rows: &[QueryRow<'_>],
        biases: Biases<'_>,
        cell: &dyn Fn(usize) -> usize,
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let row = self.group * self.value;
        assert!(rows.iter().all(|r| r.query.len() == self.group * self.key));
        assert!(rows.iter().all(|r| r.out + row <= out.len()), "results out of bounds");
        assert!(biases.slopes.is_empty() || biases.slopes.len() == self.group);
        assert!(biases.sinks.is_empty() || biases.sinks.len() == self.group);
        dispatch(self.isa, Run { op: self, state, head, rows, biases, cell, out, scratch });
    }
}

struct Run<'a> {
    op: &'a HeadAttention,
    state: &'a [u8],
    head: usize,
    rows: &'a [QueryRow<'a>],
    biases: Biases<'a>,
    cell: &'a dyn Fn(usize) -> usize,
    out: SharedMut<'a, f32>,
    scratch: &'a mut [u8],
}

static COUNT: [f32; BLOCK] = {
    let mut count = [0.0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        count[i] = i as f32;
        i += 1;
    }
    count
};

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { op, state, head, rows, biases, cell, out, mut scratch } = self;
        let HeadAttention { group, key, value, .. } = *op;
        let queries = rows.len() * group;
        let (Some(last), Some(first)) = (
            rows.iter().map(|r| r.position).max(),
            rows.iter().map(|r| op.first(r.position)).min(),
        ) else {
            return;
        };
        let keys = carve::<f32>(&mut scratch, BLOCK * key);
        let turned = carve::<f32>(&mut scratch, BLOCK * key);
        let values = carve::<f32>(&mut scratch, BLOCK * value);
        let scores = carve::<f32>(&mut scratch, BLOCK * queries);
        let tops = carve::<f32>(&mut scratch, queries);
        let totals = carve::<f32>(&mut scratch, queries);
        let fades = carve::<f32>(&mut scratch, queries);
        let sums = carve::<f32>(&mut scratch, queries * value);
        sums.fill(0.0);
        // Cells that nobody sees are computed with the others and then dropped.
        keys.fill(0.0);
        for q in 0..queries {
            let sink = biases.sinks.get(q % group).copied();
            tops[q] = sink.unwrap_or(f32::NEG_INFINITY);
            totals[q] = if sink.is_some() { 1.0 } else { 0.0 };
        }
        for block in first / BLOCK..=last / BLOCK {
            let start = block * BLOCK;
            for position in first.max(start)..=last.min(start + BLOCK - 1) {
                let (cell, i) = (cell(position), position - start);
                op.read(state, op.key_at(cell, head), &mut keys[i * key..][..key]);
                op.read(state, op.value_at(cell, head), &mut values[i * value..][..value]);
            }
            turn(s, keys, key, turned);
            let query = |q: usize| rows[q / group].query[q % group * key..][..key].as_ptr();
            let mut q = 0;
            // SAFETY: queries have `key` elements, `turned` as many lines of a block, and `scores`
            // a line for each query.
            unsafe {
                while q < queries {
                    let n = MOST_QUERIES.min(queries - q);
                    // A query by itself would wait for each of its products.
                    let at = std::array::from_fn(|i| query(q + i.min(n - 1)));
                    let to = scores[q * BLOCK..].as_mut_ptr();
                    let turned = turned.as_ptr();
                    match n {
                        1 => score::<S, 1>(s, at, key, turned, to),
                        2 => score::<S, 2>(s, at, key, turned, to),
                        3 => score::<S, 3>(s, at, key, turned, to),
                        _ => score::<S, 4>(s, at, key, turned, to),
                    }
                    q += n;
                }
            }
            let seen = |q: usize| {
                let position = rows[q / group].position;
                let (low, high) = (op.first(position).max(start), position.min(start + BLOCK - 1));
                low - start..(high + 1).saturating_sub(start)
            };
            for q in 0..queries {
                let seen = seen(q);
                if seen.is_empty() {
                    continue;
                }
                let scores = &mut scores[q * BLOCK..][..BLOCK];
                let slope = biases.slopes.get(q % group).copied().unwrap_or(0.0);
                let distance = rows[q / group].position as f32 - start as f32;
                let top = finish_scores(s, op, slope, distance, &seen, scores).max(tops[q]);
                // Few blocks raise the top.
                fades[q] = if top == tops[q] { 1.0 } else { (tops[q] - top).exp() };
                totals[q] = totals[q] * fades[q] + weigh(s, top, scores);
                tops[q] = top;
            }
            let mut q = 0;
            while q < queries {
                let most = MOST_QUERIES.min(queries - q);
                let whole = (q..q + most).all(|q| seen(q) == (0..BLOCK));
                let (n, seen) = if whole { (most, 0..BLOCK) } else { (1, seen(q)) };
                if !seen.is_empty() {
                    let lines = Lines {
                        weights: scores[q * BLOCK + seen.start..].as_ptr(),
                        values: values[seen.start * value..].as_ptr(),
                        fades: fades[q..q + n].as_ptr(),
                        sums: sums[q * value..(q + n) * value].as_mut_ptr(),
                        count: seen.len(),
                        width: value,
                    };
                    // SAFETY: each query has a block of weights, a fade and a line of sums; each
                    // position of the block has a line of values.
                    unsafe {
                        match n {
                            1 => add_values::<S, 1, 4>(s, lines),
                            2 => add_values::<S, 2, 4>(s, lines),
                            3 => add_values::<S, 3, 2>(s, lines),
                            _ => add_values::<S, 4, 2>(s, lines),
                        }
                    }
                }
                q += n;
            }
        }
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: the caller of `HeadAttention::run` promises that these are ours.
            let out = unsafe { out.slice(row.out..row.out + group * value) };
            for (g, out) in out.chunks_exact_mut(value).enumerate() {
                let q = r * group + g;
                let share = 1.0 / totals[q];
                out.iter_mut().zip(&sums[q * value..]).for_each(|(o, x)| *o = x * share);
            }
        }
    }
}

impl HeadAttention {
    /// The first position that a row of `position` sees.
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// Transposes a block of keys.
#[inline(always)]
fn turn<S: Simd>(s: S, keys: &[f32], key: usize, turned: &mut [f32]) {
    let whole = key / S::LANES * S::LANES;
    for cells in (0..BLOCK).step_by(S::LANES) {
        for e in (0..whole).step_by(S::LANES) {
            // SAFETY: a square of `LANES` elements of `LANES` cells is inside of both.
            unsafe {
                let from = keys.as_ptr().add(cells * key + e);
                s.transpose(from, key, turned.as_mut_ptr().add(e * BLOCK + cells), BLOCK);
            }
        }
    }
    for e in whole..key {
        for cell in 0..BLOCK {
            turned[e * BLOCK + cell] = keys[cell * key + e];
        }
    }
}

/// Products of the first `Q` queries with a block of transposed keys.
///
/// # Safety
/// Each query has `key` elements, `turned` `key` lines of a block, `out` `Q` lines.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
unsafe fn score<S: Simd, const Q: usize>(
    s: S,
    queries: [*const f32; MOST_QUERIES],
    key: usize,
    turned: *const f32,
    out: *mut f32,
) {
    for at in (0..BLOCK).step_by(2 * S::LANES) {
        let mut acc = [[s.zero(); 2]; Q];
        // SAFETY: the caller's promise; `2 * LANES` divides a block.
        unsafe {
            for e in 0..key {
                let line = turned.add(e * BLOCK + at);
                let keys = [s.load(line), s.load(line.add(S::LANES))];
                for q in 0..Q {
                    let x = s.splat(*queries[q].add(e));
                    acc[q][0] = s.fma(x, keys[0], acc[q][0]);
                    acc[q][1] = s.fma(x, keys[1], acc[q][1]);
                }
            }
            for q in 0..Q {
                s.store(out.add(q * BLOCK + at), acc[q][0]);
                s.store(out.add(q * BLOCK + at + S::LANES), acc[q][1]);
            }
        }
    }
}

/// Turns products into scores, −∞ where they are not seen, and returns the largest.
#[inline(always)]
fn finish_scores<S: Simd>(
    s: S,
    op: &HeadAttention,
    slope: f32,
    distance: f32,
    seen: &std::ops::Range<usize>,
    scores: &mut [f32],
) -> f32 {
    let (low, high) = (s.splat(seen.start as f32), s.splat(seen.end as f32));
    let never = s.splat(f32::NEG_INFINITY);
    let mut top = never;
    for i in (0..BLOCK).step_by(S::LANES) {
        // SAFETY: `LANES` divides the length of both arrays.
        unsafe {
            let p = scores[i..].as_mut_ptr();
            let count = s.load(COUNT[i..].as_ptr());
            let mut x = s.mul(s.load(p), s.splat(op.scale));
            if let Some(cap) = op.softcap {
                x = s.mul(s.splat(cap), math::tanh(s, s.div(x, s.splat(cap))));
            }
            if slope != 0.0 {
                x = s.fnma(s.splat(slope), s.sub(s.splat(distance), count), x);
            }
            x = s.select(s.lt(count, low), never, s.select(s.lt(count, high), x, never));
            top = s.max(top, x);
            s.store(p, x);
        }
    }
    s.lanes(top)[..S::LANES].iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Replaces scores by e^(score − top) and returns their sum.
#[inline(always)]
fn weigh<S: Simd>(s: S, top: f32, scores: &mut [f32]) -> f32 {
    let mut total = s.zero();
    for i in (0..BLOCK).step_by(S::LANES) {
        // SAFETY: `LANES` divides the length.
        unsafe {
            let p = scores[i..].as_mut_ptr();
            let x = math::exp(s, s.sub(s.load(p), s.splat(top)));
            total = s.add(total, x);
            s.store(p, x);
        }
    }
    s.sum(total)
}

/// What some queries add of a block.
struct Lines {
    /// For each query, [`BLOCK`] elements apart, `count` weights.
    weights: *const f32,
    /// For each position `width` elements.
    values: *const f32,
    fades: *const f32,
    /// For each query `width` elements.
    sums: *mut f32,
    count: usize,
    width: usize,
}

/// `sums ← fade · sums + Σ weight · value` for `Q` queries, `V` vectors at a time.
///
/// # Safety
/// The lines are as they say.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
unsafe fn add_values<S: Simd, const Q: usize, const V: usize>(s: S, lines: Lines) {
    let Lines { weights, values, fades, sums, count, width } = lines;
    let mut e = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while e + V * S::LANES <= width {
            let mut acc = [[s.zero(); V]; Q];
            for q in 0..Q {
                let fade = s.splat(*fades.add(q));
                for v in 0..V {
                    let at = q * width + e + v * S::LANES;
                    acc[q][v] = s.mul(fade, s.load(sums.add(at)));
                }
            }
            for i in 0..count {
                let mut line = [s.zero(); V];
                for v in 0..V {
                    line[v] = s.load(values.add(i * width + e + v * S::LANES));
                }
                for q in 0..Q {
                    let weight = s.splat(*weights.add(q * BLOCK + i));
                    for v in 0..V {
                        acc[q][v] = s.fma(weight, line[v], acc[q][v]);
                    }
                }
            }
            for q in 0..Q {
                for v in 0..V {
                    s.store(sums.add(q * width + e + v * S::LANES), acc[q][v]);
                }
            }
            e += V * S::LANES;
        }
        while e < width {
            let n = S::LANES.min(width - e);
            for q in 0..Q {
                let to = sums.add(q * width + e);
                let mut acc = s.mul(s.splat(*fades.add(q)), s.load_n(to, n));
                for i in 0..count {
                    let weight = s.splat(*weights.add(q * BLOCK + i));
                    acc = s.fma(weight, s.load_n(values.add(i * width + e), n), acc);
                }
                s.store_n(to, acc, n);
            }
            e += S::LANES;
        }
    }
}
