//! Blocks of 32 with one scale: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`.
//!
//! | encoding | bytes | fields, in order | element |
//! |---|---|---|---|
//! | `Q4_0` | 18 | `d`: f16; `qs`: 16 bytes | `(q − 8) d` |
//! | `Q4_1` | 20 | `d`, `m`: f16; `qs`: 16 bytes | `q d + m` |
//! | `Q5_0` | 22 | `d`: f16; `qh`: u32; `qs`: 16 bytes | `(q − 16) d` |
//! | `Q5_1` | 24 | `d`, `m`: f16; `qh`: u32; `qs`: 16 bytes | `q d + m` |
//! | `Q8_0` | 34 | `d`: f16; `qs`: 32 × i8 | `q d` |
//!
//! The low half of byte `j` of `qs` is of element `j`, its high half of element `j + 16`. Bit `i` of
//! `qh` is the fifth bit of element `i`.

use super::fit::{inverse, nearest, scale, scale_and_min, to_half};
use super::half;

/// The 4-bit codes of 16 bytes in the order of their elements: low halves, then high halves.
pub(super) fn nibbles(qs: &[u8]) -> impl Iterator<Item = u8> {
    qs.iter().map(|b| b & 15).chain(qs.iter().map(|b| b >> 4))
}

/// [`nibbles`] with the fifth bits of `qh`.
fn five_bits(qh: &[u8], qs: &[u8]) -> impl Iterator<Item = u8> {
    nibbles(qs).enumerate().map(|(i, low)| low | (qh[i / 8] >> (i % 8) & 1) << 4)
}

/// A block of `Q4_0`.
pub fn decode_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (out, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *out = f32::from(q as i8 - 8) * d;
    }
}

/// A block of `Q4_1`.
pub fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (out, q) in out.iter_mut().zip(nibbles(&block[4..])) {
        *out = f32::from(q) * d + m;
    }
}

/// A block of `Q5_0`.
pub fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (out, q) in out.iter_mut().zip(five_bits(&block[2..6], &block[6..])) {
        *out = f32::from(q as i8 - 16) * d;
    }
}

/// A block of `Q5_1`.
pub fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (out, q) in out.iter_mut().zip(five_bits(&block[4..8], &block[8..])) {
        *out = f32::from(q) * d + m;
    }
}

/// A block of `Q8_0`.
pub fn decode_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * d;
    }
}

/// Writes 32 codes as [`nibbles`] reads their low four bits.
pub(super) fn put_nibbles(q: &[u8; 32], qs: &mut [u8]) {
    let (low, high) = q.split_at(16);
    for (byte, (low, high)) in qs.iter_mut().zip(low.iter().zip(high)) {
        *byte = low & 15 | high << 4;
    }
}

/// Writes the fifth bits of 32 codes.
fn put_fifth_bits(q: &[u8; 32], qh: &mut [u8]) {
    let bits = q.iter().rev().fold(0u32, |bits, q| bits << 1 | u32::from(q >> 4));
    qh.copy_from_slice(&bits.to_le_bytes());
}

/// The scale's half, and codes `x / d`, from `low` to `−low − 1`, minus `low`.
fn symmetric(x: &[f32; 32], low: f32) -> ([u8; 2], [u8; 32]) {
    let (half, d) = to_half(scale(x, low));
    let inverse = inverse(d);
    (half, x.map(|x| (nearest(x * inverse, low, -low - 1.0) - low) as u8))
}

/// The scale's and the minimum's halves, and codes `(x − m) / d` from 0 to `top`.
fn affine(x: &[f32; 32], top: f32) -> ([u8; 4], [u8; 32]) {
    let (d, m) = scale_and_min(x, top, f32::INFINITY);
    let (([d0, d1], d), ([m0, m1], m)) = (to_half(d), to_half(m));
    let inverse = inverse(d);
    ([d0, d1, m0, m1], x.map(|x| nearest((x - m) * inverse, 0.0, top) as u8))
}

/// A block of `Q4_0`.
pub fn encode_q4_0(x: &[f32; 32], block: &mut [u8; 18]) {
    let (d, q) = symmetric(x, -8.0);
    block[..2].copy_from_slice(&d);
    put_nibbles(&q, &mut block[2..]);
}

/// A block of `Q4_1`.
pub fn encode_q4_1(x: &[f32; 32], block: &mut [u8; 20]) {
    let (scales, q) = affine(x, 15.0);
    block[..4].copy_from_slice(&scales);
    put_nibbles(&q, &mut block[4..]);
}

/// A block of `Q5_0`.
pub fn encode_q5_0(x: &[f32; 32], block: &mut [u8; 22]) {
    let (d, q) = symmetric(x, -16.0);
    block[..2].copy_from_slice(&d);
    put_fifth_bits(&q, &mut block[2..6]);
    put_nibbles(&q, &mut block[6..]);
}

/// A block of `Q5_1`.
pub fn encode_q5_1(x: &[f32; 32], block: &mut [u8; 24]) {
    let (scales, q) = affine(x, 31.0);
    block[..4].copy_from_slice(&scales);
    put_fifth_bits(&q, &mut block[4..8]);
    put_nibbles(&q, &mut block[8..]);
}

/// A block of `Q8_0`.
pub fn encode_q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    let (half, d) = to_half(peak / 127.0);
    let inverse = inverse(d);
    block[..2].copy_from_slice(&half);
    for (q, x) in block[2..].iter_mut().zip(x) {
        *q = nearest(x * inverse, -127.0, 127.0) as i8 as u8;
    }
}
