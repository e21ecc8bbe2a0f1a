//! Q8_0 as it is stored: rows of blocks, each a half, its scale, and 32 signed bytes.
//!
//! Where codes have all 8 bits there is nothing to unpack, and a packed copy would be as large as
//! the weights: 16 rows are turned into a panel's quads in registers.

use super::form::{BLOCK, PANEL, UNIT};
use super::lanes::{Lanes, Work};
use super::micro::{Cursor, SIDE, add_block};
use super::round::GroupLayout;

/// Bytes of a block.
pub(super) const BYTES: usize = 2 + BLOCK;

/// The rows of a panel. Those that are not there are one that is, again.
pub(super) type Rows = [*const u8; PANEL];

/// The rows of panel `panel` among `m` rows of `row_bytes` bytes at `weights`.
pub(super) fn rows(weights: &[u8], row_bytes: usize, m: usize, panel: usize) -> Rows {
    std::array::from_fn(|r| {
        let row = (panel * PANEL + r).min(m - 1);
        weights[row * row_bytes..][..row_bytes].as_ptr()
    })
}

/// The codes of block `block`, quad by quad, 128 the code of 0.
///
/// # Safety
/// Each row has the block.
#[inline(always)]
unsafe fn quads<L: Lanes>(l: L, rows: &Rows, block: usize) -> [L::B; 8] {
    // SAFETY: the caller's promise.
    let mut quads = unsafe { l.transpose(rows, block * BYTES + 2) };
    for quad in &mut quads {
        *quad = l.xor(*quad, l.bytes(128));
    }
    quads
}

/// Scales of a unit's blocks from block `first` on.
#[repr(C, align(64))]
struct Halves([u16; UNIT * PANEL]);

impl Halves {
    /// # Safety
    /// Each row has `blocks` blocks from `first` on.
    #[inline(always)]
    unsafe fn read(&mut self, rows: &Rows, first: usize, blocks: usize) {
        for (b, halves) in self.0.chunks_exact_mut(PANEL).take(blocks).enumerate() {
            for (half, row) in halves.iter_mut().zip(rows) {
                // SAFETY: the caller's promise.
                *half = unsafe { row.add((first + b) * BYTES).cast::<u16>().read_unaligned() };
            }
        }
    }

    #[inline(always)]
    fn of<L: Lanes>(&self, l: L, block: usize) -> L::F {
        // SAFETY: a unit has the block's 16 halves.
        unsafe { l.load_half(self.0[block * PANEL..][..PANEL].as_ptr().cast()) }
    }
}

/// All sums of a panel for a group of few rows.
#[derive(Clone, Copy)]
pub(super) struct Direct<'a> {
    pub layout: GroupLayout,
    pub weights: &'a Rows,
    pub group: *const u8,
    /// Rows of the group.
    pub rows: usize,
    /// For each row 16 sums.
    pub out: *mut f32,
}

struct DirectRows<'a, const R: usize>(Direct<'a>);

impl<const R: usize> Work for DirectRows<'_, R> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Direct { layout, weights, group, out, .. } = self.0;
        // 16 rows side by side are not read fast from memory: the next panel, which lies behind this
        // one, is asked for in order.
        let panel = layout.blocks * BYTES * PANEL;
        let mut next = weights[0].wrapping_add(panel);
        let mut halves = Halves([0; UNIT * PANEL]);
        let mut scale = [0.0f32; PANEL];
        let mut acc = [[l.splat(0.0); 1]; R];
        let mut x = Cursor::new(&layout, group, R, 0);
        // SAFETY: the caller promises rows of `blocks` blocks, and room for the sums.
        unsafe {
            for first in (0..layout.blocks).step_by(UNIT) {
                let here = UNIT.min(layout.blocks - first);
                halves.read(weights, first, here);
                for b in 0..here {
                    for line in 0..(BYTES * PANEL).div_ceil(64) {
                        l.prefetch(next.wrapping_add(64 * line));
                    }
                    next = next.wrapping_add(BYTES * PANEL);
                    let quads = quads(l, weights, first + b);
                    l.store_f(scale.as_mut_ptr(), halves.of(l, b));
                    let codes = |j: usize, _: usize| quads[j];
                    let (scales, mins) = (scale.as_ptr(), std::ptr::null());
                    add_block::<L, false, false, true, R, 1>(
                        l, codes, scales, mins, &mut x, &mut acc,
                    );
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                l.store_f(out.add(r * PANEL), acc[0]);
            }
        }
    }
}

impl Work for Direct<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match self.rows {
            1 => l.outline(DirectRows::<1>(self)),
            2 => l.outline(DirectRows::<2>(self)),
            rows => unreachable!("{rows} rows straight from stored weights"),
        }
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
        let mut halves = Halves([0; UNIT * PANEL]);
        // SAFETY: the caller promises rows with these blocks, and room for codes and scales.
        unsafe {
            for unit in (0..blocks).step_by(UNIT) {
                let here = UNIT.min(blocks - unit);
                halves.read(weights, first + unit, here);
                for b in unit..unit + here {
                    for (j, quad) in quads(l, weights, first + b).into_iter().enumerate() {
                        l.store(codes.add(((b * 8 + j) * SIDE + side) * 64), quad);
                    }
                    l.store_f(scales.add((b * SIDE + side) * PANEL), halves.of(l, b - unit));
                }
            }
        }
    }
}

impl Work for Expand<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        l.outline(Expanding(self));
    }
}
