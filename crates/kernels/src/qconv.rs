//! Convolution and matrix product of 8-bit integers, channels last.
//!
//! One kernel serves general convolutions, pointwise ones and fully connected layers: rows of
//! the left matrix are output pixels (a patch of input each, gathered a few rows at a time into
//! scratch), columns are output channels. Accumulators start at the bias, less what the zero
//! points add; they are then requantised, or returned as they are.
//!
//! `sum (x - zx) (w - zw) = sum x w - zx sum w - zw sum (x - zx)`: the second term is part of the
//! bias, the third (only for weights with a zero point) comes from row sums made while gathering,
//! or has no need to be, where `w - zw` is what is packed (`split.rs`).

use std::ops::Range;

use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::qbinary::ByteArithmetic;
use crate::requant::{Byte, ByteOutput, Requantiser, Rescale};
use crate::shared::SharedMut;

mod gather;
mod micro;
mod pack;
mod split;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use micro::{Micro, Rows, Second};

/// The geometry of a convolution over channels-last images. A matrix product of `m x k` by
/// `k x n` is one of `m` images of one pixel with `k` channels in and `n` out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Input channels.
    pub in_channels: usize,
    /// Output height and width.
    pub output: [usize; 2],
    /// Output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal steps.
    pub stride: [usize; 2],
    /// Vertical and horizontal distances between taps.
    pub dilation: [usize; 2],
    /// Rows above and columns left of the image, read as zero.
    pub pad: [usize; 2],
    /// Groups that both channel counts are split into.
    pub groups: usize,
}

impl ConvShape {
    /// A matrix product of `rows x depth` by `depth x columns`.
    pub fn matrix(rows: usize, depth: usize, columns: usize) -> Self {
        Self {
            batch: rows,
            input: [1, 1],
            in_channels: depth,
            output: [1, 1],
            out_channels: columns,
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [0, 0],
            groups: 1,
        }
    }

    /// Output pixels of all images.
    pub fn rows(&self) -> usize {
        self.batch * self.output[0] * self.output[1]
    }

    /// Weights of one output channel.
    pub fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * (self.in_channels / self.groups)
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.input[0] * self.input[1] * self.in_channels
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.rows() * self.out_channels
    }

    /// Whether each output pixel reads the input pixel of the same index, whole.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.pad == [0, 0]
            && self.groups == 1
            && self.input == self.output
    }
}

/// Weights and what goes with them. Weights are laid out output channel, kernel row, kernel
/// column, input channel of the group (TensorFlow Lite's order; a fully connected layer's are the
/// same with no kernel).
#[derive(Clone, Copy, Debug)]
pub struct QWeights<'a> {
    /// `out_channels * depth` bytes.
    pub data: &'a [u8],
    /// Their type.
    pub kind: Byte,
    /// Their zero points: one, or one for each output channel.
    pub zero_points: &'a [i32],
    /// One for each output channel, or empty.
    pub bias: &'a [i32],
}

/// Weights packed for one instruction set, ready to run on any part of the output.
#[derive(Clone)]
pub struct PackedQConv {
    shape: ConvShape,
    input_kind: Byte,
    input_zero_point: i32,
    micro: Micro,
    /// For each group and panel of columns, [`Panel`]s of packed weights.
    weights: Aligned<i8>,
    panels: Vec<Panel>,
    /// For each panel, the steps that are done again with what is left of their weights.
    seconds: Vec<Second>,
    /// Accumulators' first values, in the packed order of columns.
    start: Vec<i32>,
    /// For each packed column, the weights' zero point; empty if all are zero, or if the packed
    /// weights are less it.
    weight_zero: Vec<i32>,
    requantiser: Option<Requantiser>,
    /// Bytes of a row: of a gathered one, or of all segments of one that lines of input hold.
    row_bytes: usize,
    /// Whether rows are not gathered: each kernel row is a segment of what lies in a line.
    lines: bool,
}

/// Columns that are computed together.
#[derive(Clone, Copy, Debug)]
struct Panel {
    group: usize,
    /// The first output channel.
    column: usize,
    /// How many, at most `vectors * lanes`.
    columns: usize,
    vectors: usize,
    /// Where its part of [`PackedQConv::seconds`] starts, and how long that is.
    seconds: (usize, usize),
    /// Where the weights, and the packed columns' values, start.
    weights: usize,
    start: usize,
}

/// What is written for each accumulator.
#[derive(Clone, Debug)]
pub enum QOutput {
    /// 8-bit integers.
    Bytes(Rescale, ByteOutput),
    /// The accumulators themselves.
    Accumulators,
}

/// What is added to an output of bytes, which is this convolution's own until then.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// The sum of the convolution's bytes and the residual's.
    pub sum: &'a ByteArithmetic,
    /// As many bytes as the output has.
    pub data: &'a [u8],
}

/// Where results go.
#[derive(Clone, Copy)]
enum Target<'a> {
    Bytes(SharedMut<'a, u8>, Option<Residual<'a>>),
    Accumulators(SharedMut<'a, i32>),
}

impl PackedQConv {
    /// Packs weights for an input of type `input.0` with zero point `input.1`.
    ///
    /// # Panics
    /// If lengths do not fit the shape, the groups do not divide the channels, or a stride or
    /// dilation is zero.
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

    /// Output pixels in all: the range to split between threads.
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Panels of columns: the range to split between threads where there are few rows.
    pub fn panels(&self) -> usize {
        self.panels.len()
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
        let block = self.block_rows(self.shape.rows());
        let gathered = if self.reads_in_place() {
            0
        } else if self.lines {
            self.shape.kernel[0] * self.line_bytes(block)
        } else {
            // Gathering may write a whole vector past a row.
            block * self.row_bytes + gather::SLACK
        };
        gathered + (self.sums(block) + self.micro.tile_len()) * 4 + 2 * 64
    }

    /// Rows gathered at a time: about 16 KB of them, and at least one tile.
    fn block_rows(&self, rows: usize) -> usize {
        let tile = self.micro.most_rows();
        let (row, most) = match self.lines {
            true => {
                let step = self.shape.stride[1] * self.shape.in_channels;
                (self.shape.kernel[0] * step, self.shape.output[1])
            }
            false => (self.row_bytes, 96),
        };
        (16384 / row.max(1)).clamp(tile, most.max(tile)).min(rows.max(1))
    }

    /// Bytes from line to line of those that `rows` pixels of a line read.
    fn line_bytes(&self, rows: usize) -> usize {
        let shape = &self.shape;
        let columns = rows.saturating_sub(1) * shape.stride[1] + shape.kernel[1];
        // The last segment is read in whole steps.
        (columns * shape.in_channels + self.micro.depth_step).next_multiple_of(64)
    }

    /// Sums of rows that weights with zero points need, for a block of rows.
    fn sums(&self, block: usize) -> usize {
        if self.weight_zero.is_empty() { 0 } else { block }
    }

    /// Computes the output's bytes for ranges of output pixels and of panels
    /// ([`PackedQConv::panels`]), and adds the residual. Where each output pixel is made of the
    /// input pixel of its number ([`ConvShape::is_pointwise`]), input, residual and output may be
    /// a stretch of all pixels, from whose start `rows` are counted.
    ///
    /// # Safety
    /// While this runs nobody else touches these rows' panels of `out`.
    ///
    /// # Panics
    /// If it was packed for accumulators, or a length or range does not fit.
    pub unsafe fn run(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        input: &[u8],
        residual: Option<Residual>,
        out: SharedMut<u8>,
        scratch: &mut [u8],
    ) {
        assert!(self.requantiser.is_some(), "packed for accumulators");
        // SAFETY: the caller's promise.
        unsafe { self.run_to(rows, panels, input, Target::Bytes(out, residual), scratch) }
    }

    /// [`PackedQConv::run`] for accumulators.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Panics
    /// As there, but if it was packed for bytes.
    pub unsafe fn run_accumulators(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        input: &[u8],
        out: SharedMut<i32>,
        scratch: &mut [u8],
    ) {
        assert!(self.requantiser.is_none(), "packed for bytes");
        // SAFETY: the caller's promise.
        unsafe { self.run_to(rows, panels, input, Target::Accumulators(out), scratch) }
    }

    unsafe fn run_to(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        input: &[u8],
        target: Target,
        scratch: &mut [u8],
    ) {
        let shape = &self.shape;
        let len = match target {
            Target::Bytes(out, residual) => {
                let fits = residual.is_none_or(|residual| residual.data.len() == out.len());
                assert!(fits, "residual length");
                out.len()
            }
            Target::Accumulators(out) => out.len(),
        };
        let fits = |len: usize, whole: usize, pixel: usize| {
            len == whole || shape.is_pointwise() && len < whole && len >= rows.end * pixel
        };
        assert!(fits(input.len(), shape.input_len(), shape.in_channels), "input length");
        assert!(fits(len, shape.output_len(), shape.out_channels), "output length");
        assert!(rows.end <= shape.rows() && panels.end <= self.panels.len());
        assert!(scratch.len() >= self.scratch_bytes(), "scratch too small");
        if rows.is_empty() || panels.is_empty() {
            return;
        }

        let block = self.block_rows(rows.len());
        let (sums, scratch) = carve::<i32>(scratch, self.sums(block));
        let (tile, scratch) = carve::<i32>(scratch, self.micro.tile_len());
        let mut first = rows.start;
        while first < rows.end {
            let mut count = block.min(rows.end - first);
            if self.lines {
                count = count.min(shape.output[1] - first % shape.output[1]);
            }
            let mut gathered = usize::MAX;
            for panel in &self.panels[panels.clone()] {
                if panel.group != gathered {
                    gathered = panel.group;
                    self.gather(panel.group, first..first + count, input, scratch, sums);
                }
                // SAFETY: the caller's promise; `gather` filled `count` rows.
                unsafe {
                    self.run_panel(panel, first, count, (input, scratch), sums, tile, target)
                };
            }
            if let Target::Bytes(out, Some(residual)) = target {
                // SAFETY: the caller's promise: these rows' columns are ours alone.
                unsafe {
                    self.add(first..first + count, &self.panels[panels.clone()], residual, out)
                };
            }
            first += count;
        }
    }

    /// Whether rows can be read where they are.
    pub fn reads_in_place(&self) -> bool {
        self.shape.is_pointwise()
            && self.weight_zero.is_empty()
            && self.micro.reads_in_place(self.input_kind)
            && self.row_bytes == self.shape.in_channels
    }

    fn gather(
        &self,
        group: usize,
        rows: Range<usize>,
        input: &[u8],
        scratch: &mut [u8],
        sums: &mut [i32],
    ) {
        if self.reads_in_place() {
            return;
        }
        if self.lines {
            let apart = self.line_bytes(rows.len());
            gather::lines(self, rows, input, scratch, apart);
            return;
        }
        gather::gather(self, group, rows.clone(), input, scratch);
        if !self.weight_zero.is_empty() {
            for (row, sum) in sums[..rows.len()].iter_mut().enumerate() {
                let bytes = &scratch[row * self.row_bytes..][..self.row_bytes];
                let zero = (self.input_kind, self.input_zero_point);
                *sum = self.micro.row_sum(bytes, self.shape.depth(), zero);
            }
        }
    }

    /// The `count` rows from `first` on, in the input or as `gather` left them.
    fn rows_of<'a>(
        &self,
        first: usize,
        count: usize,
        (input, scratch): (&'a [u8], &'a [u8]),
    ) -> Rows<'a> {
        let whole = Rows {
            bytes: scratch,
            kind: self.input_kind,
            stride: self.row_bytes,
            segments: (1, 0),
            segment_bytes: self.row_bytes,
        };
        if self.reads_in_place() {
            Rows { bytes: &input[first * self.row_bytes..], ..whole }
        } else if self.lines {
            let lines = self.shape.kernel[0];
            Rows {
                stride: self.shape.stride[1] * self.shape.in_channels,
                segments: (lines, self.line_bytes(count)),
                segment_bytes: self.row_bytes / lines,
                ..whole
            }
        } else {
            whole
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the loop's state, in one place")]
    unsafe fn run_panel(
        &self,
        panel: &Panel,
        first: usize,
        count: usize,
        (input, scratch): (&[u8], &[u8]),
        sums: &[i32],
        tile: &mut [i32],
        target: Target,
    ) {
        let rows = self.rows_of(first, count, (input, scratch));
        let width = panel.vectors * self.micro.lanes();
        let start = &self.start[panel.start..][..width];
        let seconds = &self.seconds[panel.seconds.0..][..panel.seconds.1];
        let most = self.micro.most_rows_of(panel.vectors);
        let tiles = count.div_ceil(most);
        let (each, extra) = (count / tiles, count % tiles);
        let mut row = 0;
        for index in 0..tiles {
            let height = each + usize::from(index < extra);
            self.micro.run(
                (height, panel.vectors),
                rows.from(row),
                (&self.weights[panel.weights..], seconds),
                start,
                tile,
            );
            if !self.weight_zero.is_empty() {
                let zero = &self.weight_zero[panel.start..][..width];
                for (tile, sum) in tile.chunks_exact_mut(width).zip(&sums[row..][..height]) {
                    for (acc, zero) in tile.iter_mut().zip(zero) {
                        *acc = acc.wrapping_sub(zero.wrapping_mul(*sum));
                    }
                }
            }
            // SAFETY: the caller's promise: these rows' columns are ours alone.
            unsafe { self.write(panel, first + row, height, (tile, width), target) };
            row += height;
        }
    }

    unsafe fn write(
        &self,
        panel: &Panel,
        row: usize,
        height: usize,
        (tile, width): (&[i32], usize),
        target: Target,
    ) {
        let stride = self.shape.out_channels;
        match target {
            Target::Bytes(out, _) => {
                let requantiser = self.requantiser.as_ref().expect("checked by the caller");
                // SAFETY: the output's length was checked, and the rows and columns are in it.
                unsafe {
                    let out = out.as_mut_ptr().add(row * stride + panel.column);
                    requantiser.run_raw(
                        panel.start,
                        (panel.columns, height),
                        (tile.as_ptr(), width),
                        (out, stride),
                    );
                }
            }
            Target::Accumulators(out) => {
                for (i, tile) in tile.chunks_exact(width).take(height).enumerate() {
                    let at = (row + i) * stride + panel.column;
                    // SAFETY: the caller's promise.
                    let out = unsafe { out.slice(at..at + panel.columns) };
                    out.copy_from_slice(&tile[..panel.columns]);
                }
            }
        }
    }

    /// Adds the residual to the columns of `panels`, which follow each other, in `rows`: a block
    /// that was just written and is in the cache.
    unsafe fn add(
        &self,
        rows: Range<usize>,
        panels: &[Panel],
        residual: Residual,
        out: SharedMut<u8>,
    ) {
        let (Some(first), Some(last)) = (panels.first(), panels.last()) else { return };
        let stride = self.shape.out_channels;
        let columns = last.column + last.columns - first.column;
        // Whole rows are one line.
        let (lines, len) = match columns == stride {
            true => (rows.start..rows.start + 1, rows.len() * stride),
            false => (rows, columns),
        };
        for line in lines {
            let at = line * stride + first.column;
            // SAFETY: the caller's promise.
            let out = unsafe { out.slice(at..at + len) };
            residual.sum.run_in_place(out, &residual.data[at..at + len]);
        }
    }
}

/// The first `count` aligned values of `scratch`, and the rest.
pub(crate) fn carve<T: bytemuck::Pod>(scratch: &mut [u8], count: usize) -> (&mut [T], &mut [u8]) {
    let skip = scratch.as_ptr().align_offset(64);
    let (values, rest) = scratch[skip..].split_at_mut(count * size_of::<T>());
    (bytemuck::cast_slice_mut(values), rest)
}
