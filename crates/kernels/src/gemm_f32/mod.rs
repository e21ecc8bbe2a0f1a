//! Matrix products of `f32`, or of bf16 summed in `f32`: `out = act(a · b + bias)`, and what else is
//! done while the results are hot.
//!
//! What tiles multiply are [`Term`]s of 32 bits: an `f32`, or a [`Pair`] of bf16 that follow each
//! other in a dot product, as BF16 instructions take them. All else is the same for both.
//!
//! The right-hand side is packed ([`PackedB`] for weights, [`PackLayout`] where it is made at run
//! time); the left-hand side is read where it lies. Work is a range of rows and a range of panels,
//! so that threads share a product whatever its shape.

pub(crate) mod micro;
mod pack;
mod term;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use pack::{LeftLayout, PackLayout, PackedB};
pub use term::{Pair, Term};

use crate::elementwise::Unary;
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd};
use micro::{MAX_ROWS, Tile, run_tile};

/// A matrix with contiguous columns: `rows` are `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, T = f32> {
    /// The elements.
    pub data: &'a [T],
    /// Elements from one row to the next.
    pub stride: usize,
}

/// What is done to each result before it is stored: `after(activation(x + bias) + residual)`.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One value a column.
    pub bias: Option<&'a [f32]>,
    /// Applied to the biased product.
    pub activation: Unary,
    /// Added to the activated product; as many rows and columns as the result.
    pub residual: Option<Rows<'a>>,
    /// Applied to the sum with the residual; unused without one.
    pub after: Unary,
}

/// A matrix product with a packed right-hand side.
#[derive(Clone, Copy)]
pub struct Gemm<'a, T = f32> {
    /// Layout of `b`.
    pub layout: PackLayout,
    /// The packed right-hand side: [`PackLayout::len`] terms.
    pub b: &'a [T],
    /// What is done to the results.
    pub epilogue: Epilogue<'a>,
}

/// About how much of the left-hand side a block of rows may hold so that it stays in the
/// second-level cache while the panels pass by.
const BLOCK_BYTES: usize = 256 << 10;
/// A packed right-hand side up to this size stays in the second-level cache itself.
const RESIDENT_BYTES: usize = 1 << 20;

impl<T: Term> Gemm<'_, T> {
    /// Computes the results of `rows` × `panels`. Row i of the left-hand side is
    /// `a.data[i * a.stride..]`, as many terms as make up k elements, row i of the result `out[i * out_stride..][..n]`.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these columns of these rows of `out`.
    ///
    /// # Panics
    /// Where a slice is too short for the rows and panels asked for.
    pub unsafe fn run(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        a: Rows<'_, T>,
        out: SharedMut<'_, f32>,
        out_stride: usize,
    ) {
        let PackLayout { terms, n, .. } = self.layout;
        if rows.is_empty() || panels.is_empty() || n == 0 {
            return;
        }
        assert!(panels.end <= self.layout.panels(), "panel out of range");
        check_rows("left-hand side", rows.end, a.stride, terms, a.data.len());
        check_rows("output", rows.end, out_stride, n, out.len());
        assert!(self.b.len() >= self.layout.len(), "packed matrix too short");
        self.epilogue.check(rows.end, n);
        T::dispatch(self.layout.isa, Run { gemm: self, rows, panels, a, out, out_stride });
    }
}

/// Panics unless `rows` rows of `columns` elements, `stride` apart, fit in `len`.
pub(crate) fn check_rows(what: &str, rows: usize, stride: usize, columns: usize, len: usize) {
    let end = (rows.saturating_sub(1)).checked_mul(stride).and_then(|x| x.checked_add(columns));
    assert!(rows == 0 || end.is_some_and(|end| end <= len), "{what} too short");
}

impl Epilogue<'_> {
    /// Panics unless bias and residual hold `rows` × `n` results.
    pub(crate) fn check(&self, rows: usize, n: usize) {
        assert!(self.bias.is_none_or(|bias| bias.len() >= n), "bias too short");
        if let Some(residual) = self.residual {
            check_rows("residual", rows, residual.stride, n, residual.data.len());
        }
    }

    /// The epilogue that the tile does itself, and whether the rest is left to [`Self::finish`].
    pub(crate) fn split(&self) -> (TileEpilogue, bool) {
        let identity = (f32::NEG_INFINITY, f32::INFINITY);
        let whole = self.residual.is_none() || self.after.as_clamp().is_some();
        match self.activation.as_clamp() {
            Some(clamp) if whole => {
                let clamp_after = self.after.as_clamp().unwrap_or(identity);
                (TileEpilogue { clamp, clamp_after, residual: true }, false)
            }
            _ => (TileEpilogue { clamp: identity, clamp_after: identity, residual: false }, true),
        }
    }

    /// Does the activations and the residual for a tile that [`Self::split`] left to us.
    ///
    /// # Safety
    /// `count` rows of `columns` elements at `out`, `out_stride` apart, are ours, and the residual
    /// has rows `row`, `row + step`, … and columns up to `column + columns`.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd>(
        &self,
        s: S,
        (row, step, count): (usize, usize, usize),
        (column, columns): (usize, usize),
        out: *mut f32,
        out_stride: usize,
    ) {
        for i in 0..count {
            // SAFETY: the caller's promise.
            let line = unsafe { std::slice::from_raw_parts_mut(out.add(i * out_stride), columns) };
            s.outline(self.activation.on(line));
            if let Some(residual) = self.residual {
                let start = (row + i * step) * residual.stride + column;
                for (x, r) in line.iter_mut().zip(&residual.data[start..start + columns]) {
                    *x += r;
                }
                s.outline(self.after.on(line));
            }
        }
    }
}

/// The part of an [`Epilogue`] that a tile does in registers.
#[derive(Clone, Copy)]
pub(crate) struct TileEpilogue {
    pub clamp: (f32, f32),
    pub clamp_after: (f32, f32),
    /// Whether the tile adds the residual.
    pub residual: bool,
}

struct Run<'a, T> {
    gemm: &'a Gemm<'a, T>,
    rows: Range<usize>,
    panels: Range<usize>,
    a: Rows<'a, T>,
    out: SharedMut<'a, f32>,
    out_stride: usize,
}

impl<T: Term> Kernel for Run<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { gemm, rows, panels, a, out, out_stride } = self;
        let Gemm { layout, b, epilogue } = gemm;
        let emit = Emit::new(layout, b, epilogue, 0, out, out_stride);
        let tile_rows = micro::tile_rows(S::REGISTERS, layout.vectors);
        for block in even_parts(rows, block_rows(layout, tile_rows)) {
            for panel in panels.clone() {
                for tile in even_parts(block.clone(), tile_rows) {
                    let mut pointers = [std::ptr::null(); MAX_ROWS];
                    for (pointer, row) in pointers.iter_mut().zip(tile.clone()) {
                        *pointer = a.data.as_ptr().wrapping_add(row * a.stride);
                    }
                    // SAFETY: `Gemm::run` checked every slice against the rows and panels, and
                    // its caller promises that these results are ours.
                    unsafe {
                        emit.tile(
                            s,
                            tile.start,
                            1,
                            tile.len(),
                            panel,
                            (1, layout.terms),
                            pointers.as_ptr(),
                        );
                    }
                }
            }
        }
    }
}

/// How many rows at a time the panels pass by: a packed matrix too large for the second-level
/// cache is to be read once a block of rows, not once a tile.
pub(crate) fn block_rows(layout: &PackLayout, tile_rows: usize) -> usize {
    if layout.len() * size_of::<f32>() <= RESIDENT_BYTES {
        tile_rows
    } else {
        let rows = BLOCK_BYTES / (layout.terms * size_of::<f32>()).max(1);
        rows.max(1).next_multiple_of(tile_rows)
    }
}

/// Where tiles put their results, and what they do to them first.
pub(crate) struct Emit<'a, T> {
    layout: &'a PackLayout,
    b: &'a [T],
    epilogue: &'a Epilogue<'a>,
    tile: TileEpilogue,
    unfinished: bool,
    /// The result's column that is the packed matrix's first.
    column: usize,
    out: SharedMut<'a, f32>,
    out_stride: usize,
}

impl<'a, T: Term> Emit<'a, T> {
    pub(crate) fn new(
        layout: &'a PackLayout,
        b: &'a [T],
        epilogue: &'a Epilogue<'a>,
        column: usize,
        out: SharedMut<'a, f32>,
        out_stride: usize,
    ) -> Self {
        let (tile, unfinished) = epilogue.split();
        Self { layout, b, epilogue, tile, unfinished, column, out, out_stride }
    }

    /// Computes `count` rows of results, `row`, `row + step`, …, in the columns of `panel`, from
    /// `taps` stretches of `depth` terms, whose beginnings are at `a`: for each tap, each row.
    ///
    /// # Safety
    /// The pointers are good for `depth` terms, `taps * depth` is the packed matrix's height,
    /// and bias, residual and output have these rows and columns, which are ours.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a tile's coordinates")]
    pub(crate) unsafe fn tile<S: Simd>(
        &self,
        s: S,
        row: usize,
        step: usize,
        count: usize,
        panel: usize,
        (taps, depth): (usize, usize),
        a: *const *const T,
    ) {
        let columns = self.layout.columns(panel);
        let column = self.column + columns.start;
        let residual = self.epilogue.residual.filter(|_| self.tile.residual);
        let out = self.out.as_mut_ptr().wrapping_add(row * self.out_stride + column);
        let out_stride = step * self.out_stride;
        let work = Tile {
            taps,
            depth,
            a,
            b: self.b.as_ptr().wrapping_add(self.layout.offset(panel)),
            out,
            out_stride,
            columns: columns.len(),
            bias: self.epilogue.bias.map_or(std::ptr::null(), |bias| bias[column..].as_ptr()),
            residual: residual.map_or(std::ptr::null(), |r| {
                r.data.as_ptr().wrapping_add(row * r.stride + column)
            }),
            residual_stride: residual.map_or(0, |r| step * r.stride),
            clamp: self.tile.clamp,
            clamp_after: self.tile.clamp_after,
        };
        // SAFETY: the caller's promise.
        unsafe {
            run_tile(s, count, self.layout.vectors_in(panel), &work);
            if self.unfinished {
                let rows = (row, step, count);
                self.epilogue.finish(s, rows, (column, columns.len()), out, out_stride);
            }
        }
    }
}

/// Cuts `range` into the fewest parts of at most `most`, their lengths at most one apart.
#[inline(always)]
pub(crate) fn even_parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = range.len().div_ceil(most).max(1);
    let (base, longer) = (range.len() / parts, range.len() % parts);
    let mut start = range.start;
    (0..parts).filter_map(move |i| {
        let end = start + base + usize::from(i < longer);
        let part = start..end;
        start = end;
        (!part.is_empty()).then_some(part)
    })
}
