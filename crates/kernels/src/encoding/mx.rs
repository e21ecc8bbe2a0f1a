//! Microscaling floats (OCP MX 1.0): `MXFP4`.
//!
//! Blocks of 32 in 17 bytes: `e`, a byte; `qs`, 16 bytes. The low half of byte `j` of `qs` is of
//! element `j`, its high half of element `j + 16`. A code is a sign bit above an E2M1 magnitude,
//! [`MXFP4_VALUES`] in halves; an element is `2^(e − 127)` times that. The specification's NaN
//! (`e = 255`) is not distinguished, and −0 is 0.

use super::legacy::nibbles;

/// Twice what the codes of `MXFP4` stand for, in units of the scale.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e − 128)`, exact: half the scale, as [`MXFP4_VALUES`] are doubled.
pub fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e,
        _ => u32::from(e - 1) << 23,
    })
}

/// A block of `MXFP4`.
pub fn decode_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let d = half_scale(block[0]);
    for (out, q) in out.iter_mut().zip(nibbles(&block[1..])) {
        *out = f32::from(MXFP4_VALUES[usize::from(q)]) * d;
    }
}
