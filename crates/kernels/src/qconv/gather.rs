//! Gathering patches of the input as rows.

use std::ops::Range;

use super::PackedQConv;
use super::micro::Element;

/// Bytes that may be written past the last row.
pub(super) const SLACK: usize = 64;

/// Writes the patches of output pixels `rows`, for one group's channels, to the start of `out`,
/// [`PackedQConv::row_bytes`] each. Bytes past a patch's depth hold anything: the weights are
/// zero there.
pub(super) fn gather(
    conv: &PackedQConv,
    group: usize,
    rows: Range<usize>,
    input: &[u8],
    out: &mut [u8],
) {
    assert!(out.len() >= rows.len() * conv.row_bytes + SLACK);
    match conv.micro.element {
        Element::Wide => {
            let zero = conv.input_zero_point;
            let kind = conv.input_kind;
            // A wide zero is the zero point less itself.
            patches(conv, group, rows, input, out, 2, |out, bytes| match bytes {
                Run::Copy(input, len) => {
                    for (out, &byte) in out.chunks_exact_mut(2).zip(&input[..len]) {
                        let value = (kind.value(byte) - zero) as i16;
                        out.copy_from_slice(&value.to_ne_bytes());
                    }
                }
                Run::Pad(len) => out[..2 * len].fill(0),
            });
        }
        Element::Unsigned | Element::Signed => {
            let flip = conv.micro.gathered_flip(conv.input_kind);
            let zero = conv.input_zero_point as u8 ^ conv.micro.tile_flip(conv.input_kind);
            patches(conv, group, rows, input, out, 1, |out, bytes| match bytes {
                Run::Copy(input, len) => copy(out, input, len, flip),
                Run::Pad(len) => out[..len].fill(zero),
            });
        }
    }
}

/// Copies the lines of input that output pixels `rows`, all of one line, read, from the first
/// column that they read to the last, to the start of `out`, `apart` bytes from line to line.
pub(super) fn lines(
    conv: &PackedQConv,
    rows: Range<usize>,
    input: &[u8],
    out: &mut [u8],
    apart: usize,
) {
    let shape = &conv.shape;
    let zero = conv.input_zero_point as u8 ^ conv.micro.tile_flip(conv.input_kind);
    let channels = shape.in_channels;
    let (ox, line) = (rows.start % shape.output[1], rows.start / shape.output[1]);
    let (oy, image) = (line % shape.output[0], line / shape.output[0]);
    // In columns of the padded image.
    let left = ox * shape.stride[1];
    let right = left + (rows.len() - 1) * shape.stride[1] + shape.kernel[1];
    let inside = |x: usize| x.clamp(shape.pad[1], shape.pad[1] + shape.input[1]);
    let (first, last) = (inside(left), inside(right));
    for (ky, out) in out.chunks_mut(apart).take(shape.kernel[0]).enumerate() {
        let out = &mut out[..(right - left) * channels];
        // Rows above the image wrap round to huge ones.
        let y = (oy * shape.stride[0] + ky * shape.dilation[0]).wrapping_sub(shape.pad[0]);
        if y >= shape.input[0] {
            out.fill(zero);
            continue;
        }
        let (before, out) = out.split_at_mut((first - left) * channels);
        let (out, after) = out.split_at_mut((last - first) * channels);
        let line = (image * shape.input[0] + y) * shape.input[1];
        let from = (line + first - shape.pad[1]) * channels;
        before.fill(zero);
        out.copy_from_slice(&input[from..][..out.len()]);
        after.fill(zero);
    }
}

/// A piece of a patch.
enum Run<'a> {
    /// The first bytes of this input; the rest may be read but means nothing.
    Copy(&'a [u8], usize),
    /// That many zeros of the input.
    Pad(usize),
}

/// Copies the first `len` bytes of `from`, with `flip`'s bits inverted, to the start of `to`,
/// which has [`SLACK`] to spare: bytes after the copy are overwritten too.
#[inline]
fn copy(to: &mut [u8], from: &[u8], len: usize, flip: u8) {
    let mask = u128::from_ne_bytes([flip; 16]);
    for (i, to) in to[..len.next_multiple_of(16)].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let chunk = match from[16 * i..].first_chunk::<16>() {
            Some(chunk) => *chunk,
            None => {
                let mut chunk = [0; 16];
                let rest = &from[16 * i..];
                chunk[..rest.len()].copy_from_slice(rest);
                chunk
            }
        };
        *to = (u128::from_ne_bytes(chunk) ^ mask).to_ne_bytes();
    }
}

/// Walks the patches in order, so that what one run writes too much the next one overwrites.
#[inline]
fn patches(
    conv: &PackedQConv,
    group: usize,
    rows: Range<usize>,
    input: &[u8],
    out: &mut [u8],
    element: usize,
    mut write: impl FnMut(&mut [u8], Run),
) {
    let shape = &conv.shape;
    if shape.is_pointwise() && conv.row_bytes == element * shape.in_channels {
        let bytes = &input[rows.start * shape.in_channels..rows.end * shape.in_channels];
        write(out, Run::Copy(bytes, bytes.len()));
        return;
    }
    let channels = shape.in_channels / shape.groups;
    let [height, width] = shape.input;
    let pixel = |image: usize, y: usize, x: usize| {
        ((image * height + y) * width + x) * shape.in_channels + group * channels
    };
    let (mut ox, lines) = (rows.start % shape.output[1], rows.start / shape.output[1]);
    let (mut oy, mut image) = (lines % shape.output[0], lines / shape.output[0]);
    for index in 0..rows.len() {
        let out = &mut out[index * conv.row_bytes..];
        let left = (ox * shape.stride[1]) as isize - shape.pad[1] as isize;
        let right = left + ((shape.kernel[1] - 1) * shape.dilation[1]) as isize;
        let whole =
            shape.groups == 1 && shape.dilation[1] == 1 && left >= 0 && right < width as isize;
        let mut at = 0;
        for ky in 0..shape.kernel[0] {
            let y =
                (oy * shape.stride[0] + ky * shape.dilation[0]) as isize - shape.pad[0] as isize;
            let run = shape.kernel[1] * channels;
            if y < 0 || y >= height as isize {
                write(&mut out[at * element..], Run::Pad(run));
                at += run;
            } else if whole {
                let from = pixel(image, y as usize, left as usize);
                write(&mut out[at * element..], Run::Copy(&input[from..], run));
                at += run;
            } else {
                for kx in 0..shape.kernel[1] {
                    let x = left + (kx * shape.dilation[1]) as isize;
                    let piece = if x < 0 || x >= width as isize {
                        Run::Pad(channels)
                    } else {
                        let from = pixel(image, y as usize, x as usize);
                        Run::Copy(&input[from..], channels)
                    };
                    write(&mut out[at * element..], piece);
                    at += channels;
                }
            }
        }
        ox += 1;
        if ox == shape.output[1] {
            (ox, oy) = (0, oy + 1);
        }
        if oy == shape.output[0] {
            (oy, image) = (0, image + 1);
        }
    }
}
