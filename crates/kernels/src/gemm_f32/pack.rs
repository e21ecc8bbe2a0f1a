//! Packed right-hand sides: the order in which the tiles read them.

use std::ops::Range;

use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::simd::lanes;

/// How a `k` × `n` matrix is packed for one instruction set: cut into panels of some vectors'
/// width (the last may be narrower), each panel stored row by row, the last vector padded with
/// zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLayout {
    pub(crate) isa: Isa,
    /// Rows: the length of the dot products.
    pub k: usize,
    /// Columns.
    pub n: usize,
    pub(crate) lanes: usize,
    /// Vectors in a panel.
    pub(crate) vectors: usize,
}

impl PackLayout {
    /// The layout for a `k` × `n` matrix.
    pub fn new(isa: Isa, k: usize, n: usize) -> Self {
        let isa = isa.for_floats(n);
        let lanes = lanes(isa);
        let vectors = super::micro::panel_vectors(isa, n.div_ceil(lanes));
        Self { isa, k, n, lanes, vectors }
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

    /// Elements of the packed matrix.
    ///
    /// # Panics
    /// Where it is larger than memory.
    pub fn len(&self) -> usize {
        let columns = self.n.div_ceil(self.lanes) * self.lanes;
        self.k.checked_mul(columns).expect("packed matrix too large")
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where panel `panel` starts.
    pub(crate) fn offset(&self, panel: usize) -> usize {
        self.k * self.panel_columns() * panel
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
    pub fn pack(
        &self,
        panels: Range<usize>,
        source: &[f32],
        (row_stride, column_stride): (usize, usize),
        packed: &mut [f32],
    ) {
        let mut rest = packed;
        for panel in panels {
            let columns = self.columns(panel);
            let width = self.vectors_in(panel) * self.lanes;
            let (here, after) = rest.split_at_mut(self.k * width);
            for (i, row) in here.chunks_exact_mut(width).enumerate() {
                let (values, padding) = row.split_at_mut(columns.len());
                if column_stride == 1 {
                    let start = i * row_stride + columns.start;
                    values.copy_from_slice(&source[start..start + columns.len()]);
                } else {
                    for (value, j) in values.iter_mut().zip(columns.clone()) {
                        *value = source[i * row_stride + j * column_stride];
                    }
                }
                padding.fill(0.0);
            }
            rest = after;
        }
    }
}

/// A packed matrix: weights, packed once when a model is planned.
#[derive(Clone)]
pub struct PackedB {
    layout: PackLayout,
    data: Aligned<f32>,
}

impl PackedB {
    /// Packs the `k` × `n` matrix whose element (i, j) is
    /// `source[i * row_stride + j * column_stride]`.
    ///
    /// # Panics
    /// Where `source` is too short.
    pub fn new(isa: Isa, k: usize, n: usize, source: &[f32], strides: (usize, usize)) -> Self {
        let layout = PackLayout::new(isa, k, n);
        let mut data = Aligned::to_fill(layout.len());
        layout.pack(0..layout.panels(), source, strides, &mut data);
        Self { layout, data }
    }

    /// Its layout.
    pub fn layout(&self) -> PackLayout {
        self.layout
    }

    /// Its elements, for [`super::Gemm`].
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}
