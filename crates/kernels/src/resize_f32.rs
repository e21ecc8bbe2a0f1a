//! Resizing channels-last images: each output pixel is a weighted sum of input pixels, and the
//! weights are those of its row times those of its column. Nearest neighbours are one tap of
//! weight 1, bilinear two, bicubic four.

use std::ops::Range;

use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};
use crate::window::ImageShape;

/// How the pixels along one axis are made: output i is the sum over taps t of
/// `weights[i * taps + t]` times input `indices[i * taps + t]`.
#[derive(Clone, Debug)]
pub struct AxisTaps {
    /// Taps of an output; at least 1.
    pub taps: usize,
    /// Inputs.
    pub indices: Vec<usize>,
    /// Their weights.
    pub weights: Vec<f32>,
}

/// A resize, ready to run.
#[derive(Clone, Debug)]
pub struct ResizeF32 {
    input: ImageShape,
    rows: AxisTaps,
    columns: AxisTaps,
}

impl ResizeF32 {
    /// From images like `input`, by these rows and columns.
    ///
    /// # Panics
    /// Where an index is outside the image, or there are not whole outputs.
    pub fn new(input: ImageShape, rows: AxisTaps, columns: AxisTaps) -> Self {
        for (axis, size) in [(&rows, input.height), (&columns, input.width)] {
            assert!(axis.taps > 0 && axis.indices.len().is_multiple_of(axis.taps), "taps");
            assert_eq!(axis.indices.len(), axis.weights.len(), "taps and weights");
            assert!(axis.indices.iter().all(|&i| i < size), "tap outside the image");
        }
        Self { input, rows, columns }
    }

    /// The images that come out.
    pub fn output(&self) -> ImageShape {
        ImageShape {
            height: self.rows.indices.len() / self.rows.taps,
            width: self.columns.indices.len() / self.columns.taps,
            channels: self.input.channels,
        }
    }

    /// Computes the lines `lines` of the output images, counted over the whole batch, into `out`,
    /// which holds just these.
    ///
    /// # Panics
    /// Where a slice has not the size that the shapes say.
    pub fn run(&self, isa: Isa, lines: Range<usize>, input: &[f32], out: &mut [f32]) {
        let output = self.output();
        assert_eq!(out.len(), lines.len() * output.width * output.channels, "output of a resize");
        if out.is_empty() {
            return;
        }
        assert!(input.len() >= lines.end.div_ceil(output.height) * self.input.len(), "input");
        dispatch(isa, Run { resize: self, lines, input, out });
    }
}

struct Run<'a> {
    resize: &'a ResizeF32,
    lines: Range<usize>,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { resize, lines, input, out } = self;
        let ResizeF32 { input: image, rows, columns } = resize;
        let output = resize.output();
        let channels = image.channels;
        for (line, out) in lines.zip(out.chunks_exact_mut(output.width * channels)) {
            let (n, y) = (line / output.height, line % output.height);
            let base = &input[n * image.len()..][..image.len()];
            for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
                for c in (0..channels).step_by(S::LANES) {
                    let valid = (channels - c).min(S::LANES);
                    let mut sum = s.zero();
                    for ty in y * rows.taps..(y + 1) * rows.taps {
                        let row = rows.indices[ty] * image.width;
                        // A row's sum first: equal pixels stay what they are whatever the weights.
                        let mut across = s.zero();
                        for tx in x * columns.taps..(x + 1) * columns.taps {
                            let at = (row + columns.indices[tx]) * channels + c;
                            // SAFETY: the indices are inside the image, and `valid` channels are
                            // left from `c` on.
                            let v = unsafe { s.load_n(base.as_ptr().add(at), valid) };
                            let w = s.splat(columns.weights[tx]);
                            across = match tx % columns.taps {
                                0 => s.mul(v, w),
                                _ => s.fma(v, w, across),
                            };
                        }
                        let w = s.splat(rows.weights[ty]);
                        sum = match ty % rows.taps {
                            0 => s.mul(across, w),
                            _ => s.fma(across, w, sum),
                        };
                    }
                    // SAFETY: `valid` channels are left from `c` on.
                    unsafe { s.store_n(pixel.as_mut_ptr().add(c), sum, valid) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn resizes_are_right() {
        let mut values = Values::new(17);
        for isa in Isa::available() {
            for (channels, taps) in [(3, 1), (16, 2), (37, 2), (5, 4)] {
                let input = ImageShape { height: 5, width: 7, channels };
                let mut axis = |n: usize, size: usize| AxisTaps {
                    taps,
                    indices: (0..n * taps).map(|_| values.below(size)).collect(),
                    weights: values.floats(n * taps),
                };
                let (rows, columns) = (axis(9, 5), axis(4, 7));
                let resize = ResizeF32::new(input, rows.clone(), columns.clone());
                let data = values.floats(2 * input.len());
                let output = resize.output();
                let mut out = vec![0.0; 2 * output.len()];
                let (first, second) = out.split_at_mut(11 * output.width * channels);
                resize.run(isa, 0..11, &data, first);
                resize.run(isa, 11..18, &data, second);
                let want: Vec<f64> = (0..out.len())
                    .map(|i| {
                        let (pixel, c) = (i / channels, i % channels);
                        let (n, y, x) = (pixel / 36, pixel / 4 % 9, pixel % 4);
                        let mut sum = 0.0;
                        for ty in 0..taps {
                            for tx in 0..taps {
                                let (iy, ix) =
                                    (rows.indices[y * taps + ty], columns.indices[x * taps + tx]);
                                sum += f64::from(rows.weights[y * taps + ty])
                                    * f64::from(columns.weights[x * taps + tx])
                                    * f64::from(data[((n * 5 + iy) * 7 + ix) * channels + c]);
                            }
                        }
                        sum
                    })
                    .collect();
                assert_close(&format!("{isa:?} {channels} {taps}"), &out, &want, 2e-6);
            }
        }
    }
}
