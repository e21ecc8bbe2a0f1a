//! The tile: a few rows times a panel, held in registers from the first product to the epilogue.

use super::term::Term;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// The most rows of any tile.
pub(crate) const MAX_ROWS: usize = 14;

/// Rows of a tile of `vectors` vectors: accumulators, a row of the panel and one element of the
/// left-hand side fill the registers.
pub(crate) const fn tile_rows(registers: usize, vectors: usize) -> usize {
    match (registers, vectors) {
        (32, 1 | 2) => 14,
        (32, _) => 9,
        (_, 1) => 12,
        (_, 2) => 6,
        _ => 4,
    }
}

/// [`tile_rows`] for an instruction set.
pub(crate) fn rows_of(isa: Isa, vectors: usize) -> usize {
    let registers = match isa {
        Isa::Portable | Isa::Avx2(_) => 16,
        _ => 32,
    };
    tile_rows(registers, vectors)
}

/// How many vectors wide the panels of a matrix of `columns` vectors are.
pub(crate) fn panel_vectors(isa: Isa, columns: usize) -> usize {
    match (rows_of(isa, 3), columns) {
        (_, 0..=2) => columns.max(1),
        (9, _) if columns.is_multiple_of(3) => 3,
        _ => 2,
    }
}

/// One tile's work. Pointers, because the rows of a convolution's input lie anywhere.
#[derive(Clone, Copy)]
pub(crate) struct Tile<T> {
    /// How many stretches of the dot product there are: kernel positions of a convolution, one
    /// for a matrix product.
    pub taps: usize,
    /// Length of each stretch.
    pub depth: usize,
    /// For each tap, for each row, where its stretch begins.
    pub a: *const *const T,
    /// The packed panel.
    pub b: *const T,
    /// Where the first row of results goes, and the distance to the next row.
    pub out: *mut f32,
    pub out_stride: usize,
    /// Columns to store; at most the panel's width.
    pub columns: usize,
    /// As many biases as columns, or null.
    pub bias: *const f32,
    /// What is added after the clamp, in rows like the results, or null.
    pub residual: *const f32,
    pub residual_stride: usize,
    /// Bounds of the results before and after the residual is added.
    pub clamp: (f32, f32),
    pub clamp_after: (f32, f32),
}

struct Rows<'a, T, const ROWS: usize, const VECTORS: usize>(&'a Tile<T>);

impl<T: Term, const ROWS: usize, const VECTORS: usize> Kernel for Rows<'_, T, ROWS, VECTORS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tile = self.0;
        // Every loop over the accumulators has a body small enough to be unrolled wholly: an
        // index that is not constant would send them all through memory.
        //
        // SAFETY: `run_tile`'s caller promises rows of `depth` elements behind the pointers,
        // a panel of `taps * depth` rows, and `columns` elements of bias, residual and output.
        unsafe {
            let valid: [usize; VECTORS] =
                std::array::from_fn(|v| tile.columns.saturating_sub(v * S::LANES).min(S::LANES));
            let first: [S::V; VECTORS] = if tile.bias.is_null() {
                [s.zero(); VECTORS]
            } else {
                std::array::from_fn(|v| s.load_n(tile.bias.wrapping_add(v * S::LANES), valid[v]))
            };
            let mut acc = [first; ROWS];
            let (mut a, mut b) = (tile.a, tile.b);
            for _ in 0..tile.taps {
                let rows: [*const T; ROWS] = std::array::from_fn(|i| *a.add(i));
                a = a.add(ROWS);
                for k in 0..tile.depth {
                    let row: [S::V; VECTORS] =
                        std::array::from_fn(|v| T::load(s, b.add(v * S::LANES)));
                    b = b.add(VECTORS * S::LANES);
                    for i in 0..ROWS {
                        let x = T::splat(s, *rows[i].add(k));
                        for v in 0..VECTORS {
                            acc[i][v] = T::add_product(s, x, row[v], acc[i][v]);
                        }
                    }
                }
            }
            clamp(s, &mut acc, tile.clamp);
            if !tile.residual.is_null() {
                for v in 0..VECTORS {
                    let mut at = tile.residual.wrapping_add(v * S::LANES);
                    for row in &mut acc {
                        row[v] = s.add(row[v], s.load_n(at, valid[v]));
                        at = at.wrapping_add(tile.residual_stride);
                    }
                }
                clamp(s, &mut acc, tile.clamp_after);
            }
            for v in 0..VECTORS {
                let mut at = tile.out.wrapping_add(v * S::LANES);
                if valid[v] == S::LANES {
                    for row in &acc {
                        s.store(at, row[v]);
                        at = at.wrapping_add(tile.out_stride);
                    }
                } else {
                    for row in &acc {
                        s.store_n(at, row[v], valid[v]);
                        at = at.wrapping_add(tile.out_stride);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn clamp<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    acc: &mut [[S::V; VECTORS]; ROWS],
    (low, high): (f32, f32),
) {
    let (low, high) = (s.splat(low), s.splat(high));
    for row in acc {
        for x in row {
            *x = s.min(high, s.max(low, *x));
        }
    }
}

/// Computes one tile of `rows` rows and `vectors` vectors.
///
/// # Safety
/// Every pointer of `tile` is good for what its field says; `rows` is at most
/// [`tile_rows`]`(S::REGISTERS, vectors)`.
#[inline(always)]
pub(crate) unsafe fn run_tile<S: Simd, T: Term>(s: S, rows: usize, vectors: usize, tile: &Tile<T>) {
    macro_rules! table {
        ($($rows:literal)*) => {
            match (rows, vectors) {
                $(
                    ($rows, 1) if const { $rows <= tile_rows(S::REGISTERS, 1) } => s.outline(Rows::<T, $rows, 1>(tile)),
                    ($rows, 2) if const { $rows <= tile_rows(S::REGISTERS, 2) } => s.outline(Rows::<T, $rows, 2>(tile)),
                    ($rows, 3) if const { $rows <= tile_rows(S::REGISTERS, 3) } => s.outline(Rows::<T, $rows, 3>(tile)),
                )*
                _ => unreachable!("no tile of {rows} rows and {vectors} vectors"),
            }
        };
    }
    table!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}
