//! The gradient of attention of rows that follow one another and see nothing else, block of queries by
//! block of queries; shares are computed again (arXiv 2205.14135).
//!
//! Scores stand turned, a line for each cell, so that a vector holds a score of many queries and all
//! products are of matrices as they lie.

use super::{Biases, HeadAttention};
use crate::gemm_f32::{Epilogue, Gemm, PackLayout, Rows};
use crate::isa::Isa;
use crate::math;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};

/// Queries of a block: a multiple of every vector's width.
const BLOCK: usize = 64;

/// Rows of which each follows the one before; the first is at position 0.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    /// The cell of each.
    pub slots: &'a [i32],
    /// Queries: [rows, group × key].
    pub queries: Rows<'a>,
    /// The gradient of the attention's result: [rows, group × value].
    pub results: Rows<'a>,
}

/// Where the gradient of a chain's rows is written.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    data: SharedMut<'a, f32>,
    start: usize,
    stride: usize,
}

/// Where gradients are written.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// Of queries: [rows, group × key].
    pub queries: Place<'a>,
    /// Of keys: [rows, key].
    pub keys: Place<'a>,
    /// Of values: [rows, value]. Where these are elements of keys they are added to the keys' instead.
    pub values: Option<Place<'a>>,
    /// Of sinks, what each row gives: [rows, group].
    pub sinks: Option<Place<'a>>,
}

impl HeadAttention {
    /// Bytes of scratch for the gradient of chains of up to `rows` rows.
    pub fn gradient_scratch(&self, rows: usize) -> usize {
        let Self { pages, value, softcap, .. } = *self;
        let wide = |n: usize| n.next_multiple_of(BLOCK);
        let widest = wide(pages.key.max(value));
        let scores = if softcap.is_some() { 3 } else { 2 };
        3 * need::<f32>(rows * pages.key)
            + need::<f32>(rows * pages.value)
            + need::<f32>(rows * value)
            + scores * need::<f32>(rows * BLOCK)
            + need::<f32>((rows * BLOCK).max(BLOCK * widest))
            + need::<f32>((rows * widest).max(pages.key * BLOCK))
            + need::<f32>(BLOCK)
    }

    /// The gradient of `chain` by head `head`, whose cells `state` holds.
    ///
    /// # Safety
    /// Nobody else has the rows of `to`.
    ///
    /// # Panics
    /// Where a cell is not in `state`, a table or a place is too short, or scratch is.
    pub unsafe fn gradient(
        &self,
        state: &[u8],
        head: usize,
        chain: Chain<'_>,
        biases: Biases<'_>,
        to: Places<'_>,
        mut scratch: &mut [u8],
    ) {
        let Self { isa, pages, group, value, .. } = *self;
        let (key, n) = (pages.key, chain.slots.len());
        assert!(biases.slopes.is_empty() || biases.slopes.len() == group, "slopes");
        assert!(biases.sinks.is_empty() || biases.sinks.len() == group, "sinks");
        let keys = carve::<f32>(&mut scratch, n * key);
        let turned = carve::<f32>(&mut scratch, n * key);
        let own_values = carve::<f32>(&mut scratch, n * pages.value);
        for (i, slot) in chain.slots.iter().enumerate() {
            let page = &state[pages.page_of(*slot as usize, head)];
            let line = &mut keys[i * key..][..key];
            pages.key(isa, page, *slot as usize, line);
            line.iter().enumerate().for_each(|(e, k)| turned[e * n + i] = *k);
            if pages.value > 0 {
                pages.value(isa, page, *slot as usize, &mut own_values[i * value..][..value]);
            }
        }
        let values = match pages.value {
            0 => Rows { data: keys, stride: key },
            _ => Rows { data: own_values, stride: value },
        };
        let d_keys = carve::<f32>(&mut scratch, n * key);
        let d_values = carve::<f32>(&mut scratch, n * value);
        d_keys.fill(0.0);
        d_values.fill(0.0);
        let scores = carve::<f32>(&mut scratch, n * BLOCK);
        let d_scores = carve::<f32>(&mut scratch, n * BLOCK);
        let steep = carve::<f32>(&mut scratch, if self.softcap.is_some() { n * BLOCK } else { 0 });
        let widest = key.max(value).next_multiple_of(BLOCK);
        let packed = carve::<f32>(&mut scratch, (n * BLOCK).max(BLOCK * widest));
        let product = carve::<f32>(&mut scratch, (n * widest).max(key * BLOCK));
        let sunk = carve::<f32>(&mut scratch, BLOCK);
        for g in 0..group {
            for start in (0..n).step_by(BLOCK) {
                let end = n.min(start + BLOCK);
                let (low, columns) = (self.first(start), end - start);
                let cells = end - low;
                let queries = lines(chain.queries, start, g * key);
                let results = lines(chain.results, start, g * value);
                // Scores, and the gradient of the shares.
                let of_cells = [
                    (rows(keys, key, low), key, queries, &mut *scores),
                    (lines(values, low, 0), value, results, &mut *d_scores),
                ];
                for (a, k, b, out) in of_cells {
                    let b = Matrix { data: b.data, strides: (1, b.stride), k, n: columns };
                    multiply(isa, a, cells, b, packed, out, BLOCK);
                }
                dispatch(
                    isa,
                    Shares {
                        op: self,
                        start,
                        columns,
                        low,
                        slope: biases.slopes.get(g).copied().unwrap_or(0.0),
                        sink: biases.sinks.get(g).copied(),
                        scores: &mut *scores,
                        d_scores: &mut *d_scores,
                        steep: &mut *steep,
                        sunk: &mut *sunk,
                    },
                );
                // What cells get of queries and of results.
                let of_queries = [
                    (&*d_scores, key, queries, &mut *d_keys),
                    (&*scores, value, results, &mut *d_values),
                ];
                for (shares, width, b, sums) in of_queries {
                    let a = Rows { data: shares, stride: BLOCK };
                    let b = Matrix { data: b.data, strides: (b.stride, 1), k: columns, n: width };
                    multiply(isa, a, cells, b, packed, product, width);
                    let sums = &mut sums[low * width..end * width];
                    sums.iter_mut().zip(&*product).for_each(|(sum, more)| *sum += more);
                }
                // What queries get of keys, turned.
                let a = Rows { data: &turned[low..], stride: n };
                let b = Matrix { data: d_scores, strides: (BLOCK, 1), k: cells, n: columns };
                multiply(isa, a, key, b, packed, product, BLOCK);
                for (column, row) in (start..end).enumerate() {
                    // SAFETY: the caller's promise.
                    let out = unsafe { to.queries.row(row, g * key, key) };
                    let column = product[column..].iter().step_by(BLOCK);
                    out.iter_mut().zip(column).for_each(|(o, d)| *o = *d);
                }
                if let Some(sinks) = to.sinks {
                    for (row, d) in (start..end).zip(&*sunk) {
                        // SAFETY: as above.
                        unsafe { sinks.row(row, g, 1) }.fill(*d);
                    }
                }
            }
        }
        for row in 0..n {
            // SAFETY: as above.
            let own = unsafe { to.keys.row(row, 0, key) };
            own.copy_from_slice(&d_keys[row * key..][..key]);
            let d_value = &d_values[row * value..][..value];
            match to.values {
                // SAFETY: as above.
                Some(values) => unsafe { values.row(row, 0, value) }.copy_from_slice(d_value),
                None => own.iter_mut().zip(d_value).for_each(|(d, more)| *d += more),
            }
        }
    }
}

impl<'a> Place<'a> {
    /// In `data`: the first row from element `start` on, rows `stride` apart.
    pub fn new(data: SharedMut<'a, f32>, (start, stride): (usize, usize)) -> Place<'a> {
        Place { data, start, stride }
    }

    /// `len` elements of a row, from `first` on.
    ///
    /// # Safety
    /// Nobody else has them.
    unsafe fn row(self, row: usize, first: usize, len: usize) -> &'a mut [f32] {
        let start = self.start + row * self.stride + first;
        // SAFETY: the caller's promise.
        unsafe { self.data.slice(start..start + len) }
    }
}

/// Rows of `width` elements side by side, from row `first` on.
fn rows(data: &[f32], width: usize, first: usize) -> Rows<'_> {
    Rows { data: &data[first * width..], stride: width }
}

/// Rows from `first` on, of each the elements from `column` on.
fn lines(of: Rows<'_>, first: usize, column: usize) -> Rows<'_> {
    Rows { data: &of.data[first * of.stride + column..], stride: of.stride }
}

/// A right-hand side of `k` rows and `n` columns.
struct Matrix<'a> {
    data: &'a [f32],
    /// From one row to the next, and from one column.
    strides: (usize, usize),
    k: usize,
    n: usize,
}

/// The product of `count` rows of `a` with `b`, in rows `stride` apart.
fn multiply(
    isa: Isa,
    a: Rows<'_>,
    count: usize,
    b: Matrix<'_>,
    packed: &mut [f32],
    out: &mut [f32],
    stride: usize,
) {
    let layout = PackLayout::new(isa, b.k, b.n);
    let packed = &mut packed[..layout.len()];
    layout.pack(0..layout.panels(), b.data, b.strides, packed);
    let gemm = Gemm { layout, b: packed, epilogue: Epilogue::default() };
    // SAFETY: nobody else has `out`.
    unsafe { gemm.run(0..count, 0..layout.panels(), a, SharedMut::new(out), stride) };
}

/// Makes shares of the scores of a block of queries, and the gradient of scores of that of shares.
struct Shares<'a> {
    op: &'a HeadAttention,
    /// The position of the first query.
    start: usize,
    columns: usize,
    /// The position of the first cell.
    low: usize,
    slope: f32,
    sink: Option<f32>,
    /// Lines of a block, one a cell: scores before their scale, then shares.
    scores: &'a mut [f32],
    /// The gradient of shares, then that of products.
    d_scores: &'a mut [f32],
    /// Room for the slopes of capped scores.
    steep: &'a mut [f32],
    /// The gradient of each query's sink.
    sunk: &'a mut [f32],
}

impl Kernel for Shares<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Shares { op, start, columns, low, slope, sink, scores, d_scores, steep, sunk } = self;
        let cells = start + columns - low;
        assert!(scores.len() >= cells * BLOCK && d_scores.len() >= cells * BLOCK);
        assert!(op.softcap.is_none() || steep.len() >= cells * BLOCK);
        assert!(columns <= BLOCK && sunk.len() >= columns);
        let (scale, one, slopes) = (s.splat(op.scale), s.splat(1.0), s.splat(slope));
        let nothing = s.splat(f32::NEG_INFINITY);
        let window = s.splat(op.window.map_or(f32::INFINITY, |w| w as f32));
        for column in (0..columns).step_by(S::LANES) {
            // SAFETY: a line has `BLOCK` elements, of which `LANES` are left, for this is a multiple
            // of theirs.
            unsafe {
                let at = |cell: usize| cell * BLOCK + column;
                // The distance of the cell `low`; those after it are nearer.
                let mut first = [0.0; 16];
                for (i, away) in first.iter_mut().enumerate() {
                    *away = (start + column + i) as f32 - low as f32;
                }
                let first = s.load(first.as_ptr());
                let away = |cell: usize| s.sub(first, s.splat(cell as f32));
                let seen = |score: S::V, away: S::V| {
                    let near = s.select(s.lt(away, window), score, nothing);
                    s.select(s.lt(away, s.zero()), nothing, near)
                };
                let mut top = s.splat(sink.unwrap_or(f32::NEG_INFINITY));
                for cell in 0..cells {
                    let to = scores.as_mut_ptr().add(at(cell));
                    let mut score = s.mul(s.load(to), scale);
                    if let Some(cap) = op.softcap {
                        let tanh = math::tanh(s, s.mul(score, s.splat(1.0 / cap)));
                        let slope = s.fnma(tanh, tanh, one);
                        s.store(steep.as_mut_ptr().add(at(cell)), slope);
                        score = s.mul(tanh, s.splat(cap));
                    }
                    let away = away(cell);
                    let score = seen(s.fnma(slopes, away, score), away);
                    s.store(to, score);
                    top = s.max(top, score);
                }
                let gone = match sink {
                    Some(sink) => math::exp(s, s.sub(s.splat(sink), top)),
                    None => s.zero(),
                };
                let (mut total, mut mean) = (gone, s.zero());
                for cell in 0..cells {
                    let to = scores.as_mut_ptr().add(at(cell));
                    // 0 for a cell that is not seen.
                    let share = math::exp(s, s.sub(s.load(to), top));
                    s.store(to, share);
                    total = s.add(total, share);
                    mean = s.fma(share, s.load(d_scores.as_ptr().add(at(cell))), mean);
                }
                let factor = s.div(one, total);
                let mean = s.mul(mean, factor);
                for cell in 0..cells {
                    let to = scores.as_mut_ptr().add(at(cell));
                    let share = s.mul(s.load(to), factor);
                    s.store(to, share);
                    let to = d_scores.as_mut_ptr().add(at(cell));
                    let mut d = s.mul(s.mul(share, s.sub(s.load(to), mean)), scale);
                    if op.softcap.is_some() {
                        d = s.mul(d, s.load(steep.as_ptr().add(at(cell))));
                    }
                    s.store(to, d);
                }
                let lost = s.neg(s.mul(s.mul(gone, factor), mean));
                let left = (columns - column).min(S::LANES);
                s.store_n(sunk.as_mut_ptr().add(column), lost, left);
            }
        }
    }
}
