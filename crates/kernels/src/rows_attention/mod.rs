//! Attention of rows that see the same cells of keys and values, with a running softmax (arXiv
//! 2205.14135).
//!
//! Few rows multiply singles, [`PAGE`] positions at a time. Where it is faster, [`MANY_ROWS`] and more
//! multiply keys as 16-bit integers (see [`HeadAttention::takes_many`]): their results differ from those
//! of few rows by no more than halves differ from singles. Blocks of positions start at multiples of
//! their length and each row takes them in order, so that a row's result has the same bits whatever rows
//! are computed with it, as long as these are few, and as long as they are many.

mod cells;
mod few;
mod many;
mod running;

use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::simd::{Simd, dispatch, dispatch_shorts};
pub use cells::{Held, PAGE, Pages, Part, Seen};
use few::Few;
use many::Many;

/// Positions of a block: those of a page.
const BLOCK: usize = PAGE;

/// Rows are many from here on: more than are decoded or looked ahead at one time.
pub const MANY_ROWS: usize = 32;

/// Making 16-bit integers of keys takes less than so many queries save by it.
const MANY_QUERIES: usize = 64;

/// Rows of a task, at most.
pub const MOST_ROWS: usize = 256;

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
    /// Of `n` rows that follow one another, how many are best computed together.
    pub fn task_rows(&self, n: usize) -> usize {
        // Keys and values are read once for so many queries, about.
        let few = (32 / self.group).clamp(1, MANY_ROWS / 2);
        let many = (128 / self.group).clamp(MANY_ROWS, MOST_ROWS / 2);
        match self.takes_many(n) {
            true => n.div_ceil((n / many).max(1)),
            false => few.min(n),
        }
    }

    /// Whether products of so many rows with keys are of 16-bit integers. NEON multiplies these no
    /// faster than singles; keys held as singles would lose by it.
    pub fn takes_many(&self, rows: usize) -> bool {
        let twice_as_fast = matches!(self.isa, Isa::Avx2(_) | Isa::Avx512(_) | Isa::Avx512Vnni(_));
        let many = rows >= MANY_ROWS && rows * self.group >= MANY_QUERIES;
        twice_as_fast && many && self.pages.held != Held::F32
    }

    /// Bytes of scratch for at most `rows` rows at a time.
    pub fn scratch(&self, rows: usize) -> usize {
        match self.takes_many(rows) {
            true => {
                let less = (MANY_ROWS * self.group).max(MANY_QUERIES);
                many::scratch(self, rows * self.group).max(few::scratch(self, less))
            }
            false => few::scratch(self, rows * self.group),
        }
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
        let run = Run { op: self, state, head, rows, biases, seen, out, scratch };
        match self.takes_many(rows.len()) {
            true => dispatch_shorts(self.isa, Many(run)),
            false => dispatch(self.isa, Few(run)),
        }
    }
}

/// One head's part of a step.
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

impl HeadAttention {
    /// The first position that a row of `position` sees.
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

impl Run<'_> {
    /// The positions that any row sees; `None` where there is no row.
    fn positions(&self) -> Option<std::ops::RangeInclusive<usize>> {
        let first = self.rows.iter().map(|r| self.op.first(r.position)).min()?;
        Some(first..=self.rows.iter().map(|r| r.position).max()?)
    }

    /// Reads the cells of `positions`, of one block: keys by element, and values. `one` has room for
    /// a key. Where the cells are no page, nothing is written for other positions.
    #[inline(always)]
    fn read<S: Simd>(
        &self,
        s: S,
        positions: std::ops::RangeInclusive<usize>,
        keys: &mut [f32],
        one: &mut [f32],
        values: &mut [f32],
    ) {
        let HeadAttention { isa, pages, value, .. } = *self.op;
        match self.seen.page(positions.clone()) {
            Some(cell) => {
                let page = &self.state[pages.page_of(cell, self.head)];
                pages.keys(isa, page, keys);
                if pages.value > 0 {
                    pages.values(isa, page, values);
                }
            }
            None => {
                for position in positions {
                    let (cell, i) = (self.seen.cell(position), position % BLOCK);
                    let page = &self.state[pages.page_of(cell, self.head)];
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
