//! Packing: encoded rows into panels.
//!
//! A panel holds [`PANEL`] rows of weights, unit by unit. A unit is a header and the codes of up to
//! [`UNIT`] blocks. The header has, for each kind of scale, those of all rows next to each other. A
//! block's codes are split into planes of 1, 2 or 4 bits. A plane of w bits (8 where there is one only) is w lines of 64
//! bytes: byte `4 r + i` of line `t` holds, from the lowest bits up, the bits of elements
//! `4 j + i` of row `r` for `j = t, t + w, t + 2 w, …`.

use super::form::{BLOCK, Form, PANEL, Scale, UNIT};
use super::lanes::{Lanes, Work};
use super::run_on;
use crate::encoding::Encoding;
use crate::encoding::iq::iq3_grid;
use crate::encoding::k::{scales_q3_k, scales_q4_k};
use crate::encoding::mx::half_scale;
use crate::isa::Isa;

/// One row's scales of a unit.
#[derive(Clone, Copy)]
struct RowScales {
    scales: [u16; UNIT],
    mins: [u16; UNIT],
    small_scales: [u8; 2 * UNIT],
    small_mins: [u8; 2 * UNIT],
}

impl RowScales {
    const ZERO: RowScales = RowScales {
        scales: [0; UNIT],
        mins: [0; UNIT],
        small_scales: [0; 2 * UNIT],
        small_mins: [0; 2 * UNIT],
    };
}

/// Packs a panel: `rows` are at most [`PANEL`] rows of `row_bytes` bytes, `blocks` blocks each.
/// Rows that are not there have scales of 0.
pub(super) fn pack_panel(
    isa: Isa,
    encoding: Encoding,
    form: &Form,
    blocks: usize,
    rows: &[u8],
    row_bytes: usize,
    out: &mut [u8],
) {
    let mut scales = [RowScales::ZERO; PANEL];
    let mut out = out;
    let count = rows.len() / row_bytes;
    for first in (0..blocks).step_by(UNIT) {
        let here = UNIT.min(blocks - first);
        let start = first * BLOCK / encoding.block_len() * encoding.block_bytes();
        let len = here * BLOCK / encoding.block_len() * encoding.block_bytes();
        let part = |r: usize| &rows[r.min(count - 1) * row_bytes..][start..start + len];
        for (r, scales) in scales.iter_mut().enumerate().take(count) {
            for (i, block) in part(r).chunks_exact(encoding.block_bytes()).enumerate() {
                read_scales(encoding, block, i, scales);
            }
        }
        let (unit, rest) = out.split_at_mut(form.unit(here));
        let (header, codes) = unit.split_at_mut(form.header(here));
        write_scales(form, here, &scales, header);
        if bits(encoding, 0)[0].is_none() {
            let rows = std::array::from_fn(|r| plain_codes(encoding, part(r)));
            run_on(isa, Planes { form, blocks: here, rows: &rows, codes });
        } else {
            let rows = &std::array::from_fn(part);
            run_on(isa, Regroup { encoding, form, blocks: here, rows, codes });
        }
        out = rest;
    }
}

fn write_scales(form: &Form, blocks: usize, rows: &[RowScales; PANEL], header: &mut [u8]) {
    let kinds = if form.mins { 2 } else { 1 };
    let mut halves = header.as_chunks_mut::<2>().0.iter_mut();
    for kind in 0..kinds {
        for i in 0..form.wide_scales(blocks) {
            for (row, to) in rows.iter().zip(&mut halves) {
                *to = if kind == 0 { row.scales[i] } else { row.mins[i] }.to_le_bytes();
            }
        }
    }
    let at = 2 * PANEL * kinds * form.wide_scales(blocks);
    let mut bytes = header[at..].iter_mut();
    for kind in 0..kinds {
        for i in 0..form.small_scales(blocks) {
            for (row, to) in rows.iter().zip(&mut bytes) {
                *to = if kind == 0 { row.small_scales[i] } else { row.small_mins[i] };
            }
        }
    }
    bytes.for_each(|rest| *rest = 0);
}

/// Bits of the codes of a block's 32 elements: of each, `byte >> shift & mask << left`.
#[derive(Clone, Copy)]
struct Bits {
    /// Where the first element's byte lies in the encoding's block; the others' follow it.
    at: usize,
    /// Whether the second 16 elements are in the same bytes as the first, 4 bits above them.
    folded: bool,
    shift: i32,
    mask: u8,
    left: i32,
}

/// Of what the codes of block `b` of an encoding's block are made; of nothing where the encoding
/// does not have the bits of an element at the same place of each byte.
fn bits(encoding: Encoding, b: usize) -> [Option<Bits>; 2] {
    let of = |at, shift: usize, mask, left| {
        Some(Bits { at, folded: false, shift: shift as i32, mask, left })
    };
    let folded = |at| Some(Bits { at, folded: true, shift: 0, mask: 15, left: 0 });
    match encoding {
        Encoding::MXFP4 => [folded(1), None],
        Encoding::Q4_0 | Encoding::IQ4_NL => [folded(2), None],
        Encoding::Q4_1 => [folded(4), None],
        Encoding::IQ4_XS => [folded(8 + 16 * b), None],
        Encoding::Q8_0 => [of(2, 0, 255, 0), None],
        Encoding::Q4_K => [of(16 + b / 2 * 32, 4 * (b % 2), 15, 0), None],
        Encoding::Q5_K => [of(48 + b / 2 * 32, 4 * (b % 2), 15, 0), of(16, b, 1, 4)],
        Encoding::Q6_K => [
            of(b / 4 * 64 + b % 2 * 32, b % 4 / 2 * 4, 15, 0),
            of(128 + b / 4 * 32, b % 4 * 2, 3, 4),
        ],
        Encoding::TQ2_0 => [of(b / 4 * 32, b % 4 * 2, 3, 0), None],
        Encoding::Q2_K => [of(16 + b / 4 * 32, b % 4 * 2, 3, 0), None],
        Encoding::Q3_K => [of(32 + b / 4 * 32, b % 4 * 2, 3, 0), of(0, b, 1, 2)],
        Encoding::Q5_0 | Encoding::Q5_1 | Encoding::IQ3_S | Encoding::TQ1_0 => [None, None],
    }
}

/// Writes the codes of a unit as planes, from where rows have their [`bits`].
struct Regroup<'a> {
    encoding: Encoding,
    form: &'a Form,
    blocks: usize,
    /// Each row's bytes of the unit.
    rows: &'a [&'a [u8]; PANEL],
    codes: &'a mut [u8],
}

impl Work for Regroup<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Regroup { encoding, form, blocks, rows, codes } = self;
        let mut starts = [std::ptr::null(); PANEL];
        for (start, row) in starts.iter_mut().zip(rows) {
            assert_eq!(row.len() * encoding.block_len(), blocks * BLOCK * encoding.block_bytes());
            *start = row.as_ptr();
        }
        let inner = encoding.block_len() / BLOCK;
        let size = BLOCK * PANEL / 8 * form.bits;
        for (block, lines) in codes.chunks_exact_mut(size).enumerate().take(blocks) {
            let start = block / inner * encoding.block_bytes();
            let mut quads = [l.bytes(0); 8];
            for bits in bits(encoding, block % inner).into_iter().flatten() {
                let at = start + bits.at;
                // SAFETY: elements' bytes are inside of the encoding's block, of which rows have as
                // many as they must.
                let first = unsafe { l.transpose(&starts, at) };
                let second = match bits.folded {
                    true => first,
                    // SAFETY: as above.
                    false => unsafe { l.transpose(&starts, at + 16) },
                };
                let fold = if bits.folded { 4 } else { 0 };
                let mask = l.bytes(bits.mask);
                for (i, quad) in quads.iter_mut().enumerate() {
                    let (from, by) = if i < 4 {
                        (first[i], bits.shift)
                    } else {
                        (second[i - 4], bits.shift + fold)
                    };
                    let code = l.and(l.shift(from, by), mask);
                    *quad = l.or(*quad, l.shift(code, -bits.left));
                }
            }
            write_planes(l, form, &quads, lines);
        }
    }
}

/// Writes the codes of a unit as planes.
struct Planes<'a> {
    form: &'a Form,
    blocks: usize,
    /// For each row the codes of its elements.
    rows: &'a [[u8; UNIT * BLOCK]; PANEL],
    codes: &'a mut [u8],
}

impl Work for Planes<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Planes { form, blocks, rows, codes } = self;
        let mut starts = [std::ptr::null(); PANEL];
        for (start, row) in starts.iter_mut().zip(rows) {
            *start = row.as_ptr();
        }
        let size = BLOCK * PANEL / 8 * form.bits;
        for (block, lines) in codes.chunks_exact_mut(size).enumerate().take(blocks.min(UNIT)) {
            // SAFETY: rows have a unit of codes.
            let [[a, b, c, d], [e, f, g, h]] = unsafe {
                [l.transpose(&starts, block * BLOCK), l.transpose(&starts, block * BLOCK + 16)]
            };
            write_planes(l, form, &[a, b, c, d, e, f, g, h], lines);
        }
    }
}

/// Writes a block of codes, quad by quad, as planes to `lines`, which has room for just these.
#[inline(always)]
fn write_planes<L: Lanes>(l: L, form: &Form, quads: &[L::B; 8], lines: &mut [u8]) {
    let mut lines = lines.chunks_exact_mut(4 * PANEL);
    for &(width, lowest) in Form::planes(form.bits) {
        let mask = l.bytes((((1u32 << width) - 1) << lowest) as u8);
        for (t, line) in lines.by_ref().take(width).enumerate() {
            let mut all = l.bytes(0);
            for u in 0..8 / width {
                let bits = l.and(quads[t + width * u], mask);
                all = l.or(all, l.shift(bits, lowest as i32 - (width * u) as i32));
            }
            // SAFETY: a line has 64 bytes.
            unsafe { l.store(line.as_mut_ptr(), all) };
        }
    }
}

fn half(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The scales of a row's block `i` of the unit.
fn read_scales(encoding: Encoding, block: &[u8], i: usize, row: &mut RowScales) {
    let RowScales { scales, mins, small_scales, small_mins } = row;
    match encoding {
        Encoding::Q4_0 | Encoding::IQ4_NL | Encoding::Q5_0 | Encoding::Q8_0 => {
            scales[i] = half(block, 0);
        }
        Encoding::Q4_1 | Encoding::Q5_1 => (scales[i], mins[i]) = (half(block, 0), half(block, 2)),
        Encoding::MXFP4 => scales[i] = (half_scale(block[0]).to_bits() >> 16) as u16,
        Encoding::Q2_K => {
            for i in 0..16 {
                (small_scales[i], small_mins[i]) = (block[i] & 15, block[i] >> 4);
            }
            (scales[0], mins[0]) = (half(block, 80), half(block, 82));
        }
        Encoding::Q3_K => {
            let six = scales_q3_k(block[96..108].as_array().expect("twelve bytes"));
            *small_scales = six.map(|s| s.wrapping_sub(32));
            scales[0] = half(block, 108);
        }
        Encoding::Q4_K | Encoding::Q5_K => {
            let (s, m) = scales_q4_k(block[4..16].as_array().expect("twelve bytes"));
            small_scales[..8].copy_from_slice(&s);
            small_mins[..8].copy_from_slice(&m);
            (scales[0], mins[0]) = (half(block, 0), half(block, 2));
        }
        Encoding::Q6_K => {
            small_scales.copy_from_slice(&block[192..208]);
            scales[0] = half(block, 208);
        }
        Encoding::IQ4_XS => {
            let high = half(block, 2);
            for b in 0..8 {
                let low = block[4 + b / 2] >> (4 * (b % 2)) & 15;
                let s = low | ((high >> (2 * b) & 3) as u8) << 4;
                small_scales[b] = s.wrapping_sub(32);
            }
            scales[0] = half(block, 0);
        }
        Encoding::IQ3_S => {
            for b in 0..8 {
                small_scales[b] = 1 + 2 * (block[106 + b / 2] >> (4 * (b % 2)) & 15);
            }
            scales[0] = half(block, 0);
        }
        Encoding::TQ2_0 => scales[0] = half(block, 64),
        Encoding::TQ1_0 => scales[0] = half(block, 52),
    }
}

/// The codes of a row's elements of a unit, where they are not [`bits`] of bytes.
fn plain_codes(encoding: Encoding, bytes: &[u8]) -> [u8; UNIT * BLOCK] {
    let mut all = [0; UNIT * BLOCK];
    let blocks = bytes.chunks_exact(encoding.block_bytes());
    for (block, codes) in blocks.zip(all.chunks_exact_mut(encoding.block_len())) {
        match encoding {
            Encoding::IQ3_S => {
                let (qs, qh, signs) = (&block[2..66], &block[66..74], &block[74..106]);
                for (i, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let q = usize::from(qs[i]) | usize::from(qh[i / 8] >> (i % 8) & 1) << 8;
                    let signs = signs[i / 2] >> (4 * (i % 2));
                    for (j, (code, magnitude)) in codes.iter_mut().zip(iq3_grid(q)).enumerate() {
                        *code = if signs >> j & 1 == 0 { 15 + magnitude } else { 15 - magnitude };
                    }
                }
            }
            Encoding::TQ1_0 => {
                // The codes are what its elements are in units of the scale, and 1 more.
                let mut copy = [0; 54];
                copy.copy_from_slice(block);
                copy[52..].copy_from_slice(&half::f16::ONE.to_le_bytes());
                let mut elements = [0.0; 256];
                encoding.decode(&copy, &mut elements);
                codes.iter_mut().zip(elements).for_each(|(code, e)| *code = (e + 1.0) as u8);
            }
            _ => {
                // Q5_0 and Q5_1: nibbles, and a word of fifth bits before them.
                let (fifth, qs) = block[block.len() - 20..].split_at(4);
                for (i, code) in codes.iter_mut().enumerate() {
                    let nibble = qs[i % 16] >> (i / 16 * 4) & 15;
                    *code = nibble | (fifth[i / 8] >> (i % 8) & 1) << 4;
                }
            }
        }
    }
    all
}

/// Whether the form's scale bits are a single's upper half.
pub(super) fn is_power(form: &Form) -> bool {
    form.scale == Scale::Power
}
