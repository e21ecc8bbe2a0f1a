//! Depthwise convolution of 8-bit integers, channels last.
//!
//! Channels are computed sixteen at a time (a *unit*), four units to a *block*, for a strip of
//! output pixels: accumulators of a strip and block stay in the first-level cache until they are
//! requantised. Each output pixel has a list of pointers to its taps, those outside the image
//! pointing at zeros; 3 x 3 kernels on VNNI have a form of their own that shares what
//! neighbouring pixels read.

use std::ops::Range;

use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::qconv::{ConvShape, QOutput, QWeights, carve};
use crate::requant::{Byte, Requantiser};
use crate::shared::SharedMut;
use crate::window::{Lines, Window};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

/// Channels computed at once.
const UNIT: usize = 16;
/// Channels requantised at once.
const BLOCK: usize = 64;
/// The most output pixels of a strip.
const STRIP: usize = 16;

/// Weights packed for one instruction set, ready to run on any part of the output.
#[derive(Clone)]
pub struct PackedQDepthwise {
    shape: ConvShape,
    input_kind: Byte,
    /// The input's zero point in each byte that taps outside the image read.
    zeros: Vec<u8>,
    kernel: Kernel,
    /// For each unit, [`PackedQDepthwise::unit_weights`] bytes in the kernel's layout.
    weights: Aligned<u8>,
    unit_weights: usize,
    /// For each unit, whether some weight less its zero point needs nine bits, which the kernel
    /// has two bytes for.
    halves: Vec<bool>,
    /// Accumulators' first values, padded to whole blocks.
    start: Vec<i32>,
    requantiser: Option<Requantiser>,
}

/// How units are computed, and so how weights are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// `i16[tap][channel]`.
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// `i16[tap pair][half][channel][2]`, channels in the order that unpacking gives.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `i8[four taps][channel][4]`; in units of [`PackedQDepthwise::halves`] twice, to be added.
    /// `square` is 3 x 3 without dilation, steps of 1 or 2, the four taps being a column and
    /// nothing.
    #[cfg(target_arch = "x86_64")]
    Vnni { square: bool },
}

/// One unit over a strip of pixels.
struct Strip<'a> {
    /// For each pixel, a pointer to channel 0 of each tap.
    taps: &'a [*const u8],
    taps_per_pixel: usize,
    /// The unit's first channel, and how many it has.
    channel: usize,
    channels: usize,
    weights: &'a [u8],
    /// Whether the weights are in halves.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "VNNI's only"))]
    halves: bool,
    start: &'a [i32],
    /// Rows of [`BLOCK`] accumulators, the unit's own from the start of each row.
    acc: &'a mut [i32],
}

impl PackedQDepthwise {
    /// Packs weights, laid out kernel row, kernel column, output channel (TensorFlow Lite's
    /// order), for an input of type `input.0` with zero point `input.1`. The groups must be the
    /// input channels; with several output channels for each, output channel `o` reads input
    /// channel `o / (out_channels / in_channels)`.
    ///
    /// # Panics
    /// If lengths do not fit the shape, the channels do not divide, or a stride or dilation is
    /// zero.
    pub fn new(
        isa: Isa,
        shape: &ConvShape,
        input: (Byte, i32),
        weights: &QWeights,
        output: &QOutput,
    ) -> Self {
        pack::pack(isa, shape, input, weights, output)
    }

    /// The geometry it was packed for.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Lines of output pixels in all images: a range to split between threads.
    pub fn lines(&self) -> usize {
        self.shape.batch * self.shape.output[0]
    }

    /// Blocks of channels: a range to split between threads where there are few lines.
    pub fn blocks(&self) -> usize {
        self.shape.out_channels.div_ceil(BLOCK)
    }

    /// The lines of input that lines of output are made of.
    pub fn lines_read(&self, lines: Range<usize>) -> Range<usize> {
        let ConvShape { kernel, stride, dilation, pad, .. } = self.shape;
        let window = Window { kernel, stride, dilation, padding: pad };
        window.lines_read(lines, self.shape.input[0], self.shape.output[0])
    }

    /// Whether its output is of bytes, and not of accumulators.
    pub fn makes_bytes(&self) -> bool {
        self.requantiser.is_some()
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.weights.len()
    }

    /// Bytes of scratch that a run needs.
    pub fn scratch_bytes(&self) -> usize {
        STRIP * BLOCK * 4 + self.strip() * self.taps() * size_of::<usize>() + UNIT + 3 * 64
    }

    fn taps(&self) -> usize {
        self.shape.kernel[0] * self.shape.kernel[1]
    }

    /// Pixels of a strip: fewer for kernels so large that the pointers would leave the cache.
    fn strip(&self) -> usize {
        (4096 / self.taps().max(1)).clamp(1, STRIP)
    }

    fn multiplier(&self) -> usize {
        self.shape.out_channels / self.shape.in_channels
    }

    /// Computes the output's bytes for ranges of lines and of blocks of channels.
    ///
    /// # Safety
    /// While this runs nobody else touches these lines' blocks of `out`.
    ///
    /// # Panics
    /// If it was packed for accumulators, or a length or range does not fit.
    pub unsafe fn run(
        &self,
        lines: Range<usize>,
        blocks: Range<usize>,
        input: Lines<&[u8]>,
        out: Lines<SharedMut<u8>>,
        scratch: &mut [u8],
    ) {
        let requantiser = self.requantiser.as_ref().expect("packed for accumulators");
        let channels = self.shape.out_channels;
        let line = self.shape.output[1] * channels;
        assert!(lines.is_empty() || out.first <= lines.start, "output begins too late");
        assert!((lines.end.max(out.first) - out.first) * line <= out.data.len(), "output length");
        let (out, first) = (out.data, out.first * self.shape.output[1]);
        self.strips(lines, blocks, input, scratch, |pixel, channel, columns, pixels, acc| {
            // SAFETY: the output's length was checked; the pixels and channels are in it, and
            // ours alone.
            unsafe {
                requantiser.run_raw(
                    channel,
                    (columns, pixels),
                    (acc.as_ptr(), BLOCK),
                    (out.as_mut_ptr().add((pixel - first) * channels + channel), channels),
                );
            }
        });
    }

    /// [`PackedQDepthwise::run`] for accumulators.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Panics
    /// As there, but if it was packed for bytes.
    pub unsafe fn run_accumulators(
        &self,
        lines: Range<usize>,
        blocks: Range<usize>,
        input: &[u8],
        out: SharedMut<i32>,
        scratch: &mut [u8],
    ) {
        assert!(self.requantiser.is_none(), "packed for bytes");
        assert_eq!(out.len(), self.shape.output_len(), "output length");
        let channels = self.shape.out_channels;
        self.strips(
            lines,
            blocks,
            Lines::all(input),
            scratch,
            |pixel, channel, columns, pixels, acc| {
                for (i, acc) in acc.chunks_exact(BLOCK).take(pixels).enumerate() {
                    let at = (pixel + i) * channels + channel;
                    // SAFETY: the caller's promise.
                    let out = unsafe { out.slice(at..at + columns) };
                    out.copy_from_slice(&acc[..columns]);
                }
            },
        );
    }

    /// Calls `done(pixel, channel, channels, pixels, accumulators)` for every strip and block.
    #[inline]
    fn strips(
        &self,
        lines: Range<usize>,
        blocks: Range<usize>,
        input: Lines<&[u8]>,
        scratch: &mut [u8],
        mut done: impl FnMut(usize, usize, usize, usize, &[i32]),
    ) {
        let shape = &self.shape;
        let (read, line_len) = (self.lines_read(lines.clone()), shape.input[1] * shape.in_channels);
        assert!(read.is_empty() || input.first <= read.start, "input begins too late");
        assert!(
            (read.end.max(input.first) - input.first) * line_len <= input.data.len(),
            "input length"
        );
        assert!(lines.end <= self.lines() && blocks.end <= self.blocks());
        assert!(scratch.len() >= self.scratch_bytes(), "scratch too small");
        let (acc, scratch) = carve::<i32>(scratch, STRIP * BLOCK);
        let (pointers, _) = carve::<usize>(scratch, self.strip() * self.taps());
        for line in lines {
            let mut ox = 0;
            while ox < shape.output[1] {
                let pixels = self.strip().min(shape.output[1] - ox);
                let pixel = line * shape.output[1] + ox;
                if !self.is_square() {
                    self.point(line, ox..ox + pixels, input, pointers);
                }
                for block in blocks.clone() {
                    let first = block * BLOCK;
                    let columns = BLOCK.min(shape.out_channels - first);
                    for unit in 0..columns.div_ceil(UNIT) {
                        let channel = first + unit * UNIT;
                        let channels = UNIT.min(shape.out_channels - channel);
                        let acc = &mut acc[unit * UNIT..];
                        let weights = &self.weights[channel / UNIT * self.unit_weights..]
                            [..self.unit_weights];
                        let start = &self.start[channel..channel + UNIT];
                        let halves = self.halves[channel / UNIT];
                        #[cfg(target_arch = "x86_64")]
                        if self.is_square() {
                            let args = vnni::Square {
                                channel: (channel, channels),
                                weights,
                                start,
                                flip: self.flip(),
                                zeros: &self.zeros,
                            };
                            // SAFETY: this kernel is only chosen for a CPU that has it.
                            unsafe {
                                vnni::square(
                                    shape,
                                    halves,
                                    line,
                                    ox..ox + pixels,
                                    input,
                                    &args,
                                    acc,
                                );
                            }
                            continue;
                        }
                        let taps = pointer_slice(&pointers[..pixels * self.taps()]);
                        self.run_unit(Strip {
                            taps,
                            taps_per_pixel: self.taps(),
                            channel,
                            channels,
                            weights,
                            halves,
                            start,
                            acc,
                        });
                    }
                    done(pixel, first, columns, pixels, acc);
                }
                ox += pixels;
            }
        }
    }

    fn is_square(&self) -> bool {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Vnni { square } => square,
            _ => false,
        }
    }

    /// What turns the input's bytes into unsigned ones.
    #[cfg(target_arch = "x86_64")]
    fn flip(&self) -> u8 {
        if self.input_kind == Byte::Signed { 0x80 } else { 0 }
    }

    fn run_unit(&self, strip: Strip) {
        match self.kernel {
            Kernel::Portable => portable::unit(strip, self.input_kind, self.multiplier()),
            #[cfg(target_arch = "aarch64")]
            // SAFETY: this kernel is only chosen for a CPU that has it.
            Kernel::Neon => unsafe { neon::unit(strip, self.input_kind) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2 => unsafe { avx2::unit(strip, self.input_kind) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Vnni { .. } => unsafe { vnni::unit(strip, self.flip()) },
        }
    }

    /// Writes pointers to the taps of output pixels `xs` of a line.
    fn point(&self, line: usize, xs: Range<usize>, input: Lines<&[u8]>, pointers: &mut [usize]) {
        let shape = &self.shape;
        let (image, oy) = (line / shape.output[0], line % shape.output[0]);
        let outside = self.zeros.as_ptr() as usize;
        for (ox, pointers) in xs.zip(pointers.chunks_exact_mut(self.taps())) {
            let mut pointers = pointers.iter_mut();
            for ky in 0..shape.kernel[0] {
                // Rows and columns before the first wrap round to huge ones.
                let y = (oy * shape.stride[0] + ky * shape.dilation[0]).wrapping_sub(shape.pad[0]);
                for kx in 0..shape.kernel[1] {
                    let x =
                        (ox * shape.stride[1] + kx * shape.dilation[1]).wrapping_sub(shape.pad[1]);
                    let inside = y < shape.input[0] && x < shape.input[1];
                    let tap = if inside {
                        let line = image * shape.input[0] + y - input.first;
                        let pixel = line * shape.input[1] + x;
                        input.data[pixel * shape.in_channels..].as_ptr() as usize
                    } else {
                        outside
                    };
                    if let Some(pointer) = pointers.next() {
                        *pointer = tap;
                    }
                }
            }
        }
    }
}

/// Pointers kept as integers in scratch.
fn pointer_slice(pointers: &[usize]) -> &[*const u8] {
    // SAFETY: the same size and alignment; every value was made from a pointer.
    unsafe { std::slice::from_raw_parts(pointers.as_ptr().cast(), pointers.len()) }
}
