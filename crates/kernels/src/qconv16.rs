//! Convolution and matrix product of 16-bit activations with 8-bit weights, channels last, to
//! 64-bit sums: as TensorFlow Lite's reference kernels have them.

use std::ops::Range;

use crate::isa::Isa;
use crate::qconv::ConvShape;
use crate::words::{Kernel, Words, on};

/// Products of int16 and int8 that surely fit 32 bits together.
const EXACT: usize = 256;

/// A convolution with its weights, ready to run on any rows of the output.
#[derive(Clone, Debug)]
pub struct QConv16 {
    isa: Isa,
    shape: ConvShape,
    /// Output channel, kernel row, kernel column, input channel of the group.
    weights: Vec<i16>,
}

impl QConv16 {
    /// Of int8 weights that lie output channel, kernel row, kernel column, input channel of the
    /// group.
    ///
    /// # Panics
    /// If the length does not fit the shape.
    pub fn new(isa: Isa, shape: &ConvShape, weights: &[i8]) -> QConv16 {
        assert_eq!(weights.len(), shape.out_channels * shape.depth(), "weights");
        let weights = weights.iter().map(|w| i16::from(*w)).collect();
        QConv16 { isa, shape: *shape, weights }
    }

    /// Output pixels: the range to split between threads.
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Bytes that the weights take.
    pub fn packed_bytes(&self) -> usize {
        size_of_val(self.weights.as_slice())
    }

    /// Elements of scratch that a run needs: of sums, and of a patch.
    pub fn scratch(&self) -> (usize, usize) {
        (self.shape.out_channels, self.shape.depth())
    }

    /// Calls `done(row, sums)` for each row, with a sum for each output channel. The input's zero
    /// is 0.
    ///
    /// # Panics
    /// If a length or range does not fit.
    pub fn run(
        &self,
        rows: Range<usize>,
        input: &[i16],
        (sums, patch): (&mut [i64], &mut [i16]),
        mut done: impl FnMut(usize, &[i64]),
    ) {
        let shape = &self.shape;
        assert_eq!(input.len(), shape.input_len(), "input length");
        assert!(rows.end <= shape.rows(), "rows");
        assert_eq!((sums.len(), patch.len()), self.scratch(), "scratch");
        let per_group = shape.out_channels / shape.groups;
        for row in rows {
            for group in 0..shape.groups {
                self.gather(row, group, input, patch);
                let first = group * per_group;
                let weights = &self.weights[first * patch.len()..][..per_group * patch.len()];
                on(self.isa, Dots { patch, weights, sums: &mut sums[first..first + per_group] });
            }
            done(row, sums);
        }
    }

    /// What output pixel `row` sees of a group's channels.
    fn gather(&self, row: usize, group: usize, input: &[i16], patch: &mut [i16]) {
        let shape = &self.shape;
        let channels = shape.in_channels / shape.groups;
        let (x, line) = (row % shape.output[1], row / shape.output[1]);
        let (y, image) = (line % shape.output[0], line / shape.output[0]);
        let taps = (0..shape.kernel[0]).flat_map(|i| (0..shape.kernel[1]).map(move |j| [i, j]));
        for (tap, out) in taps.zip(patch.chunks_exact_mut(channels.max(1))) {
            let at = |i: usize, place: usize| {
                (place * shape.stride[i] + tap[i] * shape.dilation[i])
                    .checked_sub(shape.pad[i])
                    .filter(|at| *at < shape.input[i])
            };
            match (at(0, y), at(1, x)) {
                (Some(y), Some(x)) => {
                    let pixel = (image * shape.input[0] + y) * shape.input[1] + x;
                    let from = pixel * shape.in_channels + group * channels;
                    out.copy_from_slice(&input[from..from + channels]);
                }
                _ => out.fill(0),
            }
        }
    }
}

struct Dots<'a> {
    patch: &'a [i16],
    weights: &'a [i16],
    sums: &'a mut [i64],
}

impl Kernel for Dots<'_> {
    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        let depth = self.patch.len();
        for (c, sum) in self.sums.iter_mut().enumerate() {
            let weights = &self.weights[c * depth..][..depth];
            *sum = 0;
            for (x, w) in self.patch.chunks(EXACT).zip(weights.chunks(EXACT)) {
                let products = x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w));
                *sum += i64::from(products.sum::<i32>());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_at_the_extremes() {
        let shape = ConvShape::matrix(2, 700, 3);
        let weights: Vec<i8> = (0..3 * 700).map(|i| if i < 700 { -128 } else { 127 }).collect();
        let input: Vec<i16> = (0..2 * 700).map(|i| if i < 700 { -32768 } else { 32767 }).collect();
        for isa in Isa::available() {
            let conv = QConv16::new(isa, &shape, &weights);
            let (mut sums, mut patch) = ([0; 3], [0; 700]);
            let mut all = Vec::new();
            let done = |row: usize, sums: &[i64]| all.push((row, sums.to_vec()));
            conv.run(0..2, &input, (&mut sums, &mut patch), done);
            let of = |x: i64, w: i64| 700 * x * w;
            let row = |x: i64| vec![of(x, -128), of(x, 127), of(x, 127)];
            assert_eq!(all, [(0, row(-32768)), (1, row(32767))], "{isa:?}");
        }
    }
}
