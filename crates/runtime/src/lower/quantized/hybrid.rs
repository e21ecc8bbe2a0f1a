//! Floats times constant 8-bit weights: the floats are quantised as they come.

use super::conv::{arranged, shape};
use super::part;
use super::sums::Sums;
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::{Cut, activation};
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::conv::conv_dims;
use kinglet_graph::ops::quantized::{HybridConv, HybridMatMul};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{DType, OpResult};
use kinglet_kernels::dynamic::{Fit, Restore};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::qconv::{ConvShape, QWeights};
use kinglet_kernels::requant::Byte;
use kinglet_kernels::shared::SharedMut;

/// [`HybridConv`] over one or two spatial dimensions, channels last.
pub(super) fn lower_conv(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<HybridConv>() else { return Ok(None) };
    let conv = &op.conv;
    let (Some(x), Some(parts)) = (cx.input(0), Parts::of(cx, conv.activation)?) else {
        return Ok(None);
    };
    if conv.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let (x_dims, w_dims) = (cx.dims(x)?, parts.dims);
    let layouts = (conv.layout, conv.weight_layout);
    let dims = conv_dims(&conv.window, conv.groups, layouts, &x_dims, w_dims)?;
    let Some(image) =
        shape(&dims.windows, dims.batch, dims.in_channels, dims.out_channels, conv.groups)
    else {
        return Ok(None);
    };
    if !parts.fit(dims.out_channels) || image.input_len() * image.output_len() == 0 {
        return Ok(None);
    }
    let asymmetric = parts.scales.len() > 1;
    let depthwise = conv.groups == dims.in_channels && conv.groups > 1;
    let order = if depthwise { [2, 3, 0, 1] } else { [0, 2, 3, 1] };
    let data = arranged(parts.data, conv.weight_layout, w_dims, order)?;
    // Each output channel's weights: one after the other, or interleaved.
    let (step, stride) = if depthwise { (1, image.out_channels) } else { (image.depth(), 1) };
    let taps = image.depth();
    let weight_sums = (0..image.out_channels)
        .map(|c| (0..taps).map(|t| i32::from(data[c * step + t * stride] as i8)).sum())
        .collect();
    // The zero point is known only when it runs, so the border is stored with the image.
    let reach = |i: usize| {
        (image.output[i].max(1) - 1) * image.stride[i]
            + (image.kernel[i].max(1) - 1) * image.dilation[i]
            + 1
    };
    let sides = [0, 1].map(|i| (image.pad[i] + image.input[i]).max(reach(i)));
    let padded = ConvShape { input: sides, pad: [0, 0], ..image };
    let weights = QWeights { data: &data, kind: Byte::Signed, zero_points: &[0], bias: &[] };
    let make = if depthwise { Sums::depthwise } else { Sums::dense };
    let sums = make(cx.isa, &padded, (Byte::Signed, 0), &weights, cx.threads);
    Ok(Some(parts.lowered(
        cx,
        Hybrid {
            isa: cx.isa,
            image,
            padded,
            asymmetric,
            image_last: true,
            weight_sums,
            scales: parts.scales(dims.out_channels),
            bias: parts.bias(dims.out_channels),
            activation: parts.activation,
            cut: Cut::new(image.rows(), 1, image.output_len() * 4, cx.threads),
            sums,
        },
    )))
}

/// [`HybridMatMul`] by constant weights.
pub(super) fn lower_matmul(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<HybridMatMul>() else { return Ok(None) };
    let (Some(x), Some(parts)) = (cx.input(0), Parts::of(cx, op.activation)?) else {
        return Ok(None);
    };
    let (x_dims, &[n, k]) = (cx.dims(x)?, parts.dims) else { return Ok(None) };
    let rows = x_dims.iter().product::<usize>() / k.max(1);
    if x_dims.last() != Some(&k) || n * k * rows == 0 || !parts.fit(n) {
        return Ok(None);
    }
    let image = ConvShape::matrix(rows, k, n);
    let weights = QWeights { data: parts.data, kind: Byte::Signed, zero_points: &[0], bias: &[] };
    let sum = |row: &[u8]| row.iter().map(|w| i32::from(*w as i8)).sum();
    let sums = Sums::dense(cx.isa, &image, (Byte::Signed, 0), &weights, cx.threads);
    Ok(Some(parts.lowered(
        cx,
        Hybrid {
            isa: cx.isa,
            image,
            padded: image,
            asymmetric: op.asymmetric,
            image_last: false,
            weight_sums: parts.data.chunks_exact(k).map(sum).collect(),
            scales: parts.scales(n),
            bias: parts.bias(n),
            activation: parts.activation,
            cut: Cut::new(rows, 1, rows * n * 4, cx.threads),
            sums,
        },
    )))
}

/// The constants of a hybrid op.
struct Parts<'a> {
    data: &'a [u8],
    dims: &'a [usize],
    scales: &'a [f32],
    bias: &'a [f32],
    activation: Unary,
}

impl<'a> Parts<'a> {
    fn of(cx: &LowerCx<'a>, then: Activation) -> OpResult<Option<Parts<'a>>> {
        let (Some(w), Some(activation)) = (cx.constant(1), activation(then)) else {
            return Ok(None);
        };
        let Some(quant) = cx.input(1).and_then(|w| w.ty.quant.as_deref()) else { return Ok(None) };
        let bias: &[f32] = match (cx.input(2), cx.constant(2)) {
            (None, _) => &[],
            (Some(_), Some(bias)) => bias.slice()?,
            _ => return Ok(None),
        };
        if w.dtype != DType::I8 || quant.zero_point.iter().any(|z| *z != 0) {
            return Ok(None);
        }
        let (data, dims, scales) = (w.bytes, w.dims, quant.scale.as_slice());
        Ok(Some(Parts { data, dims, scales, bias, activation }))
    }

    fn fit(&self, channels: usize) -> bool {
        (self.scales.len() == 1 || self.scales.len() == channels)
            && (self.bias.is_empty() || self.bias.len() == channels)
    }

    /// A scale for each channel.
    fn scales(&self, channels: usize) -> Vec<f32> {
        let mut scales = self.scales.to_vec();
        scales.resize(channels, self.scales[0]);
        scales
    }

    /// A bias for each channel.
    fn bias(&self, channels: usize) -> Vec<f32> {
        let mut bias = self.bias.to_vec();
        bias.resize(channels, 0.0);
        bias
    }

    fn lowered(&self, cx: &LowerCx<'_>, kernel: Hybrid) -> Lowered {
        let absorbed: &[usize] = if cx.input(2).is_some() { &[1, 2] } else { &[1] };
        let scratch = kernel.stored() + kernel.fits() + kernel.sums.planned(cx.threads);
        let packed = kernel.sums.packed_bytes();
        Lowered::new(kernel).with_scratch(scratch).with_absorbed(absorbed, packed)
    }
}

struct Hybrid {
    isa: Isa,
    /// The product, and the same over images with their border.
    image: ConvShape,
    padded: ConvShape,
    asymmetric: bool,
    /// The order of factors: weight scale, then image scale; else their product first.
    image_last: bool,
    /// For each output channel.
    weight_sums: Vec<i32>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    activation: Unary,
    sums: Sums,
    /// Of the rows of the output.
    cut: Cut,
}

impl Hybrid {
    /// Bytes of scratch for the quantised images.
    fn stored(&self) -> usize {
        self.padded.input_len().next_multiple_of(64)
    }

    /// Bytes of scratch for the scale and zero point of each image.
    fn fits(&self) -> usize {
        (self.image.batch * size_of::<[u32; 2]>()).next_multiple_of(64)
    }

    /// Quantises image `n` into `out`, border included.
    fn quantise(&self, image: &[f32], out: &mut [u8]) -> Fit {
        let fit = match self.asymmetric {
            true => Fit::asymmetric(self.isa, image),
            false => Fit::symmetric(self.isa, image),
        };
        if self.padded.input == self.image.input {
            fit.quantise(self.isa, image, out);
            return fit;
        }
        out.fill(fit.zero_point as u8);
        let channels = self.image.in_channels;
        let [wide, narrow] = [&self.padded, &self.image].map(|s| s.input[1] * channels);
        let [above, left] = self.image.pad;
        for (y, line) in image.chunks_exact(narrow).enumerate() {
            let at = (above + y) * wide + left * channels;
            fit.quantise(self.isa, line, &mut out[at..at + narrow]);
        }
        fit
    }

    /// The results of rows of sums, the first of them row `first`, in their place.
    fn finish(&self, fits: &[[u32; 2]], first: usize, mut rows: &mut [f32]) {
        let restore = Restore {
            weight_sums: &self.weight_sums,
            scales: &self.scales,
            bias: &self.bias,
            floats_last: self.image_last,
            activation: self.activation,
        };
        let per_image = self.image.rows() / self.image.batch.max(1);
        let mut row = first;
        while !rows.is_empty() {
            let image = row / per_image;
            let here = (image + 1) * per_image - row;
            let len = (here * self.image.out_channels).min(rows.len());
            let [scale, zero] = fits[image];
            let (these, rest) = rows.split_at_mut(len);
            restore.run(self.isa, (f32::from_bits(scale), zero as i32), these);
            (row, rows) = (row + here, rest);
        }
    }
}

impl Kernel for Hybrid {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let (pool, batch) = (io.pool, self.image.batch);
        let (stored, rest) = io.scratch.split_at_mut(self.stored());
        let (fits, planned) = rest.split_at_mut(self.fits());
        let stored = &mut stored[..self.padded.input_len()];
        let fits: &mut [[u32; 2]] = bytemuck::cast_slice_mut(&mut fits[..batch * 8]);
        let (image, padded) = (x.len() / batch.max(1), stored.len() / batch.max(1));
        {
            let (stored, fits) = (SharedMut::new(stored), SharedMut::new(&mut *fits));
            let tasks = batch.min(pool.threads());
            pool.run(tasks, |i, _| {
                for n in part(batch, tasks, i) {
                    // SAFETY: each task has its own images.
                    let (out, place) = unsafe {
                        (stored.slice(n * padded..(n + 1) * padded), &mut fits.slice(n..n + 1)[0])
                    };
                    let fit = self.quantise(&x[n * image..(n + 1) * image], out);
                    *place = [fit.scale.to_bits(), fit.zero_point as u32];
                }
            });
        }
        let out = io.outputs[0].slice_mut::<f32>()?;
        // The sums lie where the results will: both have 32 bits.
        self.sums.run(pool, stored, bytemuck::cast_slice_mut(&mut *out), planned);
        let (channels, rows) = (self.image.out_channels, self.cut.chunk());
        let fits = &*fits;
        pool.for_chunks(out, rows * channels, |i, out, _| self.finish(fits, i * rows, out));
        Ok(())
    }

    fn describe(&self) -> String {
        format!("hybrid {}", self.isa.name())
    }
}
