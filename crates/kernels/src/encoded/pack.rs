//! Packing: encoded rows into panels.
//!
//! A panel holds [`PANEL`] rows of weights, unit by unit. A unit is a header and the codes of up to
//! [`UNIT`] blocks. The header has, for each kind of scale, those of all rows next to each other. A
//! block's codes are split into planes of 1, 2 or 4 bits. A plane of w bits (8 where there is one only) is w lines of 64
//! bytes: byte `4 r + i` of line `t` holds, from the lowest bits up, the bits of elements
//! `4 j + i` of row `r` for `j = t, t + w, t + 2 w, …`.

use super::form::{BLOCK, Form, PANEL, Scale, UNIT};
use crate::encoding::Encoding;
use crate::encoding::iq::iq3_grid;
use crate::encoding::k::{scales_q3_k, scales_q4_k};
use crate::encoding::mx::half_scale;

/// One row's part of a unit.
#[derive(Clone, Copy)]
struct RowUnit {
    codes: [u8; UNIT * BLOCK],
    scales: [u16; UNIT],
    mins: [u16; UNIT],
    small_scales: [u8; 2 * UNIT],
    small_mins: [u8; 2 * UNIT],
}

impl RowUnit {
    const ZERO: RowUnit = RowUnit {
        codes: [0; UNIT * BLOCK],
        scales: [0; UNIT],
        mins: [0; UNIT],
        small_scales: [0; 2 * UNIT],
        small_mins: [0; 2 * UNIT],
    };
}

/// Packs a panel: `rows` are at most [`PANEL`] rows of `row_bytes` bytes, `blocks` blocks each.
pub(super) fn pack_panel(
    encoding: Encoding,
    form: &Form,
    blocks: usize,
    rows: &[u8],
    row_bytes: usize,
    out: &mut [u8],
) {
    let mut units = [RowUnit::ZERO; PANEL];
    let mut out = out;
    for first in (0..blocks).step_by(UNIT) {
        let here = UNIT.min(blocks - first);
        let start = first * BLOCK / encoding.block_len() * encoding.block_bytes();
        let len = here * BLOCK / encoding.block_len() * encoding.block_bytes();
        for (unit, row) in units.iter_mut().zip(rows.chunks_exact(row_bytes)) {
            read(encoding, &row[start..start + len], unit);
        }
        let (unit, rest) = out.split_at_mut(form.unit(here));
        write(form, here, &units, unit);
        out = rest;
    }
}

fn write(form: &Form, blocks: usize, units: &[RowUnit; PANEL], out: &mut [u8]) {
    let (header, codes) = out.split_at_mut(form.header(blocks));
    header.fill(0);
    let mut at = 0;
    let kinds: &[fn(&RowUnit) -> &[u16; UNIT]] = &[|u| &u.scales, |u| &u.mins];
    let small: &[fn(&RowUnit) -> &[u8; 2 * UNIT]] = &[|u| &u.small_scales, |u| &u.small_mins];
    let kinds_here = if form.mins { 2 } else { 1 };
    for of in &kinds[..kinds_here] {
        for i in 0..form.wide_scales(blocks) {
            for unit in units {
                header[at..at + 2].copy_from_slice(&of(unit)[i].to_le_bytes());
                at += 2;
            }
        }
    }
    for of in &small[..kinds_here] {
        for i in 0..form.small_scales(blocks) {
            for unit in units {
                header[at] = of(unit)[i];
                at += 1;
            }
        }
    }
    let mut lines = codes.chunks_exact_mut(4 * PANEL);
    for block in 0..blocks {
        for &(width, lowest) in Form::planes(form.bits) {
            let mask = u32::from_ne_bytes([((1u32 << width) - 1) as u8; 4]);
            for (t, line) in lines.by_ref().take(width).enumerate() {
                for (unit, out) in units.iter().zip(line.as_chunks_mut::<4>().0) {
                    let quads = unit.codes[block * BLOCK..][..BLOCK].as_chunks::<4>().0;
                    let mut bits = 0;
                    for u in 0..8 / width {
                        let quad = u32::from_ne_bytes(quads[t + width * u]);
                        bits |= (quad >> lowest & mask) << (width * u);
                    }
                    *out = bits.to_ne_bytes();
                }
            }
        }
    }
}

fn half(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn nibbles(qs: &[u8], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(qs.len());
    for ((q, low), high) in qs.iter().zip(low).zip(high) {
        (*low, *high) = (q & 15, q >> 4);
    }
}

/// Takes one row's unit apart.
fn read(encoding: Encoding, bytes: &[u8], unit: &mut RowUnit) {
    let blocks = bytes.chunks_exact(encoding.block_bytes());
    if encoding.block_len() == BLOCK {
        for (i, block) in blocks.enumerate() {
            read_small(encoding, block, i, unit);
        }
        return;
    }
    for block in blocks {
        read_large(encoding, block, unit);
    }
}

/// Block `i` of an encoding in blocks of 32.
fn read_small(encoding: Encoding, block: &[u8], i: usize, unit: &mut RowUnit) {
    let codes = &mut unit.codes[i * BLOCK..][..BLOCK];
    let fifth = |codes: &mut [u8], qh: &[u8]| {
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= (qh[i / 8] >> (i % 8) & 1) << 4;
        }
    };
    unit.scales[i] = half(block, 0);
    match encoding {
        Encoding::Q4_1 => {
            unit.mins[i] = half(block, 2);
            nibbles(&block[4..], codes);
        }
        Encoding::Q5_0 => {
            nibbles(&block[6..], codes);
            fifth(codes, &block[2..6]);
        }
        Encoding::Q5_1 => {
            unit.mins[i] = half(block, 2);
            nibbles(&block[8..], codes);
            fifth(codes, &block[4..8]);
        }
        Encoding::MXFP4 => {
            unit.scales[i] = (half_scale(block[0]).to_bits() >> 16) as u16;
            nibbles(&block[1..], codes);
        }
        Encoding::Q8_0 => codes.copy_from_slice(&block[2..]),
        // Q4_0 and IQ4_NL.
        _ => nibbles(&block[2..], codes),
    }
}

/// A block of an encoding in blocks of 256.
fn read_large(encoding: Encoding, block: &[u8], unit: &mut RowUnit) {
    let codes = &mut unit.codes;
    let (small_scales, small_mins) = (&mut unit.small_scales, &mut unit.small_mins);
    // The two bits of element 128 n + 32 j + l are bits 2 j of byte 32 n + l.
    let pairs = |qs: &[u8], codes: &mut [u8], at: u32| {
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, q) in codes.iter_mut().zip(&qs[i / 4 * 32..]) {
                *code |= (q >> (2 * (i % 4)) & 3) << at;
            }
        }
    };
    match encoding {
        Encoding::Q2_K => {
            codes.fill(0);
            pairs(&block[16..80], codes, 0);
            for i in 0..16 {
                (small_scales[i], small_mins[i]) = (block[i] & 15, block[i] >> 4);
            }
            (unit.scales[0], unit.mins[0]) = (half(block, 80), half(block, 82));
        }
        Encoding::Q3_K => {
            for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (code, high) in codes.iter_mut().zip(&block[..32]) {
                    *code = (high >> i & 1) << 2;
                }
            }
            pairs(&block[32..96], codes, 0);
            let scales = scales_q3_k(block[96..108].as_array().expect("twelve bytes"));
            *small_scales = scales.map(|s| s.wrapping_sub(32));
            unit.scales[0] = half(block, 108);
        }
        Encoding::Q4_K | Encoding::Q5_K => {
            let five = encoding == Encoding::Q5_K;
            let qs = if five { &block[48..] } else { &block[16..] };
            for (codes, qs) in codes.as_chunks_mut::<64>().0.iter_mut().zip(qs.chunks_exact(32)) {
                nibbles(qs, codes);
            }
            if five {
                for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    for (code, high) in codes.iter_mut().zip(&block[16..48]) {
                        *code |= (high >> i & 1) << 4;
                    }
                }
            }
            let (s, m) = scales_q4_k(block[4..16].as_array().expect("twelve bytes"));
            small_scales[..8].copy_from_slice(&s);
            small_mins[..8].copy_from_slice(&m);
            (unit.scales[0], unit.mins[0]) = (half(block, 0), half(block, 2));
        }
        Encoding::Q6_K => {
            for n in 0..2 {
                for (codes, ql) in codes[128 * n..][..128].as_chunks_mut::<32>().0.iter_mut().zip([
                    (0, 0),
                    (32, 0),
                    (0, 4),
                    (32, 4),
                ]) {
                    for (code, q) in codes.iter_mut().zip(&block[64 * n + ql.0..]) {
                        *code = q >> ql.1 & 15;
                    }
                }
            }
            pairs(&block[128..192], codes, 4);
            small_scales.copy_from_slice(&block[192..208]);
            unit.scales[0] = half(block, 208);
        }
        Encoding::IQ4_XS => {
            for (codes, qs) in
                codes.as_chunks_mut::<32>().0.iter_mut().zip(block[8..].chunks_exact(16))
            {
                nibbles(qs, codes);
            }
            let high = half(block, 2);
            for b in 0..8 {
                let low = block[4 + b / 2] >> (4 * (b % 2)) & 15;
                let s = low | ((high >> (2 * b) & 3) as u8) << 4;
                small_scales[b] = s.wrapping_sub(32);
            }
            unit.scales[0] = half(block, 0);
        }
        Encoding::IQ3_S => {
            let (qs, qh, signs) = (&block[2..66], &block[66..74], &block[74..106]);
            for (i, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let q = usize::from(qs[i]) | usize::from(qh[i / 8] >> (i % 8) & 1) << 8;
                let signs = signs[i / 2] >> (4 * (i % 2));
                for (j, (code, magnitude)) in codes.iter_mut().zip(iq3_grid(q)).enumerate() {
                    *code = if signs >> j & 1 == 0 { 15 + magnitude } else { 15 - magnitude };
                }
            }
            for b in 0..8 {
                small_scales[b] = 1 + 2 * (block[106 + b / 2] >> (4 * (b % 2)) & 15);
            }
            unit.scales[0] = half(block, 0);
        }
        Encoding::TQ2_0 => {
            codes.fill(0);
            pairs(&block[..64], codes, 0);
            unit.scales[0] = half(block, 64);
        }
        _ => {
            // TQ1_0: the codes are what its elements are in units of the scale, and 1 more.
            let mut copy = [0; 54];
            copy.copy_from_slice(block);
            copy[52..].copy_from_slice(&half::f16::ONE.to_le_bytes());
            let mut elements = [0.0; 256];
            encoding.decode(&copy, &mut elements);
            codes.iter_mut().zip(elements).for_each(|(code, e)| *code = (e + 1.0) as u8);
            unit.scales[0] = half(block, 52);
        }
    }
}

/// Whether the form's scale bits are a single's upper half.
pub(super) fn is_power(form: &Form) -> bool {
    form.scale == Scale::Power
}
