//! Blocks of 256 whose scales are quantised in turn: `Q2_K` to `Q6_K`.
//!
//! | encoding | bytes | fields, in order | element |
//! |---|---|---|---|
//! | `Q2_K` | 84 | `scales`: 16 bytes; `qs`: 64 bytes; `d`, `dmin`: f16 | `q (d s) − dmin m` |
//! | `Q3_K` | 110 | `hmask`: 32 bytes; `qs`: 64 bytes; `scales`: 12 bytes; `d`: f16 | `(q − 4) (d (s − 32))` |
//! | `Q4_K` | 144 | `d`, `dmin`: f16; `scales`: 12 bytes; `qs`: 128 bytes | `q (d s) − dmin m` |
//! | `Q5_K` | 176 | `d`, `dmin`: f16; `scales`: 12 bytes; `qh`: 32 bytes; `qs`: 128 bytes | `q (d s) − dmin m` |
//! | `Q6_K` | 210 | `ql`: 128 bytes; `qh`: 64 bytes; `scales`: 16 × i8; `d`: f16 | `(q − 32) (d s)` |
//!
//! Codes are stored in planes, so that one shift of 32 bytes gives 32 neighbouring elements. With `l`
//! from 0 to 31:
//!
//! - `Q2_K`, `Q3_K`: element `128 n + 32 j + l` has the two bits `2 j` of `qs[32 n + l]`; in `Q3_K` its
//!   third bit is bit `4 n + j` of `hmask[l]`. Sub-blocks are of 16.
//! - `Q4_K`, `Q5_K`: element `64 j + l` has the low half of `qs[32 j + l]`, element `64 j + 32 + l` its
//!   high half; in `Q5_K` their fifth bits are bits `2 j` and `2 j + 1` of `qh[l]`. Sub-blocks are of 32.
//! - `Q6_K`: element `128 n + 32 j + l` has half `j / 2` (0: low) of `ql[64 n + 32 (j mod 2) + l]` and
//!   above it the two bits `2 j` of `qh[32 n + l]`. Sub-blocks are of 16.
//!
//! Scales `s` and minima `m` of sub-block `i`:
//!
//! - `Q2_K`: the low and high half of `scales[i]`.
//! - `Q3_K`: [`scales_q3_k`], six bits: the low four are half `i / 8` of `scales[i mod 8]`, the high two
//!   the bits `2 (i / 4)` of `scales[8 + i mod 4]`.
//! - `Q4_K`, `Q5_K`: [`scales_q4_k`], six bits: for `i < 4` the low six bits of `scales[i]` and of
//!   `scales[4 + i]`; for the others the low four bits of `s` and `m` are the low and high half of
//!   `scales[4 + i]`, and the high two are the top two bits of `scales[i − 4]` and of `scales[i]`.
//! - `Q6_K`: `scales[i]`.

use super::fit::{inverse, nearest, scale, scale_and_min, to_half};
use super::half;

/// A block of `Q2_K`.
pub fn decode_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (i, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (n, j, half) = (i / 8, i / 2 % 4, i % 2);
        let (scale, min) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        for (out, q) in out.iter_mut().zip(&qs[32 * n + 16 * half..]) {
            *out = scale * f32::from(q >> (2 * j) & 3) - min;
        }
    }
}

/// The sixteen scales of a `Q3_K` block, 32 more than they stand for, from its twelve bytes.
pub fn scales_q3_k(bytes: &[u8; 12]) -> [u8; 16] {
    std::array::from_fn(|i| {
        let low = bytes[i % 8] >> (4 * (i / 8)) & 15;
        let high = bytes[8 + i % 4] >> (2 * (i / 4)) & 3;
        low | high << 4
    })
}

/// A block of `Q3_K`.
pub fn decode_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs) = (&block[..32], &block[32..96]);
    let scales = scales_q3_k(block[96..108].as_array().expect("twelve bytes"));
    let d = half(block, 108);
    for (i, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (n, j, half) = (i / 8, i / 2 % 4, i % 2);
        let scale = d * f32::from(scale as i8 - 32);
        let (qs, hmask) = (&qs[32 * n + 16 * half..], &hmask[16 * half..]);
        for (out, (q, high)) in out.iter_mut().zip(qs.iter().zip(hmask)) {
            let q = (q >> (2 * j) & 3) | (high >> (4 * n + j) & 1) << 2;
            *out = scale * f32::from(q as i8 - 4);
        }
    }
}

/// The eight scales and eight minima of a `Q4_K` or `Q5_K` block from its twelve bytes.
pub fn scales_q4_k(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let of = |i: usize, low: fn(u8) -> u8, first: usize| match i {
        0..4 => bytes[first + i] & 63,
        _ => low(bytes[4 + i]) | bytes[first + i - 4] >> 6 << 4,
    };
    (std::array::from_fn(|i| of(i, |b| b & 15, 0)), std::array::from_fn(|i| of(i, |b| b >> 4, 4)))
}

/// A block of `Q4_K`.
pub fn decode_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    decode_q4_or_5_k(block, None, &block[16..], out);
}

/// A block of `Q5_K`.
pub fn decode_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    decode_q4_or_5_k(block, Some(&block[16..48]), &block[48..], out);
}

fn decode_q4_or_5_k(block: &[u8], qh: Option<&[u8]>, qs: &[u8], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, mins) = scales_q4_k(block[4..16].as_array().expect("twelve bytes"));
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[i]), dmin * f32::from(mins[i]));
        for (l, (out, q)) in out.iter_mut().zip(&qs[32 * (i / 2)..]).enumerate() {
            let low = q >> (4 * (i % 2)) & 15;
            let high = qh.map_or(0, |qh| qh[l] >> i & 1);
            *out = scale * f32::from(low | high << 4) - min;
        }
    }
}

/// A block of `Q6_K`.
pub fn decode_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (i, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (n, j, half) = (i / 8, i / 2 % 4, i % 2);
        let scale = d * f32::from(*scale as i8);
        let low = &ql[64 * n + 32 * (j % 2) + 16 * half..];
        let high = &qh[32 * n + 16 * half..];
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let q = (low >> (4 * (j / 2)) & 15) | (high >> (2 * j) & 3) << 4;
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}

/// The half of `d`, what it stands for, and codes for which `scales[i] ≈ d codes[i]`. Where `limit` is
/// negative, codes are from there to `−limit − 1`; otherwise scales are not negative, and codes from 0
/// to `limit`.
fn scales<const N: usize>(scales: [f32; N], limit: f32) -> ([u8; 2], f32, [f32; N]) {
    let peak = scales.iter().fold(0.0f32, |p, v| if v.abs() > p.abs() { *v } else { p });
    let (half, d) = to_half(peak / limit);
    let inverse = inverse(d);
    let (low, high) = if limit < 0.0 { (limit, -limit - 1.0) } else { (0.0, limit) };
    (half, d, scales.map(|scale| nearest(scale * inverse, low, high)))
}

/// A block with scales and minima for each `SUB` elements: writes the halves of `d` and `dmin`, and
/// gives the codes of the scales, of the minima (both up to `scale_top`), and of the elements (up to
/// `top`).
fn with_minima<const SUB: usize, const COUNT: usize>(
    x: &[f32; 256],
    top: f32,
    scale_top: f32,
    halves: &mut [u8],
) -> ([u8; COUNT], [u8; COUNT], [u8; 256]) {
    let sub_blocks = x.as_chunks::<SUB>().0;
    let fits: [(f32, f32); COUNT] =
        std::array::from_fn(|i| scale_and_min(&sub_blocks[i], top, 0.0));
    let (d_half, d, s) = scales(fits.map(|fit| fit.0), scale_top);
    let (dmin_half, dmin, m) = scales(fits.map(|fit| -fit.1), scale_top);
    halves[..2].copy_from_slice(&d_half);
    halves[2..].copy_from_slice(&dmin_half);
    let q = std::array::from_fn(|i| {
        let (scale, min) = (d * s[i / SUB], dmin * m[i / SUB]);
        nearest((x[i] + min) * inverse(scale), 0.0, top) as u8
    });
    (s.map(|s| s as u8), m.map(|m| m as u8), q)
}

/// A block with signed scales for each 16 elements: the half of `d`, the codes of the scales (from
/// `scale_low`), and those of the elements (from `low`) minus `low`.
fn with_signed_scales(x: &[f32; 256], low: f32, scale_low: f32) -> ([u8; 2], [f32; 16], [u8; 256]) {
    let sub_blocks = x.as_chunks::<16>().0;
    let fits: [f32; 16] = std::array::from_fn(|i| scale(&sub_blocks[i], low));
    let (half, d, s) = scales(fits, scale_low);
    let q = std::array::from_fn(|i| {
        (nearest(x[i] * inverse(d * s[i / 16]), low, -low - 1.0) - low) as u8
    });
    (half, s, q)
}

/// A block of `Q2_K`.
pub fn encode_q2_k(x: &[f32; 256], block: &mut [u8; 84]) {
    block.fill(0);
    let (scales, mins, q) = with_minima::<16, 16>(x, 3.0, 15.0, &mut block[80..]);
    for (byte, (s, m)) in block.iter_mut().zip(scales.iter().zip(mins)) {
        *byte = s | m << 4;
    }
    put_pairs(&q, &mut block[16..80]);
}

/// Writes the low two bits of the codes in the planes of `Q2_K` and `Q3_K`.
fn put_pairs(q: &[u8; 256], qs: &mut [u8]) {
    for (i, q) in q.iter().enumerate() {
        let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
        qs[32 * n + l] |= (q & 3) << (2 * j);
    }
}

/// A block of `Q3_K`.
pub fn encode_q3_k(x: &[f32; 256], block: &mut [u8; 110]) {
    block.fill(0);
    let (d, scales, q) = with_signed_scales(x, -4.0, -32.0);
    for (i, q) in q.iter().enumerate() {
        block[i % 32] |= (q >> 2) << (i / 32);
    }
    put_pairs(&q, &mut block[32..96]);
    for (i, s) in scales.iter().enumerate() {
        let s = (s + 32.0) as u8;
        block[96 + i % 8] |= (s & 15) << (4 * (i / 8));
        block[104 + i % 4] |= (s >> 4) << (2 * (i / 4));
    }
    block[108..].copy_from_slice(&d);
}

/// Writes the scales and minima of a `Q4_K` or `Q5_K` block into its twelve bytes, which are zeros.
fn put_scales_q4_k(scales: &[u8; 8], mins: &[u8; 8], bytes: &mut [u8]) {
    for (i, (s, m)) in scales.iter().zip(mins).enumerate() {
        if i < 4 {
            bytes[i] |= s;
            bytes[4 + i] |= m;
        } else {
            bytes[4 + i] |= s & 15 | m << 4;
            bytes[i - 4] |= s >> 4 << 6;
            bytes[i] |= m >> 4 << 6;
        }
    }
}

/// Writes the low halves of the codes in the planes of `Q4_K` and `Q5_K`.
fn put_halves(q: &[u8; 256], qs: &mut [u8]) {
    for (i, q) in q.iter().enumerate() {
        let (j, half, l) = (i / 64, i / 32 % 2, i % 32);
        qs[32 * j + l] |= (q & 15) << (4 * half);
    }
}

/// A block of `Q4_K`.
pub fn encode_q4_k(x: &[f32; 256], block: &mut [u8; 144]) {
    block.fill(0);
    let (scales, mins, q) = with_minima::<32, 8>(x, 15.0, 63.0, &mut block[..4]);
    put_scales_q4_k(&scales, &mins, &mut block[4..16]);
    put_halves(&q, &mut block[16..]);
}

/// A block of `Q5_K`.
pub fn encode_q5_k(x: &[f32; 256], block: &mut [u8; 176]) {
    block.fill(0);
    let (scales, mins, q) = with_minima::<32, 8>(x, 31.0, 63.0, &mut block[..4]);
    put_scales_q4_k(&scales, &mins, &mut block[4..16]);
    for (i, q) in q.iter().enumerate() {
        block[16 + i % 32] |= (q >> 4) << (i / 32);
    }
    put_halves(&q, &mut block[48..]);
}

/// A block of `Q6_K`.
pub fn encode_q6_k(x: &[f32; 256], block: &mut [u8; 210]) {
    block.fill(0);
    let (d, scales, q) = with_signed_scales(x, -32.0, -128.0);
    for (i, q) in q.iter().enumerate() {
        let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
        block[64 * n + 32 * (j % 2) + l] |= (q & 15) << (4 * (j / 2));
        block[128 + 32 * n + l] |= (q >> 4) << (2 * j);
    }
    for (byte, s) in block[192..208].iter_mut().zip(scales) {
        *byte = s as i8 as u8;
    }
    block[208..].copy_from_slice(&d);
}
