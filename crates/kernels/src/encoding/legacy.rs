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
