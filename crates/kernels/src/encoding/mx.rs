//! Microscaling floats (OCP MX 1.0): `MXFP4`.
//!
//! Blocks of 32 in 17 bytes: `e`, a byte; `qs`, 16 bytes. The low half of byte `j` of `qs` is of
//! element `j`, its high half of element `j + 16`. A code is a sign bit above an E2M1 magnitude,
//! [`MXFP4_VALUES`] in halves; an element is `2^(e − 127)` times that. The specification's NaN
//! (`e = 255`) is not distinguished, and −0 is 0.

use super::fit::inverse;
use super::legacy::{nibbles, put_nibbles};

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

/// The code of the value in [`MXFP4_VALUES`] that is nearest to `v`; of two the one nearer to 0.
fn code(v: f32) -> u8 {
    let pairs = MXFP4_VALUES[..8].windows(2);
    let magnitude: u8 =
        pairs.map(|pair| u8::from(2.0 * v.abs() > f32::from(pair[0]) + f32::from(pair[1]))).sum();
    if v < 0.0 && magnitude > 0 { magnitude | 8 } else { magnitude }
}

/// A block of `MXFP4`: the scale is the specification's, which makes the peak 4 to 8, or twice that,
/// where that loses less.
pub fn encode_mxfp4(x: &[f32; 32], block: &mut [u8; 17]) {
    let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    // The peak's exponent; below the normal floats it is 0, as near as may be.
    let exponent = (peak.to_bits() >> 23).min(254) as u8;
    let first = exponent.saturating_sub(2);
    let error = |e: u8| -> f32 {
        let d = half_scale(e);
        let inverse = inverse(d);
        let errors = x.iter().map(|x| {
            let lost = x - d * f32::from(MXFP4_VALUES[usize::from(code(x * inverse))]);
            lost * lost
        });
        errors.sum()
    };
    let e = if error(first + 1) < error(first) { first + 1 } else { first };
    let inverse = inverse(half_scale(e));
    block[0] = e;
    put_nibbles(&x.map(|x| code(x * inverse)), &mut block[1..]);
}
