//! Transposed convolutions of bytes: each line of the input is multiplied by all of the kernel,
//! and what comes out is added up where it lies in the output.

use super::conv::{arranged, shape};
use super::sums::Sums;
use super::{byte, byte_output, byte_value, rescale};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::Cut;
use kinglet_graph::ops::quantized::QConvTranspose;
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{DType, OpResult};
use kinglet_kernels::qconv::{ConvShape, QWeights};
use kinglet_kernels::requant::Requantiser;

/// [`QConvTranspose`] over one or two spatial dimensions, channels last, of one group.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QConvTranspose>() else { return Ok(None) };
    let (Some(x), Some(w), y) = (cx.input(0), cx.input(1), cx.output(0)) else { return Ok(None) };
    let (Some((x_kind, _, x_zero)), Some(weights)) = (byte_value(&x.ty), cx.constant(1)) else {
        return Ok(None);
    };
    let (Some(kind), Some(output)) = (byte(weights.dtype), byte_output(&y.ty, op.clamp)) else {
        return Ok(None);
    };
    let bias: &[i32] = match (cx.input(2), cx.constant(2)) {
        (None, _) => &[],
        (Some(_), Some(bias)) if bias.dtype == DType::I32 => bias.slice()?,
        _ => return Ok(None),
    };
    let (Some(x_quant), Some(w_quant), Some(y_quant)) = (&x.ty.quant, &w.ty.quant, &y.ty.quant)
    else {
        return Ok(None);
    };
    let geometry = &op.geometry;
    // Sizes that only running tells are the reference implementation's to check.
    let known = cx.input(3).is_none() || cx.constant(3).is_some();
    if geometry.layout != Layout::ChannelsLast || geometry.groups != 1 || !known {
        return Ok(None);
    }
    let (x_dims, w_dims, y_dims) = (cx.dims(x)?, cx.dims(w)?, cx.dims(y)?);
    let (_, _, spatial) = geometry.layout.split(&y_dims)?;
    let dims = geometry.dims(&x_dims, &w_dims, &spatial, cx.input(3).is_some())?;
    // The convolution back, from the output to x.
    let Some(back) = shape(&dims.windows, dims.batch, dims.out_channels, dims.in_channels, 1)
    else {
        return Ok(None);
    };
    let position: Vec<usize> = (0..w_dims.len()).collect();
    let (channel_axis, ..) = geometry.weight_layout.split(&position)?;
    let channels = dims.out_channels;
    let one_or_each =
        |len: usize| len == 1 || len == channels && w_quant.axis == Some(channel_axis);
    let fits = one_or_each(w_quant.scale.len())
        && one_or_each(w_quant.zero_point.len())
        && (bias.is_empty() || bias.len() == channels);
    if !fits || back.input_len() * back.output_len() == 0 {
        return Ok(None);
    }
    let Some(rescale) = rescale(op.factors(x.ty.dtype, x_quant, w_quant, y_quant)?) else {
        return Ok(None);
    };
    let taps = back.kernel[0] * back.kernel[1];
    let data = arranged(weights.bytes, geometry.weight_layout, &w_dims, [2, 3, 0, 1])?;
    let zero_points = match w_quant.zero_point.as_slice() {
        [one] => vec![*one],
        many => many.repeat(taps),
    };
    let line = ConvShape::matrix(back.output[1], dims.in_channels, taps * channels);
    let weights = QWeights { data: &data, kind, zero_points: &zero_points, bias: &[] };
    let line = Sums::dense(cx.isa, &line, (x_kind, x_zero), &weights, cx.threads);
    let requantiser = Requantiser::new(cx.isa, &rescale, output, channels, i64::MAX);
    let pixels = back.input[0] * back.input[1];
    let cut = Cut::new(pixels, 1, pixels * channels * 8, cx.threads);
    let bias = if bias.is_empty() { vec![0; channels] } else { bias.to_vec() };
    let kernel = Transposed { back, line, bias, requantiser, cut };
    let [image, of_line] = kernel.sums();
    let scratch = 4 * (image + of_line) + kernel.line.planned(cx.threads);
    let packed = kernel.line.packed_bytes();
    let absorbed: Vec<usize> = (1..4).filter(|i| cx.input(*i).is_some()).collect();
    Ok(Some(Lowered::new(kernel).with_scratch(scratch).with_absorbed(&absorbed, packed)))
}

struct Transposed {
    /// The convolution from the output to x.
    back: ConvShape,
    /// A line of x by all of the kernel: for each pixel, kernel rows, columns, output channels.
    line: Sums,
    bias: Vec<i32>,
    requantiser: Requantiser,
    /// Of the output's pixels.
    cut: Cut,
}

impl Transposed {
    /// Sums of an image of the output, and of a line of x.
    fn sums(&self) -> [usize; 2] {
        let (channels, taps) = (self.bias.len(), self.back.kernel[0] * self.back.kernel[1]);
        [self.back.input[0] * self.back.input[1] * channels, self.back.output[1] * taps * channels]
            .map(|len| len.next_multiple_of(16))
    }

    /// Adds what line `y` of x gives to an image of sums.
    fn add(&self, y: usize, line: &[i32], image: &mut [i32]) {
        let (back, channels) = (&self.back, self.bias.len());
        let at = |i: usize, place: usize, tap: usize| {
            (place * back.stride[i] + tap * back.dilation[i])
                .checked_sub(back.pad[i])
                .filter(|at| *at < back.input[i])
        };
        let mut sums = line.chunks_exact(channels);
        for x in 0..back.output[1] {
            for ky in 0..back.kernel[0] {
                for kx in 0..back.kernel[1] {
                    let Some(sums) = sums.next() else { return };
                    if let (Some(row), Some(column)) = (at(0, y, ky), at(1, x, kx)) {
                        let to = (row * back.input[1] + column) * channels;
                        for (to, sum) in image[to..to + channels].iter_mut().zip(sums) {
                            *to = to.wrapping_add(*sum);
                        }
                    }
                }
            }
        }
    }
}

impl Kernel for Transposed {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (pool, channels) = (io.pool, self.bias.len());
        let input = super::input_bytes(io, 0)?;
        let [image, line] = self.sums();
        let (sums, rest) = io.scratch.split_at_mut(4 * (image + line));
        let (image, line) = bytemuck::cast_slice_mut::<u8, i32>(sums).split_at_mut(image);
        let pixels = self.back.input[0] * self.back.input[1];
        let image = &mut image[..pixels * channels];
        let width = self.back.output[1];
        let taps = self.back.kernel[0] * self.back.kernel[1];
        let line = &mut line[..width * taps * channels];
        let lines = input.chunks_exact(width * self.back.out_channels);
        for (i, x) in lines.enumerate() {
            let (n, y) = (i / self.back.output[0], i % self.back.output[0]);
            if y == 0 {
                image.chunks_exact_mut(channels).for_each(|sums| sums.copy_from_slice(&self.bias));
            }
            self.line.run(pool, x, line, rest);
            self.add(y, line, image);
            if y + 1 == self.back.output[0] {
                let out = &mut io.outputs[0].bytes[n * image.len()..][..image.len()];
                let (image, rows) = (&*image, self.cut.chunk());
                pool.for_chunks(out, rows * channels, |i, out, _| {
                    let sums = &image[i * rows * channels..][..out.len()];
                    let rows = out.len() / channels;
                    self.requantiser.run(0, channels, rows, (sums, channels), (out, channels));
                });
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "qconv transposed".into()
    }
}
