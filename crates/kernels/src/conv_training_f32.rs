//! Convolutions whose weights are known only when they run, and their gradients: what training does.
//! Channels-last images; every channel by itself, or all with all.
//!
//! They are direct: a vector holds channels that lie side by side, weights are packed tap by tap.

use std::ops::Range;

use crate::conv_f32::{ConvShape, WeightStrides};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};
use crate::window::ImageShape;

/// From where along an axis each position of a target gets something, tap by tap.
#[derive(Clone, Debug)]
struct AxisTaps {
    /// Of each position, the end of its part of `all`; what is before is of those before it.
    ends: Vec<u32>,
    /// Tap and source position.
    all: Vec<(u32, u32)>,
}

impl AxisTaps {
    /// Of output positions where `forward`, else of input positions.
    fn new(shape: &ConvShape, axis: usize, forward: bool) -> AxisTaps {
        let ConvShape { input, output, window, .. } = shape;
        let size = |image: &ImageShape| [image.height, image.width][axis];
        let (inputs, outputs) = (size(input), size(output));
        let mut of = vec![Vec::new(); if forward { outputs } else { inputs }];
        for tap in 0..window.kernel[axis] {
            for out in 0..outputs {
                let place = out * window.stride[axis] + tap * window.dilation[axis];
                let Some(place) = place.checked_sub(window.padding[axis]) else { continue };
                if place < inputs {
                    let (target, source) = if forward { (out, place) } else { (place, out) };
                    of[target].push((tap as u32, source as u32));
                }
            }
        }
        let ends = of.iter().scan(0, |end, taps| {
            *end += taps.len() as u32;
            Some(*end)
        });
        AxisTaps { ends: ends.collect(), all: of.concat() }
    }

    fn of(&self, position: usize) -> &[(u32, u32)] {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start as usize..self.ends[position] as usize]
    }
}

/// A convolution, or its gradient with respect to its input, with weights that are packed before each
/// run.
#[derive(Clone, Debug)]
pub struct TrainedConv {
    isa: Isa,
    shape: ConvShape,
    taps: [AxisTaps; 2],
    /// What is read, and what is written.
    images: [ImageShape; 2],
    forward: bool,
}

/// Whether every channel is by itself; `None` where groups are of several channels.
fn is_depthwise(shape: &ConvShape) -> Option<bool> {
    let ConvShape { input, output, groups, .. } = shape;
    let depthwise = *groups == input.channels && *groups == output.channels;
    (depthwise || *groups == 1).then_some(depthwise && *groups > 1)
}

impl TrainedConv {
    /// The convolution where `forward`, else its gradient; `None` where channels are in groups.
    pub fn new(isa: Isa, shape: ConvShape, forward: bool) -> Option<TrainedConv> {
        is_depthwise(&shape)?;
        let ConvShape { input, output, .. } = shape;
        let images = if forward { [input, output] } else { [output, input] };
        let isa = isa.for_floats(images[1].channels);
        let taps = [0, 1].map(|axis| AxisTaps::new(&shape, axis, forward));
        Some(TrainedConv { isa, shape, taps, images, forward })
    }

    /// Elements of the packed weights.
    pub fn packed_len(&self) -> usize {
        let taps: usize = self.shape.window.kernel.iter().product();
        taps * self.read_channels() * self.images[1].channels
    }

    /// The channels of a pixel that one of the result's is made of.
    fn read_channels(&self) -> usize {
        if is_depthwise(&self.shape) == Some(true) { 1 } else { self.images[0].channels }
    }

    /// Packs weights.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn pack(&self, weights: &[f32], strides: WeightStrides, packed: &mut [f32]) {
        let [height, width] = self.shape.window.kernel;
        let (reads, writes) = (self.read_channels(), self.images[1].channels);
        let depthwise = is_depthwise(&self.shape) == Some(true);
        for (tap, packed) in
            packed[..self.packed_len()].chunks_exact_mut(reads * writes).enumerate()
        {
            let at = tap / width * strides.vertical + tap % width * strides.horizontal;
            for (read, line) in packed.chunks_exact_mut(writes).enumerate() {
                for (written, to) in line.iter_mut().enumerate() {
                    let (output, input) = match (depthwise, self.forward) {
                        (true, _) => (written, 0),
                        (false, true) => (written, read),
                        (false, false) => (read, written),
                    };
                    *to = weights[at + output * strides.output + input * strides.input];
                }
            }
        }
        debug_assert_eq!(self.packed_len(), height * width * reads * writes);
    }

    /// Lines of an image of the result.
    pub fn lines(&self) -> usize {
        self.images[1].height
    }

    /// Computes `lines` of the result, counted over the whole batch, from `source` into `out`, which has
    /// just these; on `bias` where it is given.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn run(
        &self,
        lines: Range<usize>,
        source: &[f32],
        packed: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let [read, written] = self.images;
        if lines.is_empty() || written.is_empty() {
            return;
        }
        let images = lines.end.div_ceil(written.height);
        assert!(source.len() >= images * read.len(), "images that are read");
        assert!(out.len() >= lines.len() * written.width * written.channels, "lines");
        assert!(packed.len() >= self.packed_len(), "packed weights");
        assert!(bias.is_none_or(|bias| bias.len() >= written.channels), "bias");
        dispatch(self.isa, Run { conv: self, lines, source, packed, bias, out });
    }
}

struct Run<'a> {
    conv: &'a TrainedConv,
    lines: Range<usize>,
    source: &'a [f32],
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

/// Vectors of a pixel's channels that are summed up together.
const VECTORS: usize = 4;

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { conv, lines, source, packed, bias, out } = self;
        let [read, written] = conv.images;
        let channels = written.channels;
        for (line, out) in lines.zip(out.chunks_exact_mut(written.width * channels)) {
            let image = &source[line / written.height * read.len()..][..read.len()];
            let rows = conv.taps[0].of(line % written.height);
            for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                let work = Pixel { conv, image, rows, columns: conv.taps[1].of(x), packed, bias };
                let mut first = 0;
                // SAFETY: the pixel has `channels` elements, of which these are there; the lists of
                // taps name pixels of the image, and `TrainedConv::run` has checked the rest.
                unsafe {
                    while first + VECTORS * S::LANES <= channels {
                        work.vectors::<S, VECTORS>(s, first, S::LANES, out);
                        first += VECTORS * S::LANES;
                    }
                    while first < channels {
                        let left = (channels - first).min(S::LANES);
                        work.vectors::<S, 1>(s, first, left, out);
                        first += S::LANES;
                    }
                }
            }
        }
    }
}

struct Pixel<'a> {
    conv: &'a TrainedConv,
    image: &'a [f32],
    rows: &'a [(u32, u32)],
    columns: &'a [(u32, u32)],
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
}

impl Pixel<'_> {
    /// `N` vectors of the pixel, from channel `first` on; the last has `left` lanes.
    ///
    /// # Safety
    /// These channels are there, and weights and pixels of all taps.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const N: usize>(
        &self,
        s: S,
        first: usize,
        left: usize,
        out: &mut [f32],
    ) {
        let conv = self.conv;
        let [read, written] = conv.images;
        let (width, reads) = (conv.shape.window.kernel[1], conv.read_channels());
        let lanes = |v: usize| if v + 1 == N { left } else { S::LANES };
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [s.zero(); N];
            if let Some(bias) = self.bias {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = s.load_n(bias.as_ptr().add(first + v * S::LANES), lanes(v));
                }
            }
            for (row_tap, row) in self.rows {
                for (column_tap, column) in self.columns {
                    let tap = *row_tap as usize * width + *column_tap as usize;
                    let pixel = *row as usize * read.width + *column as usize;
                    let from = self.image.as_ptr().add(pixel * read.channels);
                    let weights = self.packed.as_ptr().add(tap * reads * written.channels + first);
                    if reads == 1 && read.channels == written.channels {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            let at = v * S::LANES;
                            let w = s.load_n(weights.add(at), lanes(v));
                            *sum = s.fma(s.load_n(from.add(first + at), lanes(v)), w, *sum);
                        }
                        continue;
                    }
                    for i in 0..reads {
                        let x = s.splat(*from.add(i));
                        for (v, sum) in sums.iter_mut().enumerate() {
                            let at = weights.add(i * written.channels + v * S::LANES);
                            *sum = s.fma(x, s.load_n(at, lanes(v)), *sum);
                        }
                    }
                }
            }
            for (v, sum) in sums.iter().enumerate() {
                s.store_n(out.as_mut_ptr().add(first + v * S::LANES), *sum, lanes(v));
            }
        }
    }
}

/// The gradient of a convolution with respect to its weights.
#[derive(Clone, Debug)]
pub struct ConvWeights {
    isa: Isa,
    shape: ConvShape,
    taps: [AxisTaps; 2],
}

impl ConvWeights {
    /// Of a convolution; `None` where channels are in groups.
    pub fn new(isa: Isa, shape: ConvShape) -> Option<ConvWeights> {
        is_depthwise(&shape)?;
        let isa = isa.for_floats(shape.output.channels);
        // The positions of the output that each tap reads for: sources are inputs.
        Some(ConvWeights { isa, shape, taps: [0, 1].map(|axis| AxisTaps::new(&shape, axis, true)) })
    }

    /// The input channels that an output channel reads.
    fn reads(&self) -> usize {
        if is_depthwise(&self.shape) == Some(true) { 1 } else { self.shape.input.channels }
    }

    /// Elements of a sum.
    pub fn sum_len(&self) -> usize {
        let taps: usize = self.shape.window.kernel.iter().product();
        taps * self.reads() * self.shape.output.channels
    }

    /// Sums up, over the `lines` of the output, counted over the whole batch, what each weight gets, into
    /// `sum`: [tap, input channel, output channel].
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn run(&self, lines: Range<usize>, x: &[f32], dy: &[f32], sum: &mut [f32]) {
        let ConvShape { input, output, .. } = self.shape;
        let images = lines.end.div_ceil(output.height.max(1));
        assert!(x.len() >= images * input.len(), "x");
        assert!(dy.len() >= lines.end * output.width * output.channels, "dy");
        let sum = &mut sum[..self.sum_len()];
        sum.fill(0.0);
        dispatch(self.isa, Weigh { of: self, lines, x, dy, sum });
    }

    /// Writes sums, `count` one after the other, added up in order, as weights lie.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn finish(&self, sums: &[f32], count: usize, strides: WeightStrides, out: &mut [f32]) {
        let (len, width) = (self.sum_len(), self.shape.window.kernel[1]);
        let (reads, outputs) = (self.reads(), self.shape.output.channels);
        for at in 0..len {
            let total: f32 = (0..count).map(|i| sums[i * len + at]).sum();
            let (tap, read, output) = (at / outputs / reads, at / outputs % reads, at % outputs);
            let place = tap / width * strides.vertical + tap % width * strides.horizontal;
            out[place + output * strides.output + read * strides.input] = total;
        }
    }
}

struct Weigh<'a> {
    of: &'a ConvWeights,
    lines: Range<usize>,
    x: &'a [f32],
    dy: &'a [f32],
    sum: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Weigh { of, lines, x, dy, sum } = self;
        let ConvShape { input, output, window, .. } = of.shape;
        let (reads, channels) = (of.reads(), output.channels);
        for line in lines {
            let image = &x[line / output.height * input.len()..][..input.len()];
            let dy = &dy[line * output.width * channels..][..output.width * channels];
            for (row_tap, row) in of.taps[0].of(line % output.height) {
                let row = &image[*row as usize * input.width * input.channels..];
                for column_tap in 0..window.kernel[1] {
                    let Some((inside, from)) = columns(&of.shape, column_tap) else { continue };
                    let tap = *row_tap as usize * window.kernel[1] + column_tap;
                    let line = Line {
                        x: &row[from * input.channels..],
                        step: window.stride[1] * input.channels,
                        dy: &dy[inside.start * channels..],
                        channels,
                        count: inside.len(),
                    };
                    let sums = &mut sum[tap * reads * channels..][..reads * channels];
                    for first in (0..channels).step_by(S::LANES) {
                        let left = (channels - first).min(S::LANES);
                        // SAFETY: the line's pixels are inside, as `columns` says, and these
                        // channels are there.
                        unsafe {
                            if reads == 1 && input.channels == channels {
                                line.alone(s, first, left, sums);
                                continue;
                            }
                            let mut i = 0;
                            while i + 8 <= reads {
                                line.all::<S, 8>(s, i, first, left, sums);
                                i += 8;
                            }
                            while i + 3 <= reads {
                                line.all::<S, 3>(s, i, first, left, sums);
                                i += 3;
                            }
                            while i < reads {
                                line.all::<S, 1>(s, i, first, left, sums);
                                i += 1;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The output's columns for which a tap is inside the image, and the column that the first of them reads.
fn columns(shape: &ConvShape, tap: usize) -> Option<(Range<usize>, usize)> {
    let ConvShape { input, output, window, .. } = shape;
    let (stride, padding) = (window.stride[1], window.padding[1]);
    let ahead = tap * window.dilation[1];
    let start = padding.saturating_sub(ahead).div_ceil(stride);
    let end = (input.width + padding).checked_sub(ahead + 1)? / stride + 1;
    let inside = start..end.min(output.width);
    (!inside.is_empty()).then(|| (inside.clone(), start * stride + ahead - padding))
}

/// Pixels of a line of the output and the pixels that a tap reads for them.
struct Line<'a> {
    x: &'a [f32],
    /// Elements from one of `x`'s pixels to the next.
    step: usize,
    dy: &'a [f32],
    channels: usize,
    count: usize,
}

impl Line<'_> {
    /// Adds what channels get that are by themselves.
    ///
    /// # Safety
    /// The line's pixels are there, and `left` channels from `first` on.
    #[inline(always)]
    unsafe fn alone<S: Simd>(&self, s: S, first: usize, left: usize, sums: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            let to = sums.as_mut_ptr().add(first);
            let mut sum = s.load_n(to, left);
            for p in 0..self.count {
                let x = s.load_n(self.x.as_ptr().add(p * self.step + first), left);
                let dy = s.load_n(self.dy.as_ptr().add(p * self.channels + first), left);
                sum = s.fma(x, dy, sum);
            }
            s.store_n(to, sum, left);
        }
    }

    /// Adds what output channels from `first` on get of `N` input channels from `i` on.
    ///
    /// # Safety
    /// The line's pixels are there, and these channels.
    #[inline(always)]
    unsafe fn all<S: Simd, const N: usize>(
        &self,
        s: S,
        i: usize,
        first: usize,
        left: usize,
        sums: &mut [f32],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let to = |n: usize| (i + n) * self.channels + first;
            let mut sum = [s.zero(); N];
            for (n, sum) in sum.iter_mut().enumerate() {
                *sum = s.load_n(sums.as_ptr().add(to(n)), left);
            }
            for p in 0..self.count {
                let dy = s.load_n(self.dy.as_ptr().add(p * self.channels + first), left);
                let x = self.x.as_ptr().add(p * self.step + i);
                for (n, sum) in sum.iter_mut().enumerate() {
                    *sum = s.fma(s.splat(*x.add(n)), dy, *sum);
                }
            }
            for (n, sum) in sum.iter().enumerate() {
                s.store_n(sums.as_mut_ptr().add(to(n)), *sum, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};
    use crate::window::Window;

    fn image(height: usize, width: usize, channels: usize) -> ImageShape {
        ImageShape { height, width, channels }
    }

    /// A shape, where the output's sizes are the window's.
    fn shape(input: ImageShape, channels: usize, window: Window, groups: usize) -> ConvShape {
        let size = |axis: usize, size: usize| {
            let span = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
            (size + 2 * window.padding[axis] - span) / window.stride[axis] + 1
        };
        let output = image(size(0, input.height), size(1, input.width), channels);
        ConvShape { input, output, window, groups }
    }

    fn shapes() -> Vec<ConvShape> {
        let window = |kernel, stride, dilation, padding| Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [dilation; 2],
            padding: [padding; 2],
        };
        vec![
            shape(image(7, 9, 19), 19, window(3, 1, 1, 1), 19),
            shape(image(8, 11, 96), 96, window(3, 2, 1, 1), 96),
            shape(image(9, 9, 5), 5, window(5, 2, 1, 2), 5),
            shape(image(12, 10, 3), 16, window(3, 2, 1, 1), 1),
            shape(image(6, 7, 12), 70, window(3, 1, 1, 1), 1),
            shape(image(9, 9, 20), 7, window(3, 1, 2, 0), 1),
        ]
    }

    /// Calls `f` with each product: indices of x, y and the weights.
    fn each(shape: &ConvShape, batch: usize, mut f: impl FnMut(usize, usize, usize)) {
        let ConvShape { input, output, window, groups } = *shape;
        let (ins, outs) = (input.channels / groups, output.channels / groups);
        for n in 0..batch {
            for (y, x) in (0..output.height).flat_map(|y| (0..output.width).map(move |x| (y, x))) {
                for tap in 0..window.kernel[0] * window.kernel[1] {
                    let at = |axis: usize, out: usize, tap: usize| {
                        (out * window.stride[axis] + tap * window.dilation[axis])
                            .checked_sub(window.padding[axis])
                    };
                    let (ty, tx) = (tap / window.kernel[1], tap % window.kernel[1]);
                    let (Some(iy), Some(ix)) = (at(0, y, ty), at(1, x, tx)) else { continue };
                    if iy >= input.height || ix >= input.width {
                        continue;
                    }
                    for o in 0..output.channels {
                        for i in 0..ins {
                            let from = (n * input.height + iy) * input.width + ix;
                            let to = (n * output.height + y) * output.width + x;
                            f(
                                from * input.channels + o / outs * ins + i,
                                to * output.channels + o,
                                (o * ins + i) * window.kernel[0] * window.kernel[1] + tap,
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn convolutions_and_gradients_are_right() {
        const BATCH: usize = 3;
        let mut values = Values::new(41);
        for shape in shapes() {
            let ConvShape { input, output, window, groups } = shape;
            let [height, width] = window.kernel;
            let ins = input.channels / groups;
            let strides = WeightStrides {
                output: ins * height * width,
                vertical: width,
                horizontal: 1,
                input: height * width,
            };
            let x = values.floats(BATCH * input.len());
            let dy = values.floats(BATCH * output.len());
            let w = values.floats(output.channels * ins * height * width);
            let bias = values.floats(output.channels);
            let mut want_y: Vec<f64> =
                (0..BATCH * output.len()).map(|at| f64::from(bias[at % output.channels])).collect();
            let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
            each(&shape, BATCH, |i, o, k| {
                let [x, dy, w] = [x[i], dy[o], w[k]].map(f64::from);
                want_y[o] += x * w;
                want_dx[i] += dy * w;
                want_dw[k] += x * dy;
            });
            for isa in Isa::available() {
                for forward in [true, false] {
                    let conv = TrainedConv::new(isa, shape, forward).unwrap();
                    let mut packed = vec![0.0; conv.packed_len()];
                    conv.pack(&w, strides, &mut packed);
                    let (source, want) = match forward {
                        true => (&x, &want_y),
                        false => (&dy, &want_dx),
                    };
                    let bias = forward.then_some(&*bias);
                    let mut out = vec![9.0; want.len()];
                    let lines = BATCH * conv.lines();
                    let (a, b) = out.split_at_mut(want.len() / lines * 4);
                    conv.run(0..4, source, &packed, bias, a);
                    conv.run(4..lines, source, &packed, bias, b);
                    assert_close(&format!("{isa:?} {shape:?} {forward}"), &out, want, 5e-5);
                }
                let gradient = ConvWeights::new(isa, shape).unwrap();
                let lines = BATCH * output.height;
                let mut sums = vec![9.0; 2 * gradient.sum_len()];
                let (a, b) = sums.split_at_mut(gradient.sum_len());
                gradient.run(0..5, &x, &dy, a);
                gradient.run(5..lines, &x, &dy, b);
                let mut out = vec![9.0; w.len()];
                gradient.finish(&sums, 2, strides, &mut out);
                assert_close(&format!("{isa:?} {shape:?} weights"), &out, &want_dw, 5e-5);
            }
        }
    }

    #[test]
    fn groups_of_channels_are_refused() {
        let window = Window::plain(3, 3);
        let grouped = shape(image(5, 5, 8), 8, window, 2);
        assert!(TrainedConv::new(Isa::Portable, grouped, true).is_none());
        assert!(ConvWeights::new(Isa::Portable, grouped).is_none());
    }
}
