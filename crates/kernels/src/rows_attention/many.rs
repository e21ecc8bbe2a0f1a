//! Many queries: their products with keys are of 16-bit integers, of which an instruction takes twice as
//! many as of singles.
//!
//! Queries and keys are divided by their lengths and rounded to 15 bits and a sign: sums of their
//! products stay below 2³¹, whatever they are, and are exact. Scores are off by 1.3e-5 |q| |k| `scale`
//! for it (a standard deviation), whatever their sizes; where elements are alike in size, keys of 64
//! that are held as halves put them off by twice as much, and keys of 256 by as much. All else is of
//! singles.

use super::running::{Lines, Running, Singles, add_values, finish_scores};
use super::{BLOCK, HeadAttention, Run};
use crate::math;
use crate::scratch::{carve, need};
use crate::simd::{Kernel, Simd};

/// Positions that are met together: so many that their keys and values stay in the first-level cache.
pub(super) const SPAN: usize = 2 * BLOCK;

/// Queries of a tile, at most.
const TILE: usize = 6;

/// Lanes of a vector, at most.
const MOST_LANES: usize = 16;

/// What a length is in rounded elements.
const LENGTH: f32 = 32767.0;

/// Bytes of scratch for so many queries.
pub(super) fn scratch(op: &HeadAttention, queries: usize) -> usize {
    let key = op.pages.key;
    need::<f32>(BLOCK * key)
        + need::<f32>(key)
        + need::<f32>(SPAN * op.value)
        + need::<i32>(SPAN * pairs(key))
        + need::<f32>(SPAN)
        + need::<i32>(queries * pairs(key))
        + need::<f32>(queries)
        + need::<f32>(queries * MOST_LANES)
        + Running::scratch(op, queries, TILE * SPAN)
}

/// Pairs of 16-bit integers of a key.
fn pairs(key: usize) -> usize {
    key.div_ceil(2)
}

pub(super) struct Many<'a>(pub Run<'a>);

impl Kernel for Many<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut scratch = std::mem::take(&mut self.0.scratch);
        let run = self.0;
        let Run { op, rows, .. } = run;
        let (key, value, queries) = (op.pages.key, op.value, rows.len() * op.group);
        let Some(all) = run.positions() else { return };
        let keys = carve::<f32>(&mut scratch, BLOCK * key);
        let one = carve::<f32>(&mut scratch, key);
        let values = carve::<f32>(&mut scratch, SPAN * value);
        let key_pairs = carve::<i32>(&mut scratch, SPAN * pairs(key));
        let key_units = carve::<f32>(&mut scratch, SPAN);
        let query_pairs = carve::<i32>(&mut scratch, queries * pairs(key));
        let query_units = carve::<f32>(&mut scratch, queries);
        let lanes = carve::<f32>(&mut scratch, queries * MOST_LANES);
        lanes.fill(0.0);
        let mut running = Running::new(op, rows, run.biases, TILE * SPAN, &mut scratch);
        let each = rows.iter().flat_map(|row| row.query.chunks_exact(key));
        let rounded = query_pairs.chunks_exact_mut(pairs(key)).zip(query_units.iter_mut());
        for (query, (pairs, unit)) in each.zip(rounded) {
            *unit = round_query(s, query, bytemuck::cast_slice_mut(pairs));
        }
        keys.fill(0.0);
        for start in (all.start() / SPAN * SPAN..=*all.end()).step_by(SPAN) {
            for at in (0..SPAN).step_by(BLOCK) {
                let first = start + at;
                let positions = *all.start().max(&first)..=*all.end().min(&(first + BLOCK - 1));
                if !positions.is_empty() {
                    run.read(s, positions, keys, one, &mut values[at * value..][..BLOCK * value]);
                    // SAFETY: `key` lines of a block, and as many pairs of a span.
                    unsafe { round_keys(s, keys, &mut key_pairs[at..], &mut key_units[at..]) };
                }
            }
            let span = Span { start, keys: key_pairs, key_units, values };
            let mut q = 0;
            while q < queries {
                q += match S::REGISTERS {
                    0..32 => running.tile::<S, 4, 2>(s, &span, q, query_pairs, query_units, lanes),
                    _ => running.tile::<S, 6, 4>(s, &span, q, query_pairs, query_units, lanes),
                };
            }
        }
        for (total, lanes) in running.totals.iter_mut().zip(lanes.chunks_exact(MOST_LANES)) {
            *total += lanes.iter().sum::<f32>();
        }
        // SAFETY: the caller of `HeadAttention::run` promises that the rows' results are ours.
        unsafe { running.finish(run.out) };
    }
}

/// [`SPAN`] positions.
struct Span<'a> {
    start: usize,
    /// Of each pair of elements, that of all positions.
    keys: &'a [i32],
    /// What 1 is worth, of each position.
    key_units: &'a [f32],
    values: &'a [f32],
}

impl Running<'_> {
    /// Takes a span for at most `Q` queries from number `first` on, `V` vectors at a time; how many
    /// queries that were.
    #[inline(always)]
    fn tile<S: Simd, const Q: usize, const V: usize>(
        &mut self,
        s: S,
        span: &Span<'_>,
        first: usize,
        query_pairs: &[i32],
        query_units: &[f32],
        lanes: &mut [f32],
    ) -> usize {
        let Running { op, rows, biases, scores, tops, totals, fades, .. } = self;
        let (group, pairs) = (op.group, pairs(op.pages.key));
        let n = Q.min(query_units.len() - first);
        let row = |q: usize| &rows[(first + q.min(n - 1)) / group];
        let seen: [_; Q] = std::array::from_fn(|q| op.seen(row(q).position, span.start, SPAN));
        if seen.iter().all(|seen| seen.is_empty()) {
            return n;
        }
        let queries: [&[i32]; Q] =
            std::array::from_fn(|q| &query_pairs[(first + q.min(n - 1)) * pairs..][..pairs]);
        score::<S, Q, V>(s, queries, span, scores);
        for (q, seen) in seen.iter().enumerate().take(n) {
            if seen.is_empty() {
                continue;
            }
            let scores = &mut scores[q * SPAN..][..SPAN];
            let at = first + q;
            let scale = op.scale * query_units[at];
            let slope = biases.slopes.get(at % group).copied().unwrap_or(0.0);
            let plain = op.softcap.is_none() && slope == 0.0 && scale >= 0.0;
            let (factor, top) = if plain && seen.len() == SPAN {
                (scale, scale * largest(s, scores))
            } else {
                let distance = row(q).position as f32 - span.start as f32;
                (1.0, finish_scores(s, op, scale, slope, distance, seen, scores))
            };
            let top = top.max(tops[at]);
            let total = &mut lanes[at * MOST_LANES..][..S::LANES];
            fades[at] = if top == tops[at] { 1.0 } else { (tops[at] - top).exp() };
            weigh(s, factor, top, fades[at], scores, total);
            totals[at] *= fades[at];
            tops[at] = top;
        }
        // Each query takes its values in order: those before what all of the tile see, these, and
        // those after.
        let low = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
        let high = seen.iter().map(|seen| seen.end).min().unwrap_or(0).max(low);
        for (q, seen) in seen.iter().enumerate().take(n) {
            self.add::<S, 1, 4>(s, span, first, q, seen.start..seen.end.min(low));
        }
        match n == Q {
            true => self.add::<S, Q, V>(s, span, first, 0, low..high),
            false => (0..n).for_each(|q| self.add::<S, 1, 4>(s, span, first, q, low..high)),
        }
        for (q, seen) in seen.iter().enumerate().take(n) {
            self.add::<S, 1, 4>(s, span, first, q, seen.start.max(high)..seen.end);
        }
        n
    }

    /// Adds the values that `Q` queries of the tile from query `first` on, from the tile's number `q`
    /// on, see. What came before has faded then.
    #[inline(always)]
    fn add<S: Simd, const Q: usize, const V: usize>(
        &mut self,
        s: S,
        span: &Span<'_>,
        first: usize,
        q: usize,
        seen: std::ops::Range<usize>,
    ) {
        if seen.is_empty() {
            return;
        }
        let (at, width) = (first + q, self.op.value);
        let fades = &mut self.fades[at..at + Q];
        assert!(seen.end <= SPAN && span.values.len() >= SPAN * width);
        let lines = Lines {
            weights: self.scores[q * SPAN..(q + Q) * SPAN][seen.start..].as_ptr(),
            stride: SPAN,
            values: Singles::new(span.values),
            fades: fades.as_ptr(),
            sums: self.sums[at * width..(at + Q) * width].as_mut_ptr(),
            seen,
            width,
        };
        // SAFETY: each query has a span of weights, a fade and a line of sums; each position of the
        // span has a line of values.
        unsafe { add_values::<S, Singles, Q, V>(s, lines) };
        fades.fill(1.0);
    }
}

/// The largest of a span's scores.
#[inline(always)]
fn largest<S: Simd>(s: S, scores: &[f32]) -> f32 {
    let mut top = s.splat(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(S::LANES) {
        // SAFETY: so many are there.
        top = s.max(top, unsafe { s.load(scores.as_ptr()) });
    }
    s.largest(top)
}

/// Replaces scores by e^(factor · score − top), and adds them to the lanes of `total`, which fade first.
#[inline(always)]
fn weigh<S: Simd>(s: S, factor: f32, top: f32, fade: f32, scores: &mut [f32], total: &mut [f32]) {
    let factor = s.splat(factor * std::f32::consts::LOG2_E);
    let top = s.splat(-top * std::f32::consts::LOG2_E);
    // SAFETY: a vector of lanes is there, and whole vectors of scores.
    unsafe {
        let mut sum = s.mul(s.load(total.as_ptr()), s.splat(fade));
        for scores in scores.chunks_exact_mut(S::LANES) {
            let weight = math::exp2(s, s.fma(s.load(scores.as_ptr()), factor, top));
            sum = s.add(sum, weight);
            s.store(scores.as_mut_ptr(), weight);
        }
        s.store(total.as_mut_ptr(), sum);
    }
}

/// Products of `Q` queries with the keys of a span: lines of [`SPAN`], in units of each query.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
fn score<S: Simd, const Q: usize, const V: usize>(
    s: S,
    queries: [&[i32]; Q],
    span: &Span<'_>,
    out: &mut [f32],
) {
    let pairs = queries[0].len();
    assert!(span.keys.len() >= pairs * SPAN && queries.iter().all(|q| q.len() == pairs));
    assert!(span.key_units.len() >= SPAN && out.len() >= Q * SPAN);
    for at in (0..SPAN).step_by(V * S::LANES) {
        let mut acc = [[s.isplat(0); V]; Q];
        // SAFETY: `V * LANES` divides a span, and all are as long as was just checked. Integers are
        // loaded as floats for their bits alone.
        unsafe {
            for pair in 0..pairs {
                let mut line = [s.isplat(0); V];
                for v in 0..V {
                    let keys = span.keys.as_ptr().add(pair * SPAN + at + v * S::LANES);
                    line[v] = s.bits(s.load(keys.cast()));
                }
                for q in 0..Q {
                    let x = s.isplat(*queries[q].as_ptr().add(pair));
                    for v in 0..V {
                        acc[q][v] = s.dot_shorts(acc[q][v], line[v], x);
                    }
                }
            }
            for v in 0..V {
                let place = at + v * S::LANES;
                let unit = s.load(span.key_units.as_ptr().add(place));
                for q in 0..Q {
                    s.store(
                        out.as_mut_ptr().add(q * SPAN + place),
                        s.mul(s.to_float(acc[q][v]), unit),
                    );
                }
            }
        }
    }
}

/// Rounds a query into `out`, with a zero after an odd number of elements; what 1 is worth.
#[inline(always)]
fn round_query<S: Simd>(s: S, query: &[f32], out: &mut [i16]) -> f32 {
    let mut length = s.zero();
    for chunk in query.chunks(S::LANES) {
        // SAFETY: so many elements are there.
        let x = unsafe { s.load_n(chunk.as_ptr(), chunk.len()) };
        length = s.fma(x, x, length);
    }
    let length = s.sum(length).sqrt();
    let factor = s.splat(if length > 0.0 { LENGTH / length } else { 0.0 });
    out.fill(0);
    for (chunk, out) in query.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        let mut shorts = [0i16; 16];
        // SAFETY: so many elements are there, and no instruction set has more than 16 lanes.
        unsafe {
            let x = s.mul(s.load_n(chunk.as_ptr(), chunk.len()), factor);
            s.store_shorts(shorts.as_mut_ptr(), s.to_int(x));
        }
        out[..chunk.len()].copy_from_slice(&shorts[..chunk.len()]);
    }
    // A length that is not finite makes every score NaN.
    length / LENGTH
}

/// Rounds a block of keys, by element, into lines of pairs, [`SPAN`] apart, and tells what 1 is worth.
///
/// # Safety
/// `keys` are lines of a block; there is a line of pairs for every two, of which the last may have one.
#[inline(always)]
unsafe fn round_keys<S: Simd>(s: S, keys: &[f32], pairs: &mut [i32], units: &mut [f32]) {
    for at in (0..BLOCK).step_by(S::LANES) {
        let mut length = s.zero();
        // SAFETY: the caller's promise; `LANES` divides a block. Integers are stored as floats for
        // their bits alone.
        unsafe {
            for line in keys.chunks_exact(BLOCK) {
                let x = s.load(line.as_ptr().add(at));
                length = s.fma(x, x, length);
            }
            let length = s.sqrt(length);
            s.store(units[at..].as_mut_ptr(), s.mul(length, s.splat(1.0 / LENGTH)));
            let none = s.eq(length, s.zero());
            let factor = s.select(none, s.zero(), s.div(s.splat(LENGTH), length));
            for (two, pairs) in keys.chunks(2 * BLOCK).zip(pairs.chunks_mut(SPAN)) {
                let low = s.to_int(s.mul(s.load(two.as_ptr().add(at)), factor));
                let mut pair = s.iand(low, s.isplat(0xffff));
                if two.len() > BLOCK {
                    let high = s.to_int(s.mul(s.load(two.as_ptr().add(BLOCK + at)), factor));
                    pair = s.ior(pair, s.ishl::<16>(high));
                }
                s.store(pairs[at..].as_mut_ptr().cast(), s.of_bits(pair));
            }
        }
    }
}
