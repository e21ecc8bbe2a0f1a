//! Packed matrices: the order in which the tiles read them.

use std::ops::Range;

use bytemuck::Zeroable;

use super::term::Term;
use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, lanes};

/// How a `k` × `n` matrix is packed for one instruction set: its rows joined to [`Term`]s, cut into
/// panels of some vectors' width (the last may be narrower), each panel stored row by row, the last
/// vector padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLayout {
    pub(crate) isa: Isa,
    /// Rows: the length of the dot products.
    pub k: usize,
    /// Rows of terms.
    pub(crate) terms: usize,
    /// Columns.
    pub n: usize,
    pub(crate) lanes: usize,
    /// Vectors in a panel.
    pub(crate) vectors: usize,
}

impl PackLayout {
    /// The layout for a `k` × `n` matrix of `f32`.
    pub fn new(isa: Isa, k: usize, n: usize) -> Self {
        Self::of::<f32>(isa, k, n)
    }

    /// The layout for a `k` × `n` matrix in terms `T`.
    pub fn of<T: Term>(isa: Isa, k: usize, n: usize) -> Self {
        let isa = T::isa(isa, n);
        let lanes = lanes(isa);
        let vectors = super::micro::panel_vectors(isa, n.div_ceil(lanes));
        Self { isa, k, terms: k.div_ceil(T::ELEMENTS), n, lanes, vectors }
    }

    /// The instruction set it is for: a narrower one than was given, where columns are few.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Columns in a panel; the last one may have fewer.
    pub fn panel_columns(&self) -> usize {
        self.vectors * self.lanes
    }

    /// How many panels there are.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(self.panel_columns())
    }

    /// The columns of panel `panel`.
    pub fn columns(&self, panel: usize) -> Range<usize> {
        let width = self.panel_columns();
        panel * width..self.n.min((panel + 1) * width)
    }

    /// Rows of a tile: threads do well to cut rows at multiples of it.
    pub fn tile_rows(&self) -> usize {
        super::micro::rows_of(self.isa, self.vectors)
    }

    /// Vectors in panel `panel`.
    pub(crate) fn vectors_in(&self, panel: usize) -> usize {
        self.columns(panel).len().div_ceil(self.lanes)
    }

    /// Terms of the packed matrix.
    ///
    /// # Panics
    /// Where it is larger than memory.
    pub fn len(&self) -> usize {
        let columns = self.n.div_ceil(self.lanes) * self.lanes;
        self.terms.checked_mul(columns).expect("packed matrix too large")
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where panel `panel` starts.
    pub(crate) fn offset(&self, panel: usize) -> usize {
        self.terms * self.panel_columns() * panel
    }

    /// Where panels lie among the terms of the packed matrix.
    pub fn place(&self, panels: Range<usize>) -> Range<usize> {
        let at = |panel: usize| self.offset(panel).min(self.len());
        at(panels.start)..at(panels.end)
    }

    /// Puts row `row` of the matrix, `values`, where it belongs in the packed one.
    ///
    /// # Safety
    /// Meanwhile nobody else touches this row of `packed`.
    ///
    /// # Panics
    /// Where there is no such row, or a slice is too short.
    pub unsafe fn put_row(&self, row: usize, values: &[f32], packed: SharedMut<'_, f32>) {
        assert!(row < self.k, "row out of range");
        for panel in 0..self.panels() {
            let width = self.vectors_in(panel) * self.lanes;
            let start = self.offset(panel) + row * width;
            // SAFETY: the caller's promise; a row's places are its own.
            let place = unsafe { packed.slice(start..start + width) };
            let columns = self.columns(panel);
            let (own, padding) = place.split_at_mut(columns.len());
            own.copy_from_slice(&values[columns]);
            padding.fill(0.0);
        }
    }

    /// Packs the panels `panels` of the matrix whose element (i, j) is
    /// `source[i * row_stride + j * column_stride]` into `packed`, which holds just these panels.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn pack<T: Term>(
        &self,
        panels: Range<usize>,
        source: &[T::Element],
        strides: (usize, usize),
        packed: &mut [T],
    ) {
        T::dispatch(self.isa, PackPanels { layout: self, panels, source, strides, packed });
    }
}

struct PackPanels<'a, T: Term> {
    layout: &'a PackLayout,
    panels: Range<usize>,
    source: &'a [T::Element],
    strides: (usize, usize),
    packed: &'a mut [T],
}

impl<T: Term> Kernel for PackPanels<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { layout, panels, source, strides: (row_stride, column_stride), packed } = self;
        let (k, terms) = (layout.k, layout.terms);
        let mut rest = packed;
        for panel in panels {
            let columns = layout.columns(panel);
            let width = layout.vectors_in(panel) * S::LANES;
            let (here, after) = rest.split_at_mut(terms * width);
            rest = after;
            if row_stride == 1 && column_stride != 1 {
                // Columns are contiguous: squares of them are turned.
                for first in columns.clone().step_by(S::LANES) {
                    let count = S::LANES.min(columns.end - first);
                    for t in (0..terms).step_by(S::LANES) {
                        let of_terms = t * T::ELEMENTS..k.min((t + S::LANES) * T::ELEMENTS);
                        let mut square = Square::zeroed();
                        for j in 0..count {
                            let column = &source[(first + j) * column_stride..];
                            square.put_line(j, &column[of_terms.clone()]);
                        }
                        let to = &mut here[t * width + first - columns.start..];
                        square.turn(s, S::LANES.min(terms - t), S::LANES, to, width);
                    }
                }
                continue;
            }
            for (t, row) in here.chunks_exact_mut(width).enumerate() {
                for (first, to) in columns.clone().step_by(S::LANES).zip(row.chunks_mut(S::LANES)) {
                    let count = S::LANES.min(columns.end - first);
                    let start = first * column_stride;
                    let line = |i: usize| (i < k).then(|| &source[i * row_stride + start..]);
                    let lines = [line(t * T::ELEMENTS), line(t * T::ELEMENTS + 1)];
                    let terms = across::<S, T>(s, lines, count, column_stride);
                    // SAFETY: chunks of a row of whole vectors are whole vectors.
                    unsafe { s.store(to.as_mut_ptr().cast(), terms) };
                }
            }
        }
    }
}

/// Terms of the first `count` elements of lines, `stride` apart in each; zeros follow.
#[inline(always)]
fn across<S: Simd, T: Term>(
    s: S,
    lines: [Option<&[T::Element]>; 2],
    count: usize,
    stride: usize,
) -> S::V {
    if stride == 1 && count == S::LANES {
        let lines = lines.map(|line| line.map(|line| line[..count].as_ptr()));
        // SAFETY: so many are there.
        return unsafe { T::across(s, lines) };
    }
    let mut own = [[T::Element::zeroed(); MOST_LANES]; 2];
    for (own, line) in own.iter_mut().zip(lines).take(T::ELEMENTS) {
        if let Some(line) = line {
            own.iter_mut().take(count).enumerate().for_each(|(i, own)| *own = line[i * stride]);
        }
    }
    let lines = own.each_ref().map(|line| Some(line.as_ptr()));
    // SAFETY: no instruction set has more lanes.
    unsafe { T::across(s, lines) }
}

/// No instruction set has more lanes.
const MOST_LANES: usize = 16;

/// As many lines of terms as a vector has lanes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Zeroable)]
struct Square([[f32; MOST_LANES]; MOST_LANES]);

impl Square {
    /// Begins line `i` with `elements`.
    #[inline(always)]
    fn put_line<E: bytemuck::Pod>(&mut self, i: usize, elements: &[E]) {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        bytemuck::bytes_of_mut(&mut self.0[i])[..bytes.len()].copy_from_slice(bytes);
    }

    /// Writes `rows` columns of `columns` terms as rows of `to`, `stride` terms apart.
    #[inline(always)]
    fn turn<S: Simd, T: Term>(
        &self,
        s: S,
        rows: usize,
        columns: usize,
        to: &mut [T],
        stride: usize,
    ) {
        assert!(rows <= S::LANES && columns <= S::LANES, "a square of more lines than lanes");
        let from = self.0.as_ptr().cast();
        if (rows, columns) == (S::LANES, S::LANES) {
            assert!(to.len() >= (rows - 1) * stride + columns, "no room for a square");
            // SAFETY: the square has as many lines, and there is room.
            unsafe { s.transpose(from, MOST_LANES, to.as_mut_ptr().cast(), stride) };
            return;
        }
        let mut turned = Square::zeroed();
        // SAFETY: both have as many lines.
        unsafe { s.transpose(from, MOST_LANES, turned.0.as_mut_ptr().cast(), MOST_LANES) };
        for (i, line) in turned.0.iter().enumerate().take(rows) {
            to[i * stride..][..columns].copy_from_slice(&bytemuck::cast_slice(line)[..columns]);
        }
    }
}

/// How rows of a left-hand side are packed that do not lie as tiles read them: transposed ones, and rows
/// that end amid a [`Term`].
#[derive(Clone, Copy, Debug)]
pub struct LeftLayout {
    isa: Isa,
    /// Elements of a row: the length of the dot products.
    k: usize,
    terms: usize,
    /// Terms from one row to the next.
    pub stride: usize,
    /// Rows that are best packed at once.
    pub block: usize,
}

/// About how much of a left-hand side is packed at once. Of a transposed one, each line is far from the
/// next, so that more than a cache line of it is to be read at a time. Tiles meet some rows at a time
/// ([`super::block_rows`]), for which the second-level cache is large enough.
const LEFT_BYTES: usize = 2 << 20;

/// Terms whose rows would all meet in the same few sets of a first-level cache.
const ALIASED: usize = 512;

impl LeftLayout {
    /// For rows that meet a right-hand side of `layout` in terms `T`.
    pub fn of<T: Term>(layout: &PackLayout) -> LeftLayout {
        let &PackLayout { isa, k, terms, .. } = layout;
        let line = 64 / size_of::<T>();
        let stride = terms + if terms.is_multiple_of(ALIASED) { line } else { 0 };
        let rows = LEFT_BYTES / (stride * size_of::<T>()).max(1);
        let block = rows.max(1).next_multiple_of(layout.tile_rows());
        LeftLayout { isa, k, terms, stride, block }
    }

    /// Packs the rows `rows` of the matrix whose element (i, j) is
    /// `source[i * row_stride + j * column_stride]` into `packed`, which holds just these rows.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn pack<T: Term>(
        &self,
        rows: Range<usize>,
        source: &[T::Element],
        strides: (usize, usize),
        packed: &mut [T],
    ) {
        T::dispatch(self.isa, PackRows { layout: self, rows, source, strides, packed });
    }
}

struct PackRows<'a, T: Term> {
    layout: &'a LeftLayout,
    rows: Range<usize>,
    source: &'a [T::Element],
    strides: (usize, usize),
    packed: &'a mut [T],
}

impl<T: Term> Kernel for PackRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { layout, rows, source, strides: (row_stride, column_stride), packed } = self;
        let &LeftLayout { k, terms, stride, .. } = layout;
        if column_stride == 1 {
            for (to, row) in packed.chunks_mut(stride.max(1)).zip(rows) {
                let row: &[u8] = bytemuck::cast_slice(&source[row * row_stride..][..k]);
                let to: &mut [u8] = bytemuck::cast_slice_mut(to);
                let (own, padding) = to.split_at_mut(row.len());
                own.copy_from_slice(row);
                padding.fill(0);
            }
            return;
        }
        for t in (0..terms).step_by(S::LANES) {
            let height = S::LANES.min(terms - t);
            for first in rows.clone().step_by(S::LANES) {
                let count = S::LANES.min(rows.end - first);
                let mut square = Square::zeroed();
                for (i, to) in square.0.iter_mut().enumerate().take(height) {
                    let start = first * row_stride;
                    let line = |j: usize| (j < k).then(|| &source[j * column_stride + start..]);
                    let j = (t + i) * T::ELEMENTS;
                    let line = across::<S, T>(s, [line(j), line(j + 1)], count, row_stride);
                    // SAFETY: no instruction set has more lanes.
                    unsafe { s.store(to.as_mut_ptr(), line) };
                }
                let to = &mut packed[(first - rows.start) * stride + t..];
                square.turn(s, count, height, to, stride);
            }
        }
    }
}

/// A packed matrix: weights, packed once when a model is planned.
#[derive(Clone)]
pub struct PackedB<T: Term = f32> {
    layout: PackLayout,
    data: Aligned<T>,
}

impl PackedB {
    /// Packs the `k` × `n` matrix whose element (i, j) is
    /// `source[i * row_stride + j * column_stride]`.
    ///
    /// # Panics
    /// Where `source` is too short.
    pub fn new(isa: Isa, k: usize, n: usize, source: &[f32], strides: (usize, usize)) -> Self {
        Self::of(PackLayout::new(isa, k, n), source, strides)
    }
}

impl<T: Term> PackedB<T> {
    /// Packs such a matrix as `layout` says.
    ///
    /// # Panics
    /// Where `source` is too short.
    pub fn of(layout: PackLayout, source: &[T::Element], strides: (usize, usize)) -> Self {
        let mut data = Aligned::to_fill(layout.len());
        layout.pack(0..layout.panels(), source, strides, &mut data);
        Self { layout, data }
    }

    /// Its layout.
    pub fn layout(&self) -> PackLayout {
        self.layout
    }

    /// Its terms, for [`super::Gemm`].
    pub fn data(&self) -> &[T] {
        &self.data
    }
}
