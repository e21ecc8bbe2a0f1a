//! Codes into tables of uneven steps: `IQ4_NL`, `IQ4_XS`, `IQ3_S`.
//!
//! | encoding | elements | bytes | fields, in order | element |
//! |---|---|---|---|---|
//! | `IQ4_NL` | 32 | 18 | `d`: f16; `qs`: 16 bytes | `d` [`IQ4_VALUES`]`[q]` |
//! | `IQ4_XS` | 256 | 136 | `d`: f16; `scales_h`: u16; `scales_l`: 4 bytes; `qs`: 128 bytes | `d (s − 32)` [`IQ4_VALUES`]`[q]` |
//! | `IQ3_S` | 256 | 110 | `d`: f16; `qs`: 64 bytes; `qh`: 8 bytes; `signs`: 32 bytes; `scales`: 4 bytes | `± d (1 + 2 s)` [`iq3_grid`]`(q)[i mod 4]` |
//!
//! Sub-blocks, each with a scale `s`, are of 32.
//!
//! - `IQ4_NL`: the low half of byte `j` of `qs` is of element `j`, its high half of element `j + 16`.
//!   `IQ4_XS`: the same for each sub-block `b`, with `qs[16 b..]`; the low four bits of its scale are
//!   half `b mod 2` of `scales_l[b / 2]`, the high two are the bits `2 b` of `scales_h`.
//! - `IQ3_S`: the code of elements `4 i` to `4 i + 3` is `qs[i]`, and above it bit `i mod 8` of
//!   `qh[i / 8]`. Bit `i mod 8` of `signs[i / 8]` is set where element `i` is negative. The scale of
//!   sub-block `b` is half `b mod 2` of `scales[b / 2]`.

use super::half;
use super::iq3_grid::GRID;
use super::legacy::nibbles;

/// What the codes of `IQ4_NL` and `IQ4_XS` stand for, in units of the scale.
pub const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The four magnitudes that code `q` (below 512) of `IQ3_S` stands for: odd, from 1 to 15.
pub fn iq3_grid(q: usize) -> [u8; 4] {
    let digits = GRID[q];
    [9, 6, 3, 0].map(|shift| (digits >> shift & 7) as u8 * 2 + 1)
}

/// A block of `IQ4_NL`.
pub fn decode_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (out, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *out = d * f32::from(IQ4_VALUES[usize::from(q)]);
    }
}

/// A block of `IQ4_XS`.
pub fn decode_iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let (high, low) = (u16::from_le_bytes([block[2], block[3]]), &block[4..8]);
    let sub_blocks = out.as_chunks_mut::<32>().0.iter_mut().zip(block[8..].chunks_exact(16));
    for (b, (out, qs)) in sub_blocks.enumerate() {
        let s = (low[b / 2] >> (4 * (b % 2)) & 15) | ((high >> (2 * b) & 3) as u8) << 4;
        let scale = d * f32::from(s as i8 - 32);
        for (out, q) in out.iter_mut().zip(nibbles(qs)) {
            *out = scale * f32::from(IQ4_VALUES[usize::from(q)]);
        }
    }
}

/// A block of `IQ3_S`.
pub fn decode_iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let (qs, qh, signs, scales) = (&block[2..66], &block[66..74], &block[74..106], &block[106..]);
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let s = scales[i / 16] >> (4 * (i / 8 % 2)) & 15;
        let scale = d * f32::from(1 + 2 * s);
        let q = usize::from(qs[i]) | usize::from(qh[i / 8] >> (i % 8) & 1) << 8;
        let signs = signs[i / 2] >> (4 * (i % 2));
        for (j, (out, magnitude)) in out.iter_mut().zip(iq3_grid(q)).enumerate() {
            let magnitude = scale * f32::from(magnitude);
            *out = if signs >> j & 1 == 0 { magnitude } else { -magnitude };
        }
    }
}
