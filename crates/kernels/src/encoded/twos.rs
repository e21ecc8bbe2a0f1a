//! Codes of two bits: a line has those of four blocks.
//!
//! Bits 2 p and 2 p + 1 of byte `4 r + i` of line `j` of eight are element `4 j + i` of row `r`'s block
//! `p`. So a line that is masked is a quad of block p times 4^p, which instruction sets may multiply
//! as it is: no bits are moved, and what sums are too large is taken from the scale, exactly.
//!
//! A unit of 256 elements of 16 rows takes 158 vector instructions of AVX-512 for TQ2_0, of which 64 are
//! products, and 280 for Q2_K. At two a cycle a Zen 4 core of 3.6 GHz could make 186 and 105 GMAC/s of that; it
//! makes 162 and 100 with weights in its cache. Two cores are bound by memory, at 35 GB/s by 140 and
//! 106.

use super::form::{PANEL, Scale, UNIT};
use super::lanes::{Lanes, Work};
use super::micro::{Cursor, Direct};

/// Blocks that share lines.
pub(super) const SHARED: usize = 4;

/// Bytes of the lines that blocks share.
const LINES: usize = 8 * 4 * PANEL;

/// Where a unit's codes of block `block` lie: the bytes before their lines, and which of those that
/// share them it is.
fn place(block: usize) -> (usize, usize) {
    (block / SHARED * LINES, block % SHARED)
}

/// The codes of block `block` of a unit, one a byte, quad by quad.
///
/// # Safety
/// The unit's codes can be read at `codes`.
#[inline(always)]
pub(super) unsafe fn unpack<L: Lanes>(l: L, codes: *const u8, block: usize) -> [L::B; 8] {
    let (at, p) = place(block);
    let mut quads = [l.bytes(0); 8];
    for (j, quad) in quads.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let line = unsafe { l.load(codes.add(at + 64 * j)) };
        *quad = l.and(l.shift(line, 2 * p as i32), l.bytes(3));
    }
    quads
}

/// Writes the codes of block `block` of a unit. Those that share its lines come one after the other.
#[inline(always)]
pub(super) fn pack<L: Lanes>(l: L, quads: &[L::B; 8], block: usize, codes: &mut [u8]) {
    let (at, p) = place(block);
    for (quad, line) in quads.iter().zip(codes[at..at + LINES].as_chunks_mut::<{ 4 * PANEL }>().0) {
        let code = l.shift(l.and(*quad, l.bytes(3)), -2 * p as i32);
        // SAFETY: a line has 64 bytes.
        unsafe {
            let others = if p == 0 { l.bytes(0) } else { l.load(line.as_ptr()) };
            l.store(line.as_mut_ptr(), l.or(others, code));
        }
    }
}

/// Where a unit of [`Scale::Folded`] has the factors of its scales, and those of its minima: for each
/// block a byte of each row, its lower half for the first half of the block.
pub(super) fn factors(unit: *const u8) -> [*const u8; 2] {
    let scales = unit.wrapping_add(2 * 2 * PANEL);
    [scales, scales.wrapping_add(PANEL * UNIT)]
}

/// The minima of the halves of a block, to be added: `min` times the factors at `p`.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn minima<L: Lanes>(l: L, min: L::F, p: *const u8) -> [L::F; 2] {
    // SAFETY: the caller's promise.
    let [low, high] = unsafe { l.load_nibbles(p) };
    [l.mul(min, l.float(low)), l.mul(min, l.float(high))]
}

/// Codes times the scales of the halves of their block: bytes still.
#[inline(always)]
pub(super) fn fold<L: Lanes>(l: L, mut quads: [L::B; 8], halves: [L::I; 2]) -> [L::B; 8] {
    for (quads, scale) in quads.as_chunks_mut::<4>().0.iter_mut().zip(halves) {
        for quad in quads {
            *quad = l.codes(l.imul(l.ints(*quad), scale));
        }
    }
    quads
}

/// A [`Direct`] of `R` rows.
pub(super) struct DirectRows<'a, const FOLDED: bool, const R: usize>(pub Direct<'a>);

impl<const FOLDED: bool, const R: usize> Work for DirectRows<'_, FOLDED, R> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Direct { form, layout, panel, panels, group, out, .. } = self.0;
        debug_assert_eq!(FOLDED, form.scale == Scale::Folded);
        debug_assert!(layout.blocks.is_multiple_of(UNIT), "units of two bits are whole");
        let mut unit = panel;
        let header = form.header(UNIT);
        // SAFETY: the caller promises panels and rows of `blocks` blocks, and room for the sums.
        unsafe {
            for panel in 0..panels {
                let mut acc = [l.splat(0.0); R];
                let mut rows = Cursor::new(&layout, group, R, 0);
                for _ in 0..layout.blocks / UNIT {
                    let scale = l.load_half(unit);
                    let mut scales = [scale; SHARED];
                    for (scale, by) in scales.iter_mut().zip(L::TWOS_LEFT) {
                        *scale = l.mul(*scale, l.splat(1.0 / (1u32 << by) as f32));
                    }
                    let mut codes = unit.add(header);
                    if FOLDED {
                        let min = l.mul(l.load_half(unit.add(2 * PANEL)), l.splat(-1.0));
                        let [mut factors, mut min_factors] = factors(unit);
                        for _ in 0..UNIT / SHARED {
                            let low = l.twos::<false, R>(codes, rows.codes, rows.starts);
                            let x = rows.codes.add(16 * R);
                            let high = l.twos::<false, R>(codes.add(LINES / 2), x, rows.starts);
                            for p in 0..SHARED {
                                let [first, second] = l.load_nibbles(factors.add(PANEL * p));
                                let mins = minima(l, min, min_factors.add(PANEL * p));
                                for r in 0..R {
                                    let low = l.imul(low[r][p], first);
                                    let ints = l.iadd(low, l.imul(high[r][p], second));
                                    let scale = l.mul(scales[p], l.splat(*rows.scales.add(r)));
                                    acc[r] = l.fma(l.float(ints), scale, acc[r]);
                                    for (i, min) in mins.into_iter().enumerate() {
                                        let sum = l.splat(*rows.sums.add(i * R + r));
                                        acc[r] = l.fma(min, sum, acc[r]);
                                    }
                                }
                                rows.advance(R, 1, if FOLDED { 2 } else { 0 });
                            }
                            codes = codes.add(LINES);
                            factors = factors.add(SHARED * PANEL);
                            min_factors = min_factors.add(SHARED * PANEL);
                        }
                    } else {
                        for _ in 0..UNIT / SHARED {
                            let ints = l.twos::<true, R>(codes, rows.codes, rows.starts);
                            for p in 0..SHARED {
                                for r in 0..R {
                                    let scale = l.mul(scales[p], l.splat(*rows.scales.add(r)));
                                    acc[r] = l.fma(l.float(ints[r][p]), scale, acc[r]);
                                }
                                rows.advance(R, 1, if FOLDED { 2 } else { 0 });
                            }
                            codes = codes.add(LINES);
                        }
                    }
                    unit = codes;
                }
                for (out, acc) in out.iter().zip(acc) {
                    l.store_f(out.add(panel * PANEL), acc);
                }
            }
        }
    }
}
