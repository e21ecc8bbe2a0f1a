//! Attention of a few rows over cells of keys and values, 32 positions at a time, with a running
//! softmax (arXiv 2205.14135).
//!
//! Blocks of positions start at multiples of 32 and each row takes them in order, so that a row's
//! result has the same bits whatever rows are computed with it.

mod cells;
pub mod gradient;

use crate::isa::Isa;
use crate::math;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};
pub use cells::{Held, PAGE, Pages, Part, Seen};

/// Positions of a block: those of a page.
const BLOCK: usize = PAGE;

/// Queries that meet a line of keys or values together, at most.
const MOST_QUERIES: usize = 4;

/// So many queries meet halves as they are held; for more of them these are read once.
const FEW_QUERIES: usize = 2 * MOST_QUERIES;

/// The attention of one head of keys: how its cells lie and what is done with scores.
#[derive(Clone, Copy, Debug)]
pub struct HeadAttention {
    /// The instruction set.
    pub isa: Isa,
    /// How the cells of all heads are held.
    pub pages: Pages,
    /// Heads of queries that share a head of keys.
    pub group: usize,
    /// Elements of a value: of the first of a key where values are not held by themselves.
    pub value: usize,
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
    /// Bytes of scratch for `rows` rows at a time.
    pub fn scratch(&self, rows: usize) -> usize {
        let queries = rows * self.group;
        need::<f32>(BLOCK * self.pages.key)
            + need::<f32>(self.pages.key)
            + need::<f32>(BLOCK * self.value)
            + need::<f32>(BLOCK * queries)
            + 3 * need::<f32>(queries)
            + need::<f32>(queries * self.value)
    }

    /// The attention of `rows`, which see the same cells up to their positions, over head `head`.
    /// `seen`: the cells of the last one.
    ///
    /// # Safety
    /// Nobody else has the rows' results in `out`.
    ///
    /// # Panics
    /// Where a page or a result is not inside, or scratch is too short.
    #[expect(clippy::too_many_arguments, reason = "each is a table of its own")]
    pub unsafe fn run(
        &self,
        state: &[u8],
        head: usize,
        rows: &[QueryRow<'_>],
        biases: Biases<'_>,
        seen: Seen<'_>,
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let row = self.group * self.value;
        assert!(rows.iter().all(|r| r.query.len() == self.group * self.pages.key));
        assert!(rows.iter().all(|r| r.out + row <= out.len()), "results out of bounds");
        assert!(biases.slopes.is_empty() || biases.slopes.len() == self.group);
        assert!(biases.sinks.is_empty() || biases.sinks.len() == self.group);
        dispatch(self.isa, Run { op: self, state, head, rows, biases, seen, out, scratch });
    }
}

struct Run<'a> {
    op: &'a HeadAttention,
    state: &'a [u8],
    head: usize,
    rows: &'a [QueryRow<'a>],
    biases: Biases<'a>,
    seen: Seen<'a>,
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
        let Run { op, state, head, rows, biases, seen, out, mut scratch } = self;
        let HeadAttention { isa, pages, group, value, .. } = *op;
        let (key, queries) = (pages.key, rows.len() * group);
        let (Some(last), Some(first)) = (
            rows.iter().map(|r| r.position).max(),
            rows.iter().map(|r| op.first(r.position)).min(),
        ) else {
            return;
        };
        let keys = carve::<f32>(&mut scratch, key * BLOCK);
        let one = carve::<f32>(&mut scratch, key);
        let values = carve::<f32>(&mut scratch, BLOCK * value);
        let mut running = Running {
            op,
            rows,
            biases,
            scores: carve::<f32>(&mut scratch, BLOCK * queries),
            tops: carve::<f32>(&mut scratch, queries),
            totals: carve::<f32>(&mut scratch, queries),
            fades: carve::<f32>(&mut scratch, queries),
            sums: carve::<f32>(&mut scratch, queries * value),
        };
        running.start();
        // Cells that nobody sees are computed with the others and then dropped.
        keys.fill(0.0);
        let as_held = pages.held == Held::F16 && pages.value > 0 && queries <= FEW_QUERIES;
        for block in first / BLOCK..=last / BLOCK {
            let start = block * BLOCK;
            let positions = first.max(start)..=last.min(start + BLOCK - 1);
            match seen.page(positions.clone()) {
                Some(cell) => {
                    let page = &state[pages.page_of(cell, head)];
                    if as_held {
                        let (keys, values) = page.split_at(pages.values_at());
                        // SAFETY: a page has `key` lines of a block and a block of values.
                        unsafe { running.meet(s, start, Halves::new(keys), Halves::new(values)) };
                        continue;
                    }
                    pages.keys(isa, page, keys);
                    if pages.value > 0 {
                        pages.values(isa, page, values);
                    }
                }
                None => {
                    for position in positions {
                        let (cell, i) = (seen.cell(position), position - start);
                        let page = &state[pages.page_of(cell, head)];
                        pages.key(isa, page, cell, one);
                        for (line, x) in keys.chunks_exact_mut(BLOCK).zip(&*one) {
                            line[i] = *x;
                        }
                        if pages.value > 0 {
                            pages.value(isa, page, cell, &mut values[i * value..][..value]);
                        }
                    }
                }
            }
            if pages.value == 0 {
                turn(s, keys, value, values);
            }
            // SAFETY: `key` lines of a block, and a block of values.
            unsafe { running.meet(s, start, Singles::new(keys), Singles::new(values)) };
        }
        let Running { totals, sums, .. } = running;
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

/// What the queries of a task have of the blocks so far.
struct Running<'a> {
    op: &'a HeadAttention,
    rows: &'a [QueryRow<'a>],
    biases: Biases<'a>,
    /// For each query, its scores of a block.
    scores: &'a mut [f32],
    /// Its largest score.
    tops: &'a mut [f32],
    /// The sum of its weights.
    totals: &'a mut [f32],
    /// What the last block made of the sums before it.
    fades: &'a mut [f32],
    /// Its weighted sum of values.
    sums: &'a mut [f32],
}

impl Running<'_> {
    fn start(&mut self) {
        self.sums.fill(0.0);
        let states = self.tops.iter_mut().zip(self.totals.iter_mut());
        for (q, (top, total)) in states.enumerate() {
            let sink = self.biases.sinks.get(q % self.op.group).copied();
            *top = sink.unwrap_or(f32::NEG_INFINITY);
            *total = if sink.is_some() { 1.0 } else { 0.0 };
        }
    }

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
            // Rows side by side that see the same positions meet each line together.
            let alike = (q + 1..q + most).all(|other| seen(other) == seen(q));
            let (n, seen) = if alike { (most, seen(q)) } else { (1, seen(q)) };
            if !seen.is_empty() {
                let lines = Lines {
                    weights: scores[q * BLOCK + seen.start..].as_ptr(),
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

/// Floats that vectors are loaded of.
trait Source: Copy {
    /// The vector from element `at` on.
    ///
    /// # Safety
    /// `LANES` elements from `at` on are there.
    unsafe fn load<S: Simd>(self, s: S, at: usize) -> S::V;

    /// The first `n` lanes of it; the others are zero.
    ///
    /// # Safety
    /// `n` elements from `at` on are there.
    unsafe fn load_n<S: Simd>(self, s: S, at: usize, n: usize) -> S::V;
}

#[derive(Clone, Copy)]
struct Singles(*const f32);

impl Singles {
    fn new(elements: &[f32]) -> Singles {
        Singles(elements.as_ptr())
    }
}

impl Source for Singles {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, at: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(self.0.add(at)) }
    }

    #[inline(always)]
    unsafe fn load_n<S: Simd>(self, s: S, at: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_n(self.0.add(at), n) }
    }
}

#[derive(Clone, Copy)]
struct Halves(*const u8);

impl Halves {
    fn new(bytes: &[u8]) -> Halves {
        Halves(bytes.as_ptr())
    }
}

impl Source for Halves {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, at: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_half(self.0.add(2 * at)) }
    }

    #[inline(always)]
    unsafe fn load_n<S: Simd>(self, s: S, at: usize, n: usize) -> S::V {
        let mut out = [0.0; 16];
        for (i, out) in out.iter_mut().take(n).enumerate() {
            // SAFETY: the caller's promise.
            let bits = unsafe { self.0.cast::<u16>().add(at + i).read_unaligned() };
            *out = half::f16::from_bits(bits).to_f32();
        }
        // SAFETY: no instruction set has more than 16 lanes.
        unsafe { s.load(out.as_ptr()) }
    }
}

impl HeadAttention {
    /// The first position that a row of `position` sees.
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// Takes values, the first `value` elements of a block of keys, out of its lines.
#[inline(always)]
fn turn<S: Simd>(s: S, keys: &[f32], value: usize, values: &mut [f32]) {
    let whole = value / S::LANES * S::LANES;
    for e in (0..whole).step_by(S::LANES) {
        for cell in (0..BLOCK).step_by(S::LANES) {
            // SAFETY: a square of `LANES` elements of `LANES` cells is inside of both.
            unsafe {
                let from = keys.as_ptr().add(e * BLOCK + cell);
                s.transpose(from, BLOCK, values.as_mut_ptr().add(cell * value + e), value);
            }
        }
    }
    for e in whole..value {
        for cell in 0..BLOCK {
            values[cell * value + e] = keys[e * BLOCK + cell];
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
    s.largest(top)
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
struct Lines<X> {
    /// For each query, [`BLOCK`] elements apart, a weight for each position seen.
    weights: *const f32,
    /// For each position of the block `width` elements.
    values: X,
    fades: *const f32,
    /// For each query `width` elements.
    sums: *mut f32,
    seen: std::ops::Range<usize>,
    width: usize,
}

/// `sums ← fade · sums + Σ weight · value` for `Q` queries, `V` vectors at a time.
///
/// # Safety
/// The lines are as they say.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
unsafe fn add_values<S: Simd, X: Source, const Q: usize, const V: usize>(s: S, lines: Lines<X>) {
    let Lines { weights, values, fades, sums, seen, width } = lines;
    let (count, values_at) = (seen.len(), seen.start * width);
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
                    line[v] = values.load(s, values_at + i * width + e + v * S::LANES);
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
                    acc = s.fma(weight, values.load_n(s, values_at + i * width + e, n), acc);
                }
                s.store_n(to, acc, n);
            }
            e += S::LANES;
        }
    }
}
