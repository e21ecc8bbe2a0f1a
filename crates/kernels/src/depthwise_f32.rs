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
    /// What is done to the results; the residual's rows are output pixels.
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
        input: &[f32],
        out: SharedMut<'_, f32>,
    ) {
        let ConvShape { input: image, output, .. } = self.packed.shape;
        if lines.is_empty() || blocks.is_empty() || output.is_empty() {
            return;
        }
        assert!(blocks.end <= self.packed.blocks(), "channel block out of range");
        let images = lines.end.div_ceil(output.height);
        check_rows("input", images, image.len(), image.len(), input.len());
        let pixels = lines.end * output.width;
        check_rows("output", pixels, output.channels, output.channels, out.len());
        self.epilogue.check(pixels, output.channels);
        dispatch(self.packed.isa, Run { conv: self, lines, blocks, input, out });
    }
}

/// Pixels of a strip.
const STRIP: usize = 4;

struct Run<'a> {
    conv: &'a DepthwiseF32<'a>,
    lines: Range<usize>,
    blocks: Range<usize>,
    input: &'a [f32],
    out: SharedMut<'a, f32>,
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = &self.conv.packed.shape;
        let window = &shape.window;
        let plain = shape.input.channels == shape.output.channels && window.dilation == [1, 1];
        match (window.kernel, window.stride, plain) {
            ([3, 3], [1, 1], true) => s.outline(Lines::<3, 1>(self)),
            ([3, 3], [2, 2], true) => s.outline(Lines::<3, 2>(self)),
            ([5, 5], [1, 1], true) => s.outline(Lines::<5, 1>(self)),
            ([5, 5], [2, 2], true) => s.outline(Lines::<5, 2>(self)),
            _ => s.outline(Lines::<0, 1>(self)),
        }
    }
}

/// Lines of a square kernel of `SIZE` taps a side, or of any kernel where `SIZE` is 0.
struct Lines<'a, const SIZE: usize, const STRIDE: usize>(Run<'a>);

impl<const SIZE: usize, const STRIDE: usize> Kernel for Lines<'_, SIZE, STRIDE> {
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
        let inner_y = window.inner(0, image.height, output.height);
        let inner_x = match SIZE {
            0 => 0..0,
            _ => window.inner(1, image.width, output.width),
        };
        let mut line = lines.start;
        while line < lines.end {
            let (n, y) = (line / output.height, line % output.height);
            let two =
                SIZE > 0 && line + 1 < lines.end && inner_y.contains(&y) && y + 1 < inner_y.end;
            let height = if two { 2 } else { 1 };
            let base = input.as_ptr().wrapping_add(n * image.len());
            let out_line = out.as_mut_ptr().wrapping_add(line * output.width * output.channels);
            let taps_y = window.taps(0, y, image.height);
            // SAFETY: `DepthwiseF32::run` checked that the images are there, `inner` and `taps`
            // tell what lies inside them, and its caller promises that these results are ours.
            unsafe {
                for x in (0..inner_x.start).chain(inner_x.end..output.width) {
                    for i in 0..height {
                        work.pixel(
                            s,
                            base,
                            y + i,
                            x,
                            out_line.wrapping_add(i * output.width * output.channels),
                        );
                    }
                }
                let mut x = inner_x.start;
                while x < inner_x.end {
                    let whole = x + STRIP <= inner_x.end;
                    match (two, whole) {
                        (true, true) => work.strip::<S, SIZE, STRIDE, 2, STRIP>(
                            s,
                            base,
                            y,
                            x,
                            0..SIZE,
                            out_line,
                        ),
                        (true, false) => {
                            work.strip::<S, SIZE, STRIDE, 2, 1>(s, base, y, x, 0..SIZE, out_line)
                        }
                        (false, true) => work.strip::<S, SIZE, STRIDE, 1, STRIP>(
                            s,
                            base,
                            y,
                            x,
                            taps_y.clone(),
                            out_line,
                        ),
                        (false, false) => work.strip::<S, SIZE, STRIDE, 1, 1>(
                            s,
                            base,
                            y,
                            x,
                            taps_y.clone(),
                            out_line,
                        ),
                    }
                    x += if whole { STRIP } else { 1 };
                }
                if !in_strip {
                    let columns =
                        blocks.start * S::LANES..output.channels.min(blocks.end * S::LANES);
                    let rows = (line * output.width, 1, height * output.width);
                    let at = out_line.wrapping_add(columns.start);
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

    /// `LINES` × `PIXELS` outputs from (y, x) on, whose columns of taps are all inside the image,
    /// as are the rows `taps_y` (all of them for two lines).
    ///
    /// # Safety
    /// That, and `image` is the input image, `out` the output line `y`.
    #[inline(always)]
    unsafe fn strip<
        S: Simd,
        const SIZE: usize,
        const STRIDE: usize,
        const LINES: usize,
        const PIXELS: usize,
    >(
        &self,
        s: S,
        image: *const f32,
        y: usize,
        x: usize,
        taps_y: Range<usize>,
        out: *mut f32,
    ) {
        let shape = &self.conv.packed.shape;
        let (window, channels) = (&shape.window, shape.input.channels);
        let pixel = window.place(0, y, taps_y.start) * shape.input.width + window.place(1, x, 0);
        let first = image.wrapping_add(pixel * channels);
        let line = shape.input.width * channels;
        let out = out.wrapping_add(x * channels);
        let out_line = shape.output.width * channels;
        let (low, high) = (s.splat(self.clamp.0), s.splat(self.clamp.1));
        let input_lines = if LINES == 1 { taps_y.len() } else { (LINES - 1) * STRIDE + SIZE };
        for block in self.blocks.clone() {
            let channel = block * S::LANES;
            let n = (channels - channel).min(S::LANES);
            let weights = self.conv.packed.data.as_ptr().wrapping_add(channel * SIZE * SIZE);
            // SAFETY: the caller's promise; `n` channels are left from `channel` on.
            unsafe {
                let mut acc = [[self.bias(s, block, n); PIXELS]; LINES];
                let whole = n == S::LANES;
                macro_rules! input_line {
                    ($r:expr, $tap_row:expr) => {{
                        let p = first.wrapping_add($r * line + channel);
                        let load = |i: usize| {
                            let p = p.wrapping_add(i * channels);
                            if whole { s.load(p) } else { s.load_n(p, n) }
                        };
                        for i in 0..(PIXELS - 1) * STRIDE + SIZE {
                            let v = load(i);
                            for l in 0..LINES {
                                let Some(ky) = $tap_row(l) else { continue };
                                for p in 0..PIXELS {
                                    if i >= p * STRIDE && i < p * STRIDE + SIZE {
                                        let tap = ky * SIZE + i - p * STRIDE;
                                        let w = s.load(weights.wrapping_add(tap * S::LANES));
                                        acc[l][p] = s.fma(v, w, acc[l][p]);
                                    }
                                }
                            }
                        }
                    }};
                }
                if LINES == 1 {
                    for r in 0..input_lines {
                        let ky = taps_y.start + r;
                        input_line!(r, |_| Some(ky));
                    }
                } else {
                    for r in 0..(LINES - 1) * STRIDE + SIZE {
                        input_line!(r, |l: usize| (r >= l * STRIDE && r < l * STRIDE + SIZE)
                            .then(|| r - l * STRIDE));
                    }
                }
                for (l, acc) in acc.into_iter().enumerate() {
                    for (p, sum) in acc.into_iter().enumerate() {
                        let v = s.min(high, s.max(low, sum));
                        let at = out.wrapping_add(l * out_line + p * channels + channel);
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
                            unsafe { conv.run(lines.clone(), blocks, &input[1..], shared) };
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
                }
            }
        }
    }
}
