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

use super::fit::{inverse, nearest, scale_by, to_half};
use super::half;
use super::iq3_grid::GRID;
use super::legacy::{nibbles, put_nibbles};
use std::sync::OnceLock;

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

/// The code of the value in [`IQ4_VALUES`] that is nearest to `v`.
fn iq4_code(v: f32) -> u8 {
    let pairs = IQ4_VALUES.windows(2);
    pairs.map(|pair| u8::from(v > 0.5 * (f32::from(pair[0]) + f32::from(pair[1])))).sum()
}

/// The scale of codes into [`IQ4_VALUES`].
fn iq4_scale(x: &[f32]) -> f32 {
    scale_by(x, -127.0, |v| f32::from(IQ4_VALUES[usize::from(iq4_code(v))]))
}

/// A block of `IQ4_NL`.
pub fn encode_iq4_nl(x: &[f32; 32], block: &mut [u8; 18]) {
    let (half, d) = to_half(iq4_scale(x));
    let inverse = inverse(d);
    block[..2].copy_from_slice(&half);
    put_nibbles(&x.map(|x| iq4_code(x * inverse)), &mut block[2..]);
}

/// A block of `IQ4_XS`.
pub fn encode_iq4_xs(x: &[f32; 256], block: &mut [u8; 136]) {
    block.fill(0);
    let sub_blocks = x.as_chunks::<32>().0;
    let fits: [f32; 8] = std::array::from_fn(|b| iq4_scale(&sub_blocks[b]));
    let peak = fits.iter().fold(0.0f32, |p, v| if v.abs() > p.abs() { *v } else { p });
    let (half, d) = to_half(peak / -32.0);
    let back = inverse(d);
    block[..2].copy_from_slice(&half);
    let mut high = 0u16;
    for (b, (x, fit)) in sub_blocks.iter().zip(fits).enumerate() {
        let s = nearest(fit * back, -32.0, 31.0);
        let code = (s + 32.0) as u8;
        block[4 + b / 2] |= (code & 15) << (4 * (b % 2));
        high |= u16::from(code >> 4) << (2 * b);
        let inverse = inverse(d * s);
        let q = x.map(|x| iq4_code(x * inverse));
        put_nibbles(&q, &mut block[8 + 16 * b..][..16]);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
}

/// For each four odd magnitudes up to 15 (their three bits, the first one highest) the codes of the
/// nearest points.
fn iq3_near() -> &'static [[u16; 8]] {
    static NEAR: OnceLock<Vec<[u16; 8]>> = OnceLock::new();
    NEAR.get_or_init(|| {
        let digits = |v: u16| [9, 6, 3, 0].map(|shift| i32::from(v >> shift & 7));
        let near = |cell| {
            let cell = digits(cell);
            let distance = |point: u16| -> i32 {
                digits(point).iter().zip(cell).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let mut codes: Vec<(i32, u16)> =
                GRID.iter().zip(0..).map(|(point, code)| (distance(*point), code)).collect();
            codes.sort_unstable();
            std::array::from_fn(|i| codes[i].1)
        };
        (0..4096).map(near).collect()
    })
}

/// The code whose magnitudes are nearest to `v`, of those near its cell.
fn iq3_code(v: [f32; 4]) -> u16 {
    let digit = |v: f32| nearest(0.5 * (v - 1.0), 0.0, 7.0) as usize;
    let cell = v.iter().fold(0, |cell, v| cell << 3 | digit(*v));
    let error = |code: u16| -> f32 {
        let point = iq3_grid(usize::from(code));
        point.iter().zip(v).map(|(p, v)| (f32::from(*p) - v) * (f32::from(*p) - v)).sum()
    };
    let near = iq3_near()[cell].map(|code| (error(code), code));
    near.into_iter().fold((f32::INFINITY, 0), |best, e| if e.0 < best.0 { e } else { best }).1
}

/// The scale of a sub-block of `IQ3_S`, from its magnitudes.
fn iq3_scale(x: &[[f32; 4]]) -> f32 {
    let peak = x.as_flattened().iter().fold(0.0f32, |peak, x| peak.max(*x));
    if !(peak > 1e-10 && peak.is_finite()) {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for step in -9..=3 {
        let inverse = (15.0 + 0.5 * step as f32) / peak;
        let (mut xq, mut qq) = (0.0, 0.0);
        for x in x {
            let point = iq3_grid(usize::from(iq3_code(x.map(|x| x * inverse))));
            for (x, q) in x.iter().zip(point) {
                xq += x * f32::from(q);
                qq += f32::from(q) * f32::from(q);
            }
        }
        if xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// A block of `IQ3_S`.
pub fn encode_iq3_s(x: &[f32; 256], block: &mut [u8; 110]) {
    block.fill(0);
    let magnitudes = x.map(f32::abs);
    let (groups, _) = magnitudes.as_chunks::<4>();
    let fits: [f32; 8] = std::array::from_fn(|b| iq3_scale(&groups[8 * b..][..8]));
    let (half, d) = to_half(fits.iter().fold(0.0f32, |peak, fit| peak.max(*fit)) / 31.0);
    let back = inverse(d);
    block[..2].copy_from_slice(&half);
    for (b, fit) in fits.iter().enumerate() {
        let s = nearest(0.5 * (fit * back - 1.0), 0.0, 15.0);
        block[106 + b / 2] |= (s as u8) << (4 * (b % 2));
        let inverse = inverse(d * (2.0 * s + 1.0));
        for (i, x) in groups[8 * b..][..8].iter().enumerate() {
            let code = iq3_code(x.map(|x| x * inverse));
            block[2 + 8 * b + i] = code as u8;
            block[66 + b] |= ((code >> 8) as u8) << i;
        }
    }
    for (i, x) in x.iter().enumerate() {
        block[74 + i / 8] |= u8::from(*x < 0.0) << (i % 8);
    }
}
