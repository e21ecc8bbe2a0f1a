//! Blocks of 256 weights −1, 0 and 1 with one scale: `TQ1_0`, `TQ2_0`.
//!
//! | encoding | bytes | fields, in order | element |
//! |---|---|---|---|
//! | `TQ1_0` | 54 | `qs`: 48 bytes; `qh`: 4 bytes; `d`: f16 | `(q − 1) d` |
//! | `TQ2_0` | 66 | `qs`: 64 bytes; `d`: f16 | `(q − 1) d` |
//!
//! - `TQ2_0`: element `128 n + 32 j + l` has the two bits `2 j` of `qs[32 n + l]`, with `l` from 0 to
//!   31 and `j` from 0 to 3. Code 3 stands for 2 and is not written.
//! - `TQ1_0`: a byte is a fraction of 256 whose digits to base 3 are the codes, most significant first;
//!   digit `j` of `b` is `(b 3ʲ mod 256) × 3 / 256`, rounded down. Digit `j` of the first 32 bytes of
//!   `qs` is element `32 j + l`, of the other 16 element `160 + 16 j + l`, five digits each; of `qh`
//!   element `240 + 4 j + l`, four digits.

use super::fit::{inverse, nearest, to_half};
use super::half;

/// Where the bytes of a `TQ1_0` block start and end, the first element that they hold, and how many
/// each holds.
const TQ1_0_PARTS: [(usize, usize, usize, usize); 3] =
    [(0, 32, 0, 5), (32, 48, 160, 5), (48, 52, 240, 4)];

const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];

/// A block of `TQ1_0`.
pub fn decode_tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half(block, 52);
    for (start, end, first, digits) in TQ1_0_PARTS {
        let bytes = &block[start..end];
        for (out, power) in out[first..].chunks_mut(end - start).zip(&POWERS_OF_3[..digits]) {
            for (out, byte) in out.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                *out = f32::from(digit as i8 - 1) * d;
            }
        }
    }
}

/// A block of `TQ2_0`.
pub fn decode_tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (n, j) = (i / 4, i % 4);
        for (out, q) in out.iter_mut().zip(&block[32 * n..]) {
            *out = f32::from((q >> (2 * j) & 3) as i8 - 1) * d;
        }
    }
}

/// The half of the scale with the least squared error, and the codes: 0, 1, 2.
fn ternary(x: &[f32; 256]) -> ([u8; 2], [u8; 256]) {
    let mut magnitudes = x.map(f32::abs);
    magnitudes.sort_unstable_by(|a, b| b.total_cmp(a));
    // Those that are not 0 are the largest; the best scale for a number of them is their mean.
    let (mut sum, mut best) = (0.0, (0.0, 0.0));
    for (magnitude, count) in magnitudes.iter().zip(1..) {
        sum += f64::from(*magnitude);
        let mean = sum / f64::from(count);
        if sum * mean > best.0 {
            best = (sum * mean, mean);
        }
    }
    let (half, d) = to_half(best.1 as f32);
    let inverse = inverse(d);
    (half, x.map(|x| (nearest(x * inverse, -1.0, 1.0) + 1.0) as u8))
}

/// A block of `TQ1_0`.
pub fn encode_tq1_0(x: &[f32; 256], block: &mut [u8; 54]) {
    let (d, q) = ternary(x);
    for (start, end, first, digits) in TQ1_0_PARTS {
        for (l, byte) in block[start..end].iter_mut().enumerate() {
            let digit = |j: usize| u16::from(q[first + (end - start) * j + l]);
            let number =
                (0..digits).fold(0, |n, j| 3 * n + digit(j)) * if digits < 5 { 3 } else { 1 };
            // The smallest fraction of 256 that has these digits.
            *byte = (number * 256).div_ceil(243) as u8;
        }
    }
    block[52..].copy_from_slice(&d);
}

/// A block of `TQ2_0`.
pub fn encode_tq2_0(x: &[f32; 256], block: &mut [u8; 66]) {
    let (d, q) = ternary(x);
    block.fill(0);
    for (i, q) in q.iter().enumerate() {
        let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
        block[32 * n + l] |= q << (2 * j);
    }
    block[64..].copy_from_slice(&d);
}
