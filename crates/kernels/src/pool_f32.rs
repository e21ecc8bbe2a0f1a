//! Largest and average values under a window, channels-last.

use std::ops::Range;

use crate::elementwise::Unary;
use crate::gemm_f32::check_rows;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};
use crate::window::{ImageShape, Window};

/// What a pool makes of the values under its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest; NaN if any is.
    Max,
    /// The average of those inside the image.
    Average,
    /// Their sum over the number of taps inside the image or its padding, which reaches this many
    /// rows below and columns right of the image.
    AveragePadded([usize; 2]),
    /// The square root of the average of the squares of those inside the image.
    RootMeanSquare,
}

/// A pool over channels-last images; as many channels go in as come out. A window that lies wholly
/// outside the image gives NaN (−∞ for [`Pooling::Max`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolF32 {
    /// The images that go in.
    pub input: ImageShape,
    /// The images that come out.
    pub output: ImageShape,
    /// How the window slides.
    pub window: Window,
    /// What is made of its values.
    pub pooling: Pooling,
    /// Applied to the results.
    pub activation: Unary,
}

impl PoolF32 {
    /// Computes the lines `lines` of the output images, counted over the whole batch, into `out`,
    /// which holds just these.
    ///
    /// # Panics
    /// Where a slice has not the size that the shapes say.
    pub fn run(&self, isa: Isa, lines: Range<usize>, input: &[f32], out: &mut [f32]) {
        let Self { input: image, output, .. } = self;
        assert_eq!(image.channels, output.channels, "channels of a pool");
        assert_eq!(out.len(), lines.len() * output.width * output.channels, "output of a pool");
        if out.is_empty() {
            return;
        }
        let images = lines.end.div_ceil(output.height);
        check_rows("input", images, image.len(), image.len(), input.len());
        dispatch(isa, Run { pool: self, lines, input, out });
    }
}

struct Run<'a> {
    pool: &'a PoolF32,
    lines: Range<usize>,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let least = s.splat(f32::NEG_INFINITY);
        match self.pool.pooling {
            Pooling::Max => {
                self.fold(s, least, |m, x| s.select(s.eq(m, m), s.max(m, x), m), |m, _| m)
            }
            Pooling::RootMeanSquare => {
                let finish = |sum, n| s.sqrt(s.div(sum, s.splat(n)));
                self.fold(s, s.zero(), |sum, x| s.fma(x, x, sum), finish);
            }
            _ => self.fold(s, s.zero(), |sum, x| s.add(sum, x), |sum, n| s.div(sum, s.splat(n))),
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn fold<S: Simd>(
        self,
        s: S,
        start: S::V,
        join: impl Fn(S::V, S::V) -> S::V,
        finish: impl Fn(S::V, f32) -> S::V,
    ) {
        let Run { pool, lines, input, out } = self;
        let PoolF32 { input: image, output, window, pooling, activation } = pool;
        let channels = image.channels;
        for (line, row) in lines.zip(out.chunks_exact_mut(output.width * channels)) {
            let (n, y) = (line / output.height, line % output.height);
            let taps_y = window.taps(0, y, image.height);
            for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                let taps_x = window.taps(1, x, image.width);
                let count = match pooling {
                    Pooling::AveragePadded(after) => {
                        let inside = |axis: usize, at, size: usize| {
                            let padded = Window { padding: [0; 2], ..*window };
                            padded.taps(axis, at, size + window.padding[axis] + after[axis]).len()
                        };
                        inside(0, y, image.height) * inside(1, x, image.width)
                    }
                    _ => taps_y.len() * taps_x.len(),
                };
                let mut c = 0;
                while c < channels {
                    let valid = (channels - c).min(S::LANES);
                    let mut acc = start;
                    for ky in taps_y.clone() {
                        let line = n * image.height + window.place(0, y, ky);
                        for kx in taps_x.clone() {
                            let at = (line * image.width + window.place(1, x, kx)) * channels + c;
                            // SAFETY: `PoolF32::run` checked that the image is there, `taps` that
                            // the pixel is in it; `valid` channels are left from `c` on.
                            let v = unsafe { s.load_n(input.as_ptr().add(at), valid) };
                            acc = join(acc, v);
                        }
                    }
                    let v = finish(acc, count as f32);
                    // SAFETY: `valid` channels are left from `c` on.
                    unsafe { s.store_n(pixel.as_mut_ptr().add(c), v, valid) };
                    c += S::LANES;
                }
            }
            s.outline(activation.on(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close, unary};

    fn naive(pool: &PoolF32, n: usize, input: &[f32]) -> Vec<f64> {
        let PoolF32 { input: from, output: to, window, pooling, activation } = pool;
        let mut out = Vec::new();
        for i in 0..n * to.len() {
            let (pixel, c) = (i / to.channels, i % to.channels);
            let (n, y, x) = (pixel / to.pixels(), pixel / to.width % to.height, pixel % to.width);
            let (mut max, mut sum, mut squares) = (f64::NEG_INFINITY, 0.0, 0.0);
            let (mut inside, mut padded) = (0, 0);
            for tap in 0..window.kernel[0] * window.kernel[1] {
                let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
                let py = y * window.stride[0] + ky * window.dilation[0];
                let px = x * window.stride[1] + kx * window.dilation[1];
                if let Pooling::AveragePadded(after) = pooling
                    && py < from.height + window.padding[0] + after[0]
                    && px < from.width + window.padding[1] + after[1]
                {
                    padded += 1;
                }
                let (iy, ix) =
                    (py.wrapping_sub(window.padding[0]), px.wrapping_sub(window.padding[1]));
                if iy < from.height && ix < from.width {
                    let v = f64::from(
                        input[((n * from.height + iy) * from.width + ix) * from.channels + c],
                    );
                    inside += 1;
                    sum += v;
                    squares += v * v;
                    max = if max.is_nan() || v > max || v.is_nan() {
                        if max.is_nan() { max } else { v }
                    } else {
                        max
                    };
                }
            }
            let v = match pooling {
                Pooling::Max => max,
                Pooling::Average => sum / f64::from(inside),
                Pooling::AveragePadded(_) => sum / f64::from(padded),
                Pooling::RootMeanSquare => (squares / f64::from(inside)).sqrt(),
            };
            out.push(unary(*activation, v));
        }
        out
    }

    #[test]
    fn pools_of_all_shapes_are_right() {
        let mut values = Values::new(10);
        for isa in Isa::available() {
            for (height, width, channels, kernel, stride, dilation, padding) in [
                (8, 9, 16, 2, 2, 1, 0),
                (8, 9, 37, 3, 2, 1, 1),
                (7, 7, 20, 7, 7, 1, 0),
                (5, 6, 3, 3, 1, 2, 2),
                (2, 2, 5, 2, 1, 1, 1),
            ] {
                for pooling in [
                    Pooling::Max,
                    Pooling::Average,
                    Pooling::AveragePadded([padding; 2]),
                    Pooling::RootMeanSquare,
                ] {
                    let side = |size: usize| {
                        (size + 2 * padding - (kernel - 1) * dilation - 1) / stride + 1
                    };
                    let pool = PoolF32 {
                        input: ImageShape { height, width, channels },
                        output: ImageShape { height: side(height), width: side(width), channels },
                        window: Window {
                            kernel: [kernel; 2],
                            stride: [stride; 2],
                            dilation: [dilation; 2],
                            padding: [padding; 2],
                        },
                        pooling,
                        activation: Unary::Clamp(-0.4, 0.4),
                    };
                    let mut input = values.floats(2 * pool.input.len() + 1);
                    input[5] = f32::NAN;
                    let lines = 2 * pool.output.height;
                    let cut = values.below(lines);
                    let mut out = vec![0.0; 2 * pool.output.len()];
                    let (first, second) = out.split_at_mut(cut * pool.output.width * channels);
                    pool.run(isa, 0..cut, &input[1..], first);
                    pool.run(isa, cut..lines, &input[1..], second);
                    let want = naive(&pool, 2, &input[1..]);
                    assert_close(&format!("{isa:?} {pool:?}"), &out, &want, 1e-6);
                }
            }
        }
    }
}
