//! Depthwise convolution of channels-last images: every channel has its own kernel.
//!
//! A strip of a few output pixels, one or two lines high, is computed for a vector of channels
//! at a time; every input it needs is loaded once. Strips run along the line and vectors along
//! the pixel, so that memory is read in order.

use std::ops::Range;

use crate::aligned::Aligned;
use crate::conv_f32::{ConvShape, WeightStrides};
use crate::gemm_f32::{Epilogue, check_rows};
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch, lanes};
use crate::window::Lines;

/// A depthwise convolution's packed weights: for each vector of channels, its taps.
#[derive(Clone)]
pub struct PackedDepthwise {
    isa: Isa,
    shape: ConvShape,
    lanes: usize,
    data: Aligned<f32>,
}

impl PackedDepthwise {
    /// Packs weights. There are as many groups as input channels; `strides.input` is not used.
    /// Where there are `m` output channels for each of the input, output channel c reads input
    /// channel c / m.
    ///
    /// # Panics
    /// Where `weights` is too short for the shape, or the groups are not the input channels.
    pub fn new(isa: Isa, shape: ConvShape, weights: &[f32], strides: WeightStrides) -> Self {
        let channels = shape.output.channels;
        assert_eq!(shape.groups, shape.input.channels, "groups of a depthwise convolution");
        assert!(shape.groups > 0 && channels.is_multiple_of(shape.groups), "output channels");
        let [height, width] = shape.window.kernel;
        let isa = isa.for_floats(channels);
        let lanes = lanes(isa);
        let taps = height * width;
        let mut data = Aligned::zeros(channels.div_ceil(lanes) * taps * lanes);
        for channel in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let tap = y * width + x;
                    let at =
                        channel * strides.output + y * strides.vertical + x * strides.horizontal;
                    data[(channel / lanes * taps + tap) * lanes + channel % lanes] = weights[at];
                }
            }
        }
        Self { isa, shape, lanes, data }
    }

    /// The convolution's shape.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }

    /// The instruction set it is for: a narrower one than was given, where channels are few.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The lines of input that lines of output are made of, both counted over the whole batch.
    pub fn lines_read(&self, lines: Range<usize>) -> Range<usize> {
        let ConvShape { input, output, window, .. } = &self.shape;
        window.lines_read(lines, input.height, output.height)
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }

    /// Into how many blocks the output channels are cut, each a vector.
    pub fn blocks(&self) -> usize {
        self.shape.output.channels.div_ceil(self.lanes)
    }
}

/// A depthwise convolution, ready to run.
#[derive(Clone, Copy)]
pub struct DepthwiseF32<'a> {
    /// The packed weights.
    pub packed: &'a PackedDepthwise,
    /// What is done to the results; the residual's rows are output pixels, and with one all lines
    /// of output are there.
    pub epilogue: Epilogue<'a>,
}

impl DepthwiseF32<'_> {
    /// Computes the channel blocks `blocks` (of [`PackedDepthwise::blocks`]) of the lines `lines`
    /// of the output images, counted over the whole batch.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these channels of these lines of `out`.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(
        &self,
        lines: Range<usize>,
        blocks: Range<usize>,
        input: Lines<&[f32]>,
        out: Lines<SharedMut<'_, f32>>,
    ) {
        let ConvShape { input: image, output, .. } = self.packed.shape;
        if lines.is_empty() || blocks.is_empty() || output.is_empty() {
            return;
        }
        assert!(blocks.end <= self.packed.blocks(), "channel block out of range");
        let read = self.packed.lines_read(lines.clone());
        assert!(read.is_empty() || input.first <= read.start, "input begins too late");
        let line = image.width * image.channels;
        check_rows("input", read.len() + read.start - input.first, line, line, input.data.len());
        assert!(out.first <= lines.start, "output begins too late");
        let line = output.width * output.channels;
        check_rows("output", lines.end - out.first, line, line, out.data.len());
        self.epilogue.check(lines.end * output.width, output.channels);
        dispatch(self.packed.isa, Run { conv: self, lines, blocks, input, out });
    }
}

struct Run<'a> {
    conv: &'a DepthwiseF32<'a>,
    lines: Range<usize>,
    blocks: Range<usize>,
    input: Lines<&'a [f32]>,
    out: Lines<SharedMut<'a, f32>>,
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = &self.conv.packed.shape;
        let window = &shape.window;
        let plain = shape.input.channels == shape.output.channels && window.dilation == [1, 1];
        match (window.kernel, window.stride, plain) {
            ([3, 3], [1, 1], true) => s.outline(Strips::<3, 1>(self)),
            ([3, 3], [2, 2], true) => s.outline(Strips::<3, 2>(self)),
            ([5, 5], [1, 1], true) => s.outline(Strips::<5, 1>(self)),
            ([5, 5], [2, 2], true) => s.outline(Strips::<5, 2>(self)),
            _ => s.outline(Strips::<0, 1>(self)),
        }
    }
}

/// Lines of a square kernel of `SIZE` taps a side, or of any kernel where `SIZE` is 0.
struct Strips<'a, const SIZE: usize, const STRIDE: usize>(Run<'a>);

impl<const SIZE: usize, const STRIDE: usize> Kernel for Strips<'_, SIZE, STRIDE> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { conv, lines, blocks, input, out } = self.0;
        let ConvShape { input: image, output, window, .. } = &conv.packed.shape;
        let epilogue = &conv.epilogue;
        let (tile, _) = epilogue.split();
        // The strips know no residual: what is more than a clamp is done line by line.
        let in_strip = epilogue.activation.as_clamp().is_some() && epilogue.residual.is_none();
        let work = Work {
            conv,
            blocks: blocks.clone(),
            clamp: if in_strip { tile.clamp } else { (f32::NEG_INFINITY, f32::INFINITY) },
        };
        let inner = [
            window.inner(0, image.height, output.height),
            window.inner(1, image.width, output.width),
        ];
        let line_len = output.width * output.channels;
        let mut line = lines.start;
        while line < lines.end {
            let (n, y) = (line / output.height, line % output.height);
            let two = SIZE > 0 && line + 1 < lines.end && y + 1 < output.height;
            let height = if two { 2 } else { 1 };
            // Where line 0 of the image would be, if it were there.
            let line_in = image.width * image.channels;
            let base = input.data.as_ptr().wrapping_add(n * image.len());
            let base = base.wrapping_sub(input.first * line_in);
            let out_line = out.data.as_mut_ptr().wrapping_add((line - out.first) * line_len);
            let inside = inner[0].contains(&y) && y + 1 < inner[0].end;
            let mut x = 0;
            while x < output.width {
                let left = output.width - x;
                // SAFETY: `DepthwiseF32::run` checked that the images are there, `inner` tells
                // what lies inside them, and its caller promises that these results are ours.
                unsafe {
                    macro_rules! strip {
                        ($lines:literal, $pixels:literal, $edge:literal) => {{
                            work.strip::<S, SIZE, STRIDE, $lines, $pixels, $edge>(
                                s, base, y, x, out_line,
                            );
                            x += $pixels;
                        }};
                    }
                    match (two, left) {
                        _ if SIZE == 0 => {
                            work.pixel(s, base, y, x, out_line);
                            x += 1;
                        }
                        (true, 4..) if inside && inner[1].contains(&x) && x + 4 <= inner[1].end => {
                            strip!(2, 4, false)
                        }
                        (true, 4..) => strip!(2, 4, true),
                        (true, 2..) => strip!(2, 2, true),
                        (true, _) => strip!(2, 1, true),
                        (false, 4..) => strip!(1, 4, true),
                        (false, _) => strip!(1, 1, true),
                    }
                }
            }
            if !in_strip {
                let columns = blocks.start * S::LANES..output.channels.min(blocks.end * S::LANES);
                let rows = (line * output.width, 1, height * output.width);
                let at = out_line.wrapping_add(columns.start);
                // SAFETY: as above; the results were just written.
                unsafe {
                    epilogue.finish(s, rows, (columns.start, columns.len()), at, output.channels);
                }
            }
            line += height;
        }
    }
}

struct Work<'a> {
    conv: &'a DepthwiseF32<'a>,
    blocks: Range<usize>,
    clamp: (f32, f32),
}

impl Work<'_> {
    /// The bias of a block's `n` channels.
    ///
    /// # Safety
    /// The bias, if any, has all the block's channels.
    #[inline(always)]
    unsafe fn bias<S: Simd>(&self, s: S, block: usize, n: usize) -> S::V {
        match self.conv.epilogue.bias {
            // SAFETY: the caller's promise.
            Some(bias) => unsafe { s.load_n(bias.as_ptr().wrapping_add(block * S::LANES), n) },
            None => s.zero(),
        }
    }

    /// `LINES` × `PIXELS` outputs from (y, x) on. Where `EDGE` is not set, all their taps are
    /// inside the image; else those that are not count as zero.
    ///
    /// # Safety
    /// That, and `image` is the input image, `out` the output line `y`; these outputs exist.
    #[inline(always)]
    unsafe fn strip<
        S: Simd,
        const SIZE: usize,
        const STRIDE: usize,
        const LINES: usize,
        const PIXELS: usize,
        const EDGE: bool,
    >(
        &self,
        s: S,
        image: *const f32,
        y: usize,
        x: usize,
        out: *mut f32,
    ) {
        let ConvShape { input, output, window, .. } = &self.conv.packed.shape;
        let channels = input.channels;
        // Before the image these wrap round to huge numbers.
        let top = (y * STRIDE).wrapping_sub(window.padding[0]);
        let left = (x * STRIDE).wrapping_sub(window.padding[1]);
        let (low, high) = (s.splat(self.clamp.0), s.splat(self.clamp.1));
        for block in self.blocks.clone() {
            let channel = block * S::LANES;
            let n = (channels - channel).min(S::LANES);
            let whole = n == S::LANES;
            let weights = self.conv.packed.data.as_ptr().wrapping_add(channel * SIZE * SIZE);
            // SAFETY: the caller's promise; `n` channels are left from `channel` on, and no lane
            // of a tap outside the image is read.
            unsafe {
                let mut acc = [[self.bias(s, block, n); PIXELS]; LINES];
                for r in 0..(LINES - 1) * STRIDE + SIZE {
                    let row = top.wrapping_add(r);
                    if EDGE && row >= input.height {
                        continue;
                    }
                    for i in 0..(PIXELS - 1) * STRIDE + SIZE {
                        let column = left.wrapping_add(i);
                        let pixel = row.wrapping_mul(input.width).wrapping_add(column);
                        let at =
                            image.wrapping_add(pixel.wrapping_mul(channels).wrapping_add(channel));
                        let v = match (EDGE, whole) {
                            (true, _) => s.load_n(at, if column < input.width { n } else { 0 }),
                            (false, true) => s.load(at),
                            (false, false) => s.load_n(at, n),
                        };
                        for (l, acc) in acc.iter_mut().enumerate() {
                            if r < l * STRIDE || r >= l * STRIDE + SIZE {
                                continue;
                            }
                            for (p, sum) in acc.iter_mut().enumerate() {
                                if i >= p * STRIDE && i < p * STRIDE + SIZE {
                                    let tap = (r - l * STRIDE) * SIZE + i - p * STRIDE;
                                    let w = s.load(weights.wrapping_add(tap * S::LANES));
                                    *sum = s.fma(v, w, *sum);
                                }
                            }
                        }
                    }
                }
                for (l, acc) in acc.into_iter().enumerate() {
                    for (p, sum) in acc.into_iter().enumerate() {
                        let v = s.min(high, s.max(low, sum));
                        let at = (l * output.width + x + p) * channels + channel;
                        let at = out.wrapping_add(at);
                        if whole { s.store(at, v) } else { s.store_n(at, v, n) }
                    }
                }
            }
        }
    }

    /// One output pixel of any kernel, from the taps that are inside the image.
    ///
    /// # Safety
    /// `image` is the input image, `out` the output line `y`.
    #[inline(always)]
    unsafe fn pixel<S: Simd>(&self, s: S, image: *const f32, y: usize, x: usize, out: *mut f32) {
        let ConvShape { input, output, window, .. } = &self.conv.packed.shape;
        let [height, width] = window.kernel;
        let multiplier = output.channels / input.channels;
        let (taps_y, taps_x) = (window.taps(0, y, input.height), window.taps(1, x, input.width));
        let (low, high) = (s.splat(self.clamp.0), s.splat(self.clamp.1));
        let out = out.wrapping_add(x * output.channels);
        for block in self.blocks.clone() {
            let channel = block * S::LANES;
            let n = (output.channels - channel).min(S::LANES);
            let weights =
                self.conv.packed.data.as_ptr().wrapping_add(block * height * width * S::LANES);
            // SAFETY: the caller's promise; `n` channels are left from `channel` on.
            unsafe {
                let mut acc = self.bias(s, block, n);
                for ky in taps_y.clone() {
                    let row = window.place(0, y, ky) * input.width;
                    for kx in taps_x.clone() {
                        let pixel =
                            image.wrapping_add((row + window.place(1, x, kx)) * input.channels);
                        let v = if multiplier == 1 {
                            s.load_n(pixel.wrapping_add(channel), n)
                        } else {
                            let mut spread = [0.0; 16];
                            for (i, v) in spread.iter_mut().take(n).enumerate() {
                                *v = *pixel.add((channel + i) / multiplier);
                            }
                            s.load(spread.as_ptr())
                        };
                        let w = s.load(weights.wrapping_add((ky * width + kx) * S::LANES));
                        acc = s.fma(v, w, acc);
                    }
                }
                s.store_n(out.wrapping_add(channel), s.min(high, s.max(low, acc)), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::Unary;
    use crate::gemm_f32::Rows;
    use crate::testing::{Values, assert_close, unary};
    use crate::window::{ImageShape, Window};

    /// By definition, in f64; weights are taps × output channels.
    fn naive(
        shape: &ConvShape,
        n: usize,
        input: &[f32],
        weights: &[f32],
        bias: &[f32],
    ) -> Vec<f64> {
        let ConvShape { input: from, output: to, window, .. } = *shape;
        let multiplier = to.channels / from.channels;
        let mut out = Vec::new();
        for pixel in 0..n * to.pixels() {
            let (n, y, x) = (pixel / to.pixels(), pixel / to.width % to.height, pixel % to.width);
            for c in 0..to.channels {
                let mut sum = f64::from(bias[c]);
                for tap in 0..window.kernel[0] * window.kernel[1] {
                    let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
                    let iy = (y * window.stride[0] + ky * window.dilation[0])
                        .wrapping_sub(window.padding[0]);
                    let ix = (x * window.stride[1] + kx * window.dilation[1])
                        .wrapping_sub(window.padding[1]);
                    if iy < from.height && ix < from.width {
                        let at = ((n * from.height + iy) * from.width + ix) * from.channels
                            + c / multiplier;
                        sum += f64::from(input[at]) * f64::from(weights[tap * to.channels + c]);
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    #[test]
    fn depthwise_convolutions_of_all_shapes_are_right() {
        let mut values = Values::new(8);
        // input height, width, channels; multiplier; kernel, stride, dilation, padding
        let cases: [[usize; 8]; 15] = [
            [9, 11, 16, 1, 3, 1, 1, 1],
            [9, 12, 33, 1, 3, 1, 1, 1],
            [12, 9, 50, 1, 3, 2, 1, 1],
            [12, 12, 24, 1, 3, 2, 1, 0],
            [7, 7, 20, 1, 5, 1, 1, 2],
            [13, 14, 7, 1, 5, 2, 1, 2],
            [13, 14, 40, 1, 5, 2, 1, 1],
            [8, 9, 5, 1, 3, 1, 2, 2],
            [8, 9, 19, 1, 7, 1, 1, 3],
            [8, 9, 6, 3, 3, 1, 1, 1],
            [8, 9, 20, 2, 5, 2, 1, 2],
            [8, 9, 1, 8, 3, 1, 1, 1],
            [2, 2, 4, 1, 3, 1, 1, 1],
            [1, 1, 4, 1, 5, 1, 1, 2],
            [3, 3, 17, 1, 1, 1, 1, 0],
        ];
        for isa in Isa::available() {
            for [height, width, channels, multiplier, kernel, stride, dilation, padding] in cases {
                let side =
                    |size: usize| (size + 2 * padding - (kernel - 1) * dilation - 1) / stride + 1;
                let shape = ConvShape {
                    input: ImageShape { height, width, channels },
                    output: ImageShape {
                        height: side(height),
                        width: side(width),
                        channels: channels * multiplier,
                    },
                    window: Window {
                        kernel: [kernel; 2],
                        stride: [stride; 2],
                        dilation: [dilation; 2],
                        padding: [padding; 2],
                    },
                    groups: channels,
                };
                let (n, outputs) = (2, channels * multiplier);
                let input = values.floats(n * shape.input.len() + 1);
                let weights = values.floats(kernel * kernel * outputs);
                let bias = values.floats(outputs);
                let residual = values.floats(n * shape.output.len());
                let strides = WeightStrides {
                    output: 1,
                    vertical: kernel * outputs,
                    horizontal: outputs,
                    input: 0,
                };
                let packed = PackedDepthwise::new(isa, shape, &weights, strides);
                let exact = naive(&shape, n, &input[1..], &weights, &bias);
                for (activation, with_residual) in
                    [(Unary::Clamp(-1.0, 1.5), false), (Unary::Tanh, false), (Unary::RELU, true)]
                {
                    let epilogue = Epilogue {
                        bias: Some(&bias),
                        activation,
                        residual: with_residual
                            .then_some(Rows { data: &residual, stride: outputs }),
                        after: Unary::Identity,
                    };
                    let conv = DepthwiseF32 { packed: &packed, epilogue };
                    let mut out = vec![f32::NAN; n * shape.output.len()];
                    let shared = SharedMut::new(&mut out);
                    let lines = n * shape.output.height;
                    let (cut, block_cut) = (values.below(lines), values.below(packed.blocks() + 1));
                    for lines in [0..cut, cut..lines] {
                        for blocks in [0..block_cut, block_cut..packed.blocks()] {
                            // SAFETY: one thread.
                            unsafe {
                                conv.run(
                                    lines.clone(),
                                    blocks,
                                    Lines::all(&input[1..]),
                                    Lines::all(shared),
                                )
                            };
                        }
                    }
                    let want: Vec<f64> = exact
                        .iter()
                        .zip(&residual)
                        .map(|(&x, &r)| {
                            unary(activation, x) + if with_residual { f64::from(r) } else { 0.0 }
                        })
                        .collect();
                    assert_close(&format!("{isa:?} {shape:?}"), &out, &want, 1e-5);
                    // A few lines at a time, with no more of the input than they read.
                    let line_in = width * channels;
                    let line_out = shape.output.width * outputs;
                    for first in (0..lines).step_by(3) {
                        let band = first..lines.min(first + 3);
                        let read = packed.lines_read(band.clone());
                        let part = input[1..][read.start * line_in..read.end * line_in].to_vec();
                        let part = Lines { data: part.as_slice(), first: read.start };
                        let mut got = vec![f32::NAN; band.len() * line_out];
                        let to = Lines { data: SharedMut::new(&mut got), first };
                        // SAFETY: one thread.
                        unsafe { conv.run(band.clone(), 0..packed.blocks(), part, to) };
                        let whole = &out[band.start * line_out..band.end * line_out];
                        assert_eq!(got, whole, "{isa:?} {shape:?} {band:?}");
                    }
                }
            }
        }
    }
}
