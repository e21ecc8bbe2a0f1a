//! Q8_0 as it is stored: rows of blocks, each a half, its scale, and 32 signed bytes.
//!
//! Where codes have all 8 bits there is nothing to unpack, and a packed copy would be as large as
//! the weights. Memory gives its most to one who reads on and on, so few rows of `x` meet a panel's
//! rows one after the other: the exact sums of blocks are noted, and when all 16 rows are done they
//! are turned and added as those of packed panels, to the same bits. For many rows of `x`, 16 rows
//! of weights become a panel's quads in registers.

use super::form::{BLOCK, PANEL};
use super::lanes::{Lanes, Work};
use super::micro::{Cursor, SIDE, wide};
use super::round::GroupLayout;
use crate::scratch::{carve, need};

/// Bytes of a block.
const BYTES: usize = 2 + BLOCK;

/// The least blocks of rows that [`Direct`] takes.
pub(super) const LEAST_BLOCKS: usize = 4;

/// Blocks whose sums are noted before they are turned.
const NOTED: usize = 256;
/// Room for them, for the last few that are noted with them, and for what a vector writes beyond.
const COLUMNS: usize = NOTED + PANEL;

/// The rows of a panel. Those that are not there are one that is, again.
pub(super) type Rows = [*const u8; PANEL];

/// The rows of panel `panel` among `m` rows of `row_bytes` bytes at `weights`.
pub(super) fn rows(weights: &[u8], row_bytes: usize, m: usize, panel: usize) -> Rows {
    std::array::from_fn(|r| {
        let row = (panel * PANEL + r).min(m - 1);
        weights[row * row_bytes..][..row_bytes].as_ptr()
    })
}

/// All sums of a panel for one row, rounded by itself.
pub(super) struct Direct<'a> {
    pub layout: GroupLayout,
    pub weights: &'a Rows,
    /// How many of them there are.
    pub count: usize,
    pub row: *const u8,
    /// [`scratch`] bytes.
    pub scratch: &'a mut [u8],
    /// 16 sums.
    pub out: *mut f32,
}

/// Bytes of scratch of a [`Direct`].
pub(super) fn scratch() -> usize {
    need::<i32>(PANEL * COLUMNS) + need::<u16>(PANEL * COLUMNS)
}

struct DirectRow<'a>(Direct<'a>);

impl Work for DirectRow<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Direct { layout, weights, count, row, mut scratch, out } = self.0;
        let sums = carve::<i32>(&mut scratch, PANEL * COLUMNS).as_mut_ptr();
        let halves = carve::<u16>(&mut scratch, PANEL * COLUMNS).as_mut_ptr();
        let noted: Rows = std::array::from_fn(|r| {
            sums.wrapping_add(r.min(count - 1) * COLUMNS).cast_const().cast()
        });
        let mut acc = l.splat(0.0);
        let mut first = 0;
        // SAFETY: the caller promises rows of `blocks` blocks, at least `LEAST_BLOCKS`, and room for
        // the sums. No part has fewer blocks, or more than there are columns for.
        unsafe {
            while first < layout.blocks {
                let left = layout.blocks - first;
                let blocks = if left < NOTED + LEAST_BLOCKS { left } else { NOTED };
                let x = Cursor::new(&layout, row, 1, first);
                for (r, weights) in weights.iter().take(count).enumerate() {
                    let (sums, halves) = (sums.add(r * COLUMNS), halves.add(r));
                    note(l, weights.add(first * BYTES), x.codes, blocks, sums, halves);
                }
                for b in (0..blocks).step_by(4) {
                    let turned = l.transpose(&noted, 4 * b);
                    for (i, sums) in turned.into_iter().enumerate().take(blocks - b) {
                        let b = b + i;
                        let sums = l.iadd(l.ints(sums), l.isplat(*x.starts.add(b)));
                        let scale = l.load_half(halves.add(b * PANEL).cast());
                        let scale = l.mul(scale, l.splat(*x.scales.add(b)));
                        acc = l.fma(l.float(sums), scale, acc);
                    }
                }
                first += blocks;
            }
            l.store_f(out, acc);
        }
    }
}

/// Notes the exact dot products of `blocks` blocks of a row of weights with bytes, and the blocks'
/// scales, a panel's width apart.
///
/// # Safety
/// There are as many blocks, at least [`LEAST_BLOCKS`]; `sums` has room for 12 more.
#[inline(always)]
unsafe fn note<L: Lanes>(
    l: L,
    weights: *const u8,
    x: *const u8,
    blocks: usize,
    sums: *mut i32,
    halves: *mut u16,
) {
    let whole = blocks / 16 * 16;
    // SAFETY: the caller's promise; the last four blocks may be among those that were done before.
    unsafe {
        for b in (0..whole).step_by(16) {
            let (weights, x) = (weights.add(b * BYTES), x.add(b * BLOCK));
            // Scales first: they fetch the lines that the codes are in, a quarter faster than the
            // codes' wider reads do.
            note_halves(weights, 16, halves.add(b * PANEL));
            l.store_i(sums.add(b), l.block_dots::<4>(weights, x));
        }
        let (rest, x_rest) = (weights.add(whole * BYTES), x.add(whole * BLOCK));
        note_halves(rest, blocks - whole, halves.add(whole * PANEL));
        let to = sums.add(whole);
        match (blocks - whole) / 4 {
            0 => {}
            1 => l.store_i(to, l.block_dots::<1>(rest, x_rest)),
            2 => l.store_i(to, l.block_dots::<2>(rest, x_rest)),
            _ => l.store_i(to, l.block_dots::<3>(rest, x_rest)),
        }
        if !blocks.is_multiple_of(4) {
            let last = blocks - 4;
            let dots = l.block_dots::<1>(weights.add(last * BYTES), x.add(last * BLOCK));
            l.store_i(sums.add(last), dots);
        }
    }
}

/// # Safety
/// `weights` has as many blocks, and `halves` room for their scales.
#[inline(always)]
unsafe fn note_halves(weights: *const u8, blocks: usize, halves: *mut u16) {
    for b in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            *halves.add(b * PANEL) = weights.add(b * BYTES).cast::<u16>().read_unaligned();
        }
    }
}

impl Work for Direct<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        l.outline(DirectRow(self));
    }
}

/// Writes blocks of a panel as [`super::micro::Expand`] does.
#[derive(Clone, Copy)]
pub(super) struct Expand<'a> {
    pub weights: &'a Rows,
    /// The first block.
    pub first: usize,
    pub blocks: usize,
    pub side: usize,
    pub codes: *mut u8,
    pub scales: *mut f32,
}

struct Expanding<'a>(Expand<'a>);

impl Work for Expanding<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Expand { weights, first, blocks, side, codes, scales } = self.0;
        let mut halves = Halves([0; PANEL]);
        // SAFETY: the caller promises rows with these blocks, and room for codes and scales.
        unsafe {
            for b in 0..blocks {
                let at = (first + b) * BYTES;
                for (half, row) in halves.0.iter_mut().zip(weights) {
                    *half = row.add(at).cast::<u16>().read_unaligned();
                }
                for part in 0..2 {
                    let quads = l.transpose(weights, at + 2 + 16 * part);
                    let to = codes.add(((b * 8 + 4 * part) * SIDE + side) * 64);
                    l.store_quads(to, quads, |quad| wide(l, quad));
                }
                let scale = l.load_half(halves.0.as_ptr().cast());
                l.store_f(scales.add((b * SIDE + side) * PANEL), scale);
            }
        }
    }
}

/// A block's scale of each row.
#[repr(C, align(64))]
struct Halves([u16; PANEL]);

impl Work for Expand<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        l.outline(Expanding(self));
    }
}
