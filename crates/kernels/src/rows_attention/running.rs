//! The running softmax of a task's queries, and the steps of few and of many of them.

use std::ops::Range;

use super::many::SPAN;
use super::{Biases, HeadAttention, QueryRow};
use crate::math;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::Simd;

/// What the queries of a task have of the blocks so far.
pub(super) struct Running<'a> {
    pub op: &'a HeadAttention,
    pub rows: &'a [QueryRow<'a>],
    pub biases: Biases<'a>,
    /// Scores of the positions that are looked at.
    pub scores: &'a mut [f32],
    /// Its largest score.
    pub tops: &'a mut [f32],
    /// The sum of its weights.
    pub totals: &'a mut [f32],
    /// What the last block made of the sums before it.
    pub fades: &'a mut [f32],
    /// Its weighted sum of values.
    pub sums: &'a mut [f32],
}

impl<'a> Running<'a> {
    /// Bytes of scratch for `queries` queries and so many scores at a time.
    pub fn scratch(op: &HeadAttention, queries: usize, scores: usize) -> usize {
        need::<f32>(scores) + 3 * need::<f32>(queries) + need::<f32>(queries * op.value)
    }

    /// Before the first block, with room for so many scores.
    pub fn new(
        op: &'a HeadAttention,
        rows: &'a [QueryRow<'a>],
        biases: Biases<'a>,
        scores: usize,
        scratch: &mut &'a mut [u8],
    ) -> Running<'a> {
        let queries = rows.len() * op.group;
        let running = Running {
            op,
            rows,
            biases,
            scores: carve::<f32>(scratch, scores),
            tops: carve::<f32>(scratch, queries),
            totals: carve::<f32>(scratch, queries),
            fades: carve::<f32>(scratch, queries),
            sums: carve::<f32>(scratch, queries * op.value),
        };
        running.sums.fill(0.0);
        let states = running.tops.iter_mut().zip(running.totals.iter_mut());
        for (q, (top, total)) in states.enumerate() {
            let sink = biases.sinks.get(q % op.group).copied();
            *top = sink.unwrap_or(f32::NEG_INFINITY);
            *total = if sink.is_some() { 1.0 } else { 0.0 };
        }
        running
    }

    /// Writes the results of the rows.
    ///
    /// # Safety
    /// Nobody else has them.
    pub unsafe fn finish(self, out: SharedMut<'_, f32>) {
        let (group, value) = (self.op.group, self.op.value);
        for (r, row) in self.rows.iter().enumerate() {
            // SAFETY: the caller's promise.
            let out = unsafe { out.slice(row.out..row.out + group * value) };
            for (g, out) in out.chunks_exact_mut(value).enumerate() {
                let q = r * group + g;
                let share = 1.0 / self.totals[q];
                out.iter_mut().zip(&self.sums[q * value..]).for_each(|(o, x)| *o = x * share);
            }
        }
    }
}

impl HeadAttention {
    /// Which of `len` positions from `start` on a row of `position` sees.
    pub(super) fn seen(&self, position: usize, start: usize, len: usize) -> Range<usize> {
        let (low, high) = (self.first(position).max(start), position.min(start + len - 1));
        low - start..(high + 1).saturating_sub(start)
    }
}

static COUNT: [f32; SPAN] = {
    let mut count = [0.0; SPAN];
    let mut i = 0;
    while i < SPAN {
        count[i] = i as f32;
        i += 1;
    }
    count
};

/// Floats that vectors are loaded of.
pub(super) trait Source: Copy {
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
pub(super) struct Singles(*const f32);

impl Singles {
    pub fn new(elements: &[f32]) -> Singles {
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
pub(super) struct Halves(*const u8);

impl Halves {
    pub fn new(bytes: &[u8]) -> Halves {
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

/// Turns products, times `scale`, into scores, −∞ where they are not seen, and returns the largest.
#[inline(always)]
pub(super) fn finish_scores<S: Simd>(
    s: S,
    op: &HeadAttention,
    scale: f32,
    slope: f32,
    distance: f32,
    seen: &Range<usize>,
    scores: &mut [f32],
) -> f32 {
    let (low, high) = (s.splat(seen.start as f32), s.splat(seen.end as f32));
    let never = s.splat(f32::NEG_INFINITY);
    let mut top = never;
    for i in (0..scores.len()).step_by(S::LANES) {
        // SAFETY: `LANES` divides the length of the scores, of which there are no more than counts.
        unsafe {
            let p = scores[i..].as_mut_ptr();
            let count = s.load(COUNT[i..].as_ptr());
            let mut x = s.mul(s.load(p), s.splat(scale));
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
pub(super) fn weigh<S: Simd>(s: S, top: f32, scores: &mut [f32]) -> f32 {
    let mut total = s.zero();
    for i in (0..scores.len()).step_by(S::LANES) {
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
pub(super) struct Lines<X> {
    /// For each query, `stride` elements apart, a weight for each position seen.
    pub weights: *const f32,
    pub stride: usize,
    /// For each position of the block `width` elements.
    pub values: X,
    pub fades: *const f32,
    /// For each query `width` elements.
    pub sums: *mut f32,
    pub seen: Range<usize>,
    pub width: usize,
}

/// `sums ← fade · sums + Σ weight · value` for `Q` queries, `V` vectors at a time.
///
/// # Safety
/// The lines are as they say.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
pub(super) unsafe fn add_values<S: Simd, X: Source, const Q: usize, const V: usize>(
    s: S,
    lines: Lines<X>,
) {
    let Lines { weights, stride, values, fades, sums, seen, width } = lines;
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
                    let weight = s.splat(*weights.add(q * stride + i));
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
                    let weight = s.splat(*weights.add(q * stride + i));
                    acc = s.fma(weight, values.load_n(s, values_at + i * width + e, n), acc);
                }
                s.store_n(to, acc, n);
            }
            e += S::LANES;
        }
    }
}
