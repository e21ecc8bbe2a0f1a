//! Pools over 8-bit images, channels last, and the mean over all pixels.

use std::ops::Range;

use crate::isa::Isa;
use crate::qconv::ConvShape;
use crate::requant::{Byte, ByteOutput, Requantiser, Rescale};
use crate::words::{Kernel, Words, on};

/// Channels accumulated at a time.
const BLOCK: usize = 64;

/// What a pool makes of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QPoolKind {
    /// The largest value.
    Max,
    /// The mean of the pixels inside the image, rounded half away from zero (the stored integers',
    /// as TensorFlow Lite's reference: input and output have one quantisation).
    Mean,
}

/// A pool; the shape's channels must be equal, its groups say nothing.
#[derive(Clone, Copy, Debug)]
pub struct QPool {
    isa: Isa,
    kind: QPoolKind,
    shape: ConvShape,
    byte: Byte,
    limits: (i32, i32),
}

impl QPool {
    /// A pool over bytes of type `byte`, its results limited to `limits`. `None` where a window
    /// lies outside the image altogether, or has more than 2^23 elements.
    ///
    /// # Panics
    /// If the channels differ, or a stride or dilation is zero.
    pub fn new(
        isa: Isa,
        kind: QPoolKind,
        shape: &ConvShape,
        byte: Byte,
        limits: (i32, i32),
    ) -> Option<Self> {
        assert_eq!(shape.in_channels, shape.out_channels);
        assert!(shape.stride.iter().chain(&shape.dilation).all(|&x| x > 0));
        let pool = Self { isa, kind, shape: *shape, byte, limits };
        let each_has_some =
            |axis: usize| (0..shape.output[axis]).all(|o| !pool.window(axis, o).is_empty());
        let small = shape.kernel[0].checked_mul(shape.kernel[1]).is_some_and(|n| n < 1 << 23);
        (small && each_has_some(0) && each_has_some(1)).then_some(pool)
    }

    /// Lines of output pixels in all images: the range to split between threads.
    pub fn lines(&self) -> usize {
        self.shape.batch * self.shape.output[0]
    }

    /// The taps of output position `at` along an axis that lie inside the image.
    fn window(&self, axis: usize, at: usize) -> Range<usize> {
        let shape = &self.shape;
        let (dilation, pad) = (shape.dilation[axis], shape.pad[axis]);
        let start = at * shape.stride[axis];
        let first = pad.saturating_sub(start).div_ceil(dilation);
        let last = (shape.input[axis] + pad).saturating_sub(start).div_ceil(dilation);
        first..last.min(shape.kernel[axis])
    }

    /// Computes lines of the output; `out` holds these lines only.
    ///
    /// # Panics
    /// If a length or range does not fit.
    pub fn run(&self, lines: Range<usize>, input: &[u8], out: &mut [u8]) {
        let shape = &self.shape;
        assert_eq!(input.len(), shape.input_len(), "input length");
        assert!(lines.end <= self.lines());
        assert_eq!(out.len(), lines.len() * shape.output[1] * shape.out_channels, "output length");
        on(self.isa, Run { pool: self, lines, input, out });
    }
}

struct Run<'a> {
    pool: &'a QPool,
    lines: Range<usize>,
    input: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for Run<'_> {
    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        let pool = self.pool;
        let shape = &pool.shape;
        let channels = shape.in_channels;
        if channels == 0 {
            return;
        }
        // Signed bytes are compared and summed as unsigned ones moved up by 128.
        let flip = if pool.byte == Byte::Signed { 0x80u8 } else { 0 };
        let moved = i32::from(flip);
        let (low, high) = (pool.limits.0 + moved, pool.limits.1 + moved);
        let pixels = self.out.chunks_exact_mut(channels);
        for (index, out) in pixels.enumerate() {
            let (line, ox) = (self.lines.start + index / shape.output[1], index % shape.output[1]);
            let (image, oy) = (line / shape.output[0], line % shape.output[0]);
            let (rows, columns) = (pool.window(0, oy), pool.window(1, ox));
            let count = (rows.len() * columns.len()) as i32;
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let mut sums = [0i32; BLOCK];
                let mut largest = [0u8; BLOCK];
                for ky in rows.clone() {
                    let y = oy * shape.stride[0] + ky * shape.dilation[0] - shape.pad[0];
                    for kx in columns.clone() {
                        let x = ox * shape.stride[1] + kx * shape.dilation[1] - shape.pad[1];
                        let from = ((image * shape.input[0] + y) * shape.input[1] + x) * channels;
                        let bytes = &self.input[from + block * BLOCK..][..out.len()];
                        match pool.kind {
                            QPoolKind::Max => {
                                for (largest, &byte) in largest.iter_mut().zip(bytes) {
                                    *largest = (*largest).max(byte ^ flip);
                                }
                            }
                            QPoolKind::Mean => {
                                for (sum, &byte) in sums.iter_mut().zip(bytes) {
                                    *sum += i32::from(byte ^ flip);
                                }
                            }
                        }
                    }
                }
                match pool.kind {
                    QPoolKind::Max => {
                        for (out, largest) in out.iter_mut().zip(largest) {
                            *out = (i32::from(largest).clamp(low, high) as u8) ^ flip;
                        }
                    }
                    QPoolKind::Mean => {
                        let count_real = f64::from(count);
                        for (out, sum) in out.iter_mut().zip(sums) {
                            let sum = sum - moved * count;
                            let half = if sum > 0 { count / 2 } else { -(count / 2) };
                            // Exact: a whole quotient is never reached by rounding, the nearest
                            // other one being farther than 2^-53 of it.
                            let mean = f64::from(sum + half) / count_real;
                            // SAFETY: the mean of bytes is small.
                            let mean = unsafe { mean.to_int_unchecked::<i32>() } + moved;
                            *out = (mean.clamp(low, high) as u8) ^ flip;
                        }
                    }
                }
            }
        }
    }
}

/// The mean (or sum) over all pixels of each image, requantised: TensorFlow Lite's `MEAN` over
/// height and width.
#[derive(Clone, Debug)]
pub struct QSpatialMean {
    isa: Isa,
    pixels: usize,
    channels: usize,
    byte: Byte,
    /// What the zero points add to a sum.
    offset: i32,
    requantiser: Requantiser,
}

impl QSpatialMean {
    /// Over images of `pixels` pixels of `channels` channels of type and zero point `input`;
    /// `rescale` (one factor) takes sums less their zero points to the output. `None` where sums
    /// may exceed 2^31.
    ///
    /// # Panics
    /// If there is not one factor.
    pub fn new(
        isa: Isa,
        pixels: usize,
        channels: usize,
        input: (Byte, i32),
        rescale: &Rescale,
        output: ByteOutput,
    ) -> Option<Self> {
        let largest = i64::try_from(pixels).ok()?.checked_mul(255).filter(|x| *x < 1 << 31)?;
        Some(Self {
            isa,
            pixels,
            channels,
            byte: input.0,
            offset: input.1.wrapping_mul(pixels as i32),
            requantiser: Requantiser::new(isa, rescale, output, channels.max(1), largest),
        })
    }

    /// Whole images: `input` of their pixels, `out` of their means.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn run(&self, input: &[u8], out: &mut [u8]) {
        let per_image = self.pixels * self.channels;
        if self.channels == 0 || self.pixels == 0 {
            out.fill(self.requantiser.output.zero_point as u8);
            return;
        }
        assert!(out.len().is_multiple_of(self.channels));
        assert_eq!(input.len(), out.len() / self.channels * per_image);
        for (input, out) in input.chunks_exact(per_image).zip(out.chunks_exact_mut(self.channels)) {
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let mut sums = [0i32; BLOCK];
                let columns = block * BLOCK..block * BLOCK + out.len();
                on(
                    self.isa,
                    SumRows { mean: self, input, columns: columns.clone(), sums: &mut sums },
                );
                self.requantiser.run(columns.start, out.len(), 1, (&sums, BLOCK), (out, BLOCK));
            }
        }
    }
}

struct SumRows<'a> {
    mean: &'a QSpatialMean,
    input: &'a [u8],
    columns: Range<usize>,
    sums: &'a mut [i32; BLOCK],
}

impl Kernel for SumRows<'_> {
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        let flip = if self.mean.byte == Byte::Signed { 0x80u8 } else { 0 };
        let moved = i32::from(flip).wrapping_mul(self.mean.pixels as i32);
        for row in self.input.chunks_exact(self.mean.channels) {
            for (sum, &byte) in self.sums.iter_mut().zip(&row[self.columns.clone()]) {
                *sum = sum.wrapping_add(i32::from(byte ^ flip));
            }
        }
        for sum in self.sums.iter_mut() {
            *sum = sum.wrapping_sub(moved).wrapping_sub(self.mean.offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::Multiplier;
    use crate::test_random::Random;

    fn reference(pool: &QPool, input: &[u8]) -> Vec<u8> {
        let shape = &pool.shape;
        let mut out = Vec::new();
        for row in 0..shape.rows() {
            let (ox, rest) = (row % shape.output[1], row / shape.output[1]);
            let (oy, image) = (rest % shape.output[0], rest / shape.output[0]);
            for channel in 0..shape.in_channels {
                let mut values = Vec::new();
                for ky in 0..shape.kernel[0] {
                    for kx in 0..shape.kernel[1] {
                        let y = (oy * shape.stride[0] + ky * shape.dilation[0])
                            .wrapping_sub(shape.pad[0]);
                        let x = (ox * shape.stride[1] + kx * shape.dilation[1])
                            .wrapping_sub(shape.pad[1]);
                        if y < shape.input[0] && x < shape.input[1] {
                            let pixel = (image * shape.input[0] + y) * shape.input[1] + x;
                            values
                                .push(pool.byte.value(input[pixel * shape.in_channels + channel]));
                        }
                    }
                }
                let (sum, count) = (values.iter().sum::<i32>(), values.len() as i32);
                let value = match pool.kind {
                    QPoolKind::Max => *values.iter().max().unwrap(),
                    QPoolKind::Mean if sum > 0 => (sum + count / 2) / count,
                    QPoolKind::Mean => (sum - count / 2) / count,
                };
                out.push(value.clamp(pool.limits.0, pool.limits.1) as u8);
            }
        }
        out
    }

    #[test]
    fn every_isa_matches_the_loops() {
        let mut random = Random::new(11);
        for isa in Isa::available() {
            for channels in [1, 3, 64, 100] {
                for (kernel, stride, dilation, pad) in
                    [([2, 2], 2, 1, 0), ([3, 3], 1, 1, 1), ([3, 2], 2, 2, 1), ([7, 6], 1, 1, 0)]
                {
                    let input = [7, 6];
                    let output = [0, 1].map(|i: usize| {
                        (input[i] + 2 * pad - (kernel[i] - 1) * dilation - 1) / stride + 1
                    });
                    let shape = ConvShape {
                        batch: 2,
                        input,
                        in_channels: channels,
                        output,
                        out_channels: channels,
                        kernel,
                        stride: [stride; 2],
                        dilation: [dilation; 2],
                        pad: [pad; 2],
                        groups: 1,
                    };
                    let input = random.bytes(shape.input_len());
                    for kind in [QPoolKind::Max, QPoolKind::Mean] {
                        for (byte, limits) in [
                            (Byte::Signed, (-128, 127)),
                            (Byte::Signed, (-5, 90)),
                            (Byte::Unsigned, (0, 200)),
                        ] {
                            let pool = QPool::new(isa, kind, &shape, byte, limits).unwrap();
                            let want = reference(&pool, &input);
                            let mut got = vec![0; want.len()];
                            let per_line = shape.output[1] * channels;
                            let (first, second) = got.split_at_mut(per_line);
                            pool.run(0..1, &input, first);
                            pool.run(1..pool.lines(), &input, second);
                            assert_eq!(got, want, "{pool:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_outside_the_image_is_refused() {
        let mut shape = ConvShape::matrix(1, 4, 4);
        shape.pad = [2, 0];
        assert!(
            QPool::new(Isa::Portable, QPoolKind::Max, &shape, Byte::Signed, (-128, 127)).is_none()
        );
    }

    #[test]
    fn spatial_means_match_the_definition() {
        let mut random = Random::new(12);
        for isa in Isa::available() {
            for (pixels, channels) in [(1, 5), (49, 130), (64, 64)] {
                for (byte, zero) in [(Byte::Signed, -7), (Byte::Unsigned, 120)] {
                    let factor = Multiplier::new(1.3 / pixels as f64).unwrap();
                    let output = ByteOutput::new(byte, zero + 4);
                    let rescale = Rescale::Fixed(vec![factor]);
                    let mean =
                        QSpatialMean::new(isa, pixels, channels, (byte, zero), &rescale, output)
                            .unwrap();
                    let input = random.bytes(2 * pixels * channels);
                    let mut got = vec![0; 2 * channels];
                    mean.run(&input, &mut got);
                    for (i, &got) in got.iter().enumerate() {
                        let image = &input[i / channels * pixels * channels..];
                        let sum: i32 = (0..pixels)
                            .map(|p| byte.value(image[p * channels + i % channels]) - zero)
                            .sum();
                        let want = (factor.apply(sum) + output.zero_point)
                            .clamp(output.min, output.max) as u8;
                        assert_eq!(got, want, "{isa:?} {pixels} {i}");
                    }
                }
            }
        }
    }
}
