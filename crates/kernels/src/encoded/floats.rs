//! Products of rows of `f32` with weights of 16 or 32 bits, as they are stored: row by row.
//!
//! A result is a sum of segments of [`SEGMENT`] elements. Of each, 16 chains of fused sums are added
//! to those of the segments before, chain `i` of elements `i`, `i + 16`, …; at last the halves of the
//! chains are added until one is left. That is so whatever rows are computed with it.

use std::ops::Range;

use super::form::PANEL;
use super::lanes::{Lanes, Work};
use super::round::MOST_ROWS;
use super::{Finish, needs, run_on};
use crate::isa::Isa;
use crate::shared::SharedMut;

/// The element type of float weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// IEEE singles.
    F32,
    /// IEEE halves.
    F16,
    /// The upper halves of singles.
    BF16,
}

impl Float {
    /// The name that dumps and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::F16 => "f16",
            Float::BF16 => "bf16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == Float::F32 { 4 } else { 2 }
    }
}

/// Elements of a chain's segment: a chain waits for each of its products, and the next segment's do
/// not wait for them.
const SEGMENT: usize = 512;

/// Elements of a row that stay in the first-level cache while weights pass by. Of longer ones, reads
/// hinder those of the weights, which then are asked for a page ahead.
const NEAR: usize = 3072;

/// Bytes between what is multiplied and what is asked for.
const AHEAD: usize = 4096;

/// Bytes of weights that stay in the second-level cache while all rows pass by.
const CACHED: usize = 256 << 10;

/// Panels whose sums a few rows keep by them, at most.
const MOST_PANELS: usize = 8;

/// Float weights of `m` rows of `k` elements, and how they are multiplied.
#[derive(Clone, Copy, Debug)]
pub struct FloatLayout {
    isa: Isa,
    float: Float,
    /// Rows of the weights.
    pub m: usize,
    /// Elements of a row.
    pub k: usize,
}

impl FloatLayout {
    /// The layout for `m` rows of `k` elements.
    pub fn new(isa: Isa, float: Float, m: usize, k: usize) -> FloatLayout {
        FloatLayout { isa, float, m, k }
    }

    /// Panels of [`super::PANEL_ROWS`] rows: what [`FloatProduct::run`] can share out.
    pub fn panels(&self) -> usize {
        self.m.div_ceil(PANEL)
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.k * self.float.bytes()
    }

    /// The element type.
    pub fn float(&self) -> Float {
        self.float
    }

    /// The instruction set that it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// Rows of `f32`, and where their results go.
#[derive(Clone, Copy)]
pub struct FloatRows<'a> {
    /// Rows of `k` elements.
    pub data: &'a [f32],
    /// How many rows to multiply.
    pub count: usize,
    /// For each of them, which row of `data` it is; `None`: all in order.
    pub sources: Option<&'a [i32]>,
    /// For each of them, the row of the result; `None`: the same.
    pub targets: Option<&'a [i32]>,
}

/// A product with float weights.
#[derive(Clone, Copy)]
pub struct FloatProduct<'a> {
    /// Sizes and types.
    pub layout: &'a FloatLayout,
    /// All rows of the weights, at any address.
    pub weights: &'a [u8],
    /// What is done with the sums.
    pub finish: Finish<'a>,
}

impl FloatProduct<'_> {
    /// Computes the columns of `panels` of all rows: row i of the result is
    /// `out[target(i) * m..][..m]`.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these columns of these rows of `out`.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(&self, rows: FloatRows<'_>, panels: Range<usize>, out: SharedMut<'_, f32>) {
        let layout = self.layout;
        assert!(panels.end <= layout.panels(), "panel out of range");
        assert!(self.weights.len() >= layout.m * layout.row_bytes(), "weights too short");
        self.finish.check(layout.m, out);
        assert!(rows.targets.is_none_or(|t| t.len() >= rows.count), "targets too short");
        let group = needs(layout.isa).float_rows;
        let cached = (CACHED / (layout.row_bytes() * PANEL).max(1)).clamp(1, MOST_PANELS);
        let mut sums = [[0.0f32; MOST_PANELS * PANEL]; MOST_ROWS];
        for first in panels.clone().step_by(cached) {
            let here = first..panels.end.min(first + cached);
            for start in (0..rows.count).step_by(group) {
                let x: [&[f32]; MOST_ROWS] = std::array::from_fn(|r| {
                    let i = (start + r).min(rows.count - 1);
                    let source = rows.sources.map_or(i, |sources| sources[i] as usize);
                    &rows.data[source * layout.k..][..layout.k]
                });
                let count = group.min(rows.count - start);
                for panel in here.clone() {
                    let columns = panel * PANEL..layout.m.min((panel + 1) * PANEL);
                    let weights = &self.weights[columns.start * layout.row_bytes()..]
                        [..columns.len() * layout.row_bytes()];
                    let at = (panel - here.start) * PANEL;
                    let sums = sums.each_mut().map(|sums| sums[at..].as_mut_ptr());
                    let (columns, x) = (columns.len(), &x[..count]);
                    run_on(layout.isa, Tile { layout, weights, columns, x, sums });
                }
                let columns = here.start * PANEL..layout.m.min(here.end * PANEL);
                for (r, sums) in sums.iter_mut().enumerate().take(count) {
                    let row = rows.targets.map_or(start + r, |t| t[start + r] as usize);
                    // SAFETY: the caller's promise.
                    unsafe {
                        self.finish.place(layout.isa, (row * layout.m, columns.clone()), sums, out);
                    }
                }
            }
        }
    }
}

/// The sums of a few rows by up to [`PANEL`] rows of weights.
struct Tile<'a> {
    layout: &'a FloatLayout,
    /// Rows of weights, and how many.
    weights: &'a [u8],
    columns: usize,
    x: &'a [&'a [f32]],
    /// Where each row's sums go.
    sums: [*mut f32; MOST_ROWS],
}

/// [`Tile`] of `R` rows, `C` (at most 4) rows of weights at a time, of type `FLOAT` (0: F32, 1: F16,
/// 2: BF16).
struct TileRows<'a, const FLOAT: usize, const R: usize, const C: usize>(Tile<'a>);

/// 16 elements at `p`.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn load<L: Lanes, const FLOAT: usize>(l: L, p: *const u8) -> L::F {
    // SAFETY: the caller's promise.
    unsafe {
        match FLOAT {
            0 => l.load_f(p.cast()),
            1 => l.load_half(p),
            _ => l.load_upper(p),
        }
    }
}

impl<const FLOAT: usize, const R: usize, const C: usize> Work for TileRows<'_, FLOAT, R, C> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Tile { layout, weights, columns, x, sums } = self.0;
        let (k, bytes, row_bytes) = (layout.k, layout.float.bytes(), layout.row_bytes());
        let whole = k - k % PANEL;
        for first in (0..columns).step_by(C) {
            let mut w = [std::ptr::null(); C];
            for c in 0..C {
                // Rows that are not there are the last one again.
                w[c] = weights[(first + c).min(columns - 1) * row_bytes..][..row_bytes].as_ptr();
            }
            let mut total = [[l.splat(0.0); C]; R];
            // SAFETY: rows of x have `k` elements, which `FloatProduct::run` checked, and rows of
            // weights as well; the rests have 16.
            unsafe {
                if R == 1 {
                    // Little is done with what is read, so it is read in the order that it lies
                    // in: rows side by side are read at half the speed.
                    let far = k > NEAR;
                    for c in 0..C {
                        for start in (0..whole).step_by(SEGMENT) {
                            let mut acc = l.splat(0.0);
                            for j in (start..whole.min(start + SEGMENT)).step_by(PANEL) {
                                let p = w[c].add(j * bytes);
                                if far {
                                    l.prefetch(p.wrapping_add(AHEAD));
                                }
                                let w = load::<L, FLOAT>(l, p);
                                acc = l.fma(l.load_f(x[0].as_ptr().add(j)), w, acc);
                            }
                            total[0][c] = l.fma(acc, l.splat(1.0), total[0][c]);
                        }
                    }
                } else {
                    for start in (0..whole).step_by(SEGMENT) {
                        let mut acc = [[l.splat(0.0); C]; R];
                        for j in (start..whole.min(start + SEGMENT)).step_by(PANEL) {
                            let mut elements = [l.splat(0.0); C];
                            for c in 0..C {
                                elements[c] = load::<L, FLOAT>(l, w[c].add(j * bytes));
                            }
                            for r in 0..R {
                                let x = l.load_f(x[r].as_ptr().add(j));
                                for c in 0..C {
                                    acc[r][c] = l.fma(x, elements[c], acc[r][c]);
                                }
                            }
                        }
                        for r in 0..R {
                            for c in 0..C {
                                total[r][c] = l.fma(acc[r][c], l.splat(1.0), total[r][c]);
                            }
                        }
                    }
                }
                if whole < k {
                    // What is left of each row, with zeros after it.
                    for c in 0..C {
                        let mut rest = [0u8; 4 * PANEL];
                        let left = (k - whole) * bytes;
                        w[c].add(whole * bytes).copy_to_nonoverlapping(rest.as_mut_ptr(), left);
                        let w = load::<L, FLOAT>(l, rest.as_ptr());
                        for r in 0..R {
                            let mut rest = [0.0f32; PANEL];
                            rest[..k - whole].copy_from_slice(&x[r][whole..k]);
                            total[r][c] = l.fma(l.load_f(rest.as_ptr()), w, total[r][c]);
                        }
                    }
                }
            }
            for r in 0..R {
                let four = l.sums([0, 1, 2, 3].map(|c| total[r][c % C]));
                // SAFETY: there is room for the sums of all rows of weights.
                unsafe {
                    let to = sums[r].add(first);
                    // A copy of four is one instruction, one of a number at run time is a call.
                    match C.min(columns - first) {
                        4 => to.cast::<[f32; 4]>().write_unaligned(four),
                        some => to.copy_from_nonoverlapping(four.as_ptr(), some),
                    }
                }
            }
        }
    }
}

impl Work for Tile<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        macro_rules! by_rows {
            ($float:literal, $c:literal, $($n:literal)*) => {
                match self.x.len() {
                    $($n if const { $n <= L::FLOAT_ROWS } => {
                        l.outline(TileRows::<$float, $n, $c>(self))
                    })*
                    rows => unreachable!("a group of {rows} rows"),
                }
            };
        }
        match (self.layout.float, const { L::FLOAT_ROWS > 3 }) {
            (Float::F32, true) => by_rows!(0, 4, 1 2 3 4),
            (Float::F16, true) => by_rows!(1, 4, 1 2 3 4),
            (Float::BF16, true) => by_rows!(2, 4, 1 2 3 4),
            (Float::F32, false) => by_rows!(0, 2, 1 2 3),
            (Float::F16, false) => by_rows!(1, 2, 1 2 3),
            (Float::BF16, false) => by_rows!(2, 2, 1 2 3),
        }
    }
}
