//! Times the int8 kernels on the layers of MobileNetV2 1.0 at 224 x 224, on one thread.
//!
//! `cargo run --release -p kinglet-kernels --example mobilenet_int8 [ISA]`

use std::hint::black_box;
use std::time::Instant;

use kinglet_kernels::fixed::Multiplier;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::qconv::{ConvShape, PackedQConv, QOutput, QWeights};
use kinglet_kernels::qdepthwise::PackedQDepthwise;
use kinglet_kernels::requant::{Byte, ByteOutput, Rescale};
use kinglet_kernels::shared::SharedMut;
use kinglet_kernels::window::Lines;

/// (expansion, output channels, repeats, first stride) of the bottleneck blocks.
const BLOCKS: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

fn conv(
    size: usize,
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    groups: usize,
) -> ConvShape {
    let output = size.div_ceil(stride);
    let pad = ((output - 1) * stride + kernel).saturating_sub(size) / 2;
    ConvShape {
        batch: 1,
        input: [size; 2],
        in_channels: channels.0,
        output: [output; 2],
        out_channels: channels.1,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pad: [pad; 2],
        groups,
    }
}

fn layers() -> Vec<ConvShape> {
    let mut layers = vec![conv(224, (3, 32), 3, 2, 1)];
    let (mut size, mut channels) = (112, 32);
    for (expansion, out, repeats, first_stride) in BLOCKS {
        for repeat in 0..repeats {
            let stride = if repeat == 0 { first_stride } else { 1 };
            let wide = channels * expansion;
            if expansion > 1 {
                layers.push(conv(size, (channels, wide), 1, 1, 1));
            }
            layers.push(conv(size, (wide, wide), 3, stride, wide));
            size /= stride;
            layers.push(conv(size, (wide, out), 1, 1, 1));
            channels = out;
        }
    }
    layers.push(conv(size, (channels, 1280), 1, 1, 1));
    layers.push(ConvShape::matrix(1, 1280, 1000));
    layers
}

enum Packed {
    Conv(PackedQConv),
    Depthwise(PackedQDepthwise),
}

/// Seconds of one run of a layer: the least of several.
fn time(isa: Isa, shape: &ConvShape) -> f64 {
    let bytes = |n: usize| (0..n).map(|i| (i * 89 + i / 7) as u8).collect::<Vec<u8>>();
    let data = bytes(shape.out_channels * shape.depth());
    let bias = vec![17; shape.out_channels];
    let weights = QWeights { data: &data, kind: Byte::Signed, zero_points: &[0], bias: &bias };
    let factor = Multiplier::new(0.0023).expect("a small factor");
    // Layers that narrow have no activation; the others' starts at the zero point.
    let narrows = shape.groups == 1 && shape.out_channels <= shape.in_channels;
    let output = QOutput::Bytes(
        Rescale::Fixed(vec![factor; shape.out_channels]),
        ByteOutput::new(Byte::Signed, if narrows { -3 } else { -128 }),
    );
    let input = bytes(shape.input_len());
    let mut out = vec![0; shape.output_len()];
    let packed = if shape.groups > 1 {
        Packed::Depthwise(PackedQDepthwise::new(isa, shape, (Byte::Signed, 4), &weights, &output))
    } else {
        Packed::Conv(PackedQConv::new(isa, shape, (Byte::Signed, 4), &weights, &output))
    };
    let mut scratch = vec![
        0;
        match &packed {
            Packed::Conv(conv) => conv.scratch_bytes(),
            Packed::Depthwise(conv) => conv.scratch_bytes(),
        }
    ];
    let mut best = f64::INFINITY;
    for _ in 0..15 {
        let start = Instant::now();
        let out = SharedMut::new(&mut out);
        match &packed {
            // SAFETY: one thread.
            Packed::Conv(conv) => unsafe {
                conv.run(
                    0..conv.rows(),
                    0..conv.panels(),
                    black_box(&input),
                    None,
                    out,
                    &mut scratch,
                );
            },
            // SAFETY: one thread.
            Packed::Depthwise(conv) => unsafe {
                let input = Lines::all(black_box(input.as_slice()));
                conv.run(0..conv.lines(), 0..conv.blocks(), input, Lines::all(out), &mut scratch);
            },
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let name = std::env::args().nth(1);
    let isa = Isa::available()
        .into_iter()
        .rfind(|isa| name.as_ref().is_none_or(|name| isa.name() == name))
        .expect("an instruction set of this CPU");
    println!("{}", isa.name());
    let mut totals = [0.0; 2];
    for shape in layers() {
        let seconds = time(isa, &shape);
        let macs = (shape.output_len() * shape.depth()) as f64;
        let depthwise = usize::from(shape.groups > 1);
        totals[depthwise] += seconds;
        println!(
            "{} {:3}x{:<3} {:4} -> {:4} stride {}: {:7.1} us  {:6.1} GMAC/s  {:5.2} Goutput/s",
            ["conv", "dw  "][depthwise],
            shape.input[0],
            shape.input[1],
            shape.in_channels,
            shape.out_channels,
            shape.stride[0],
            seconds * 1e6,
            macs / seconds / 1e9,
            shape.output_len() as f64 / seconds / 1e9,
        );
    }
    println!(
        "convolutions {:.3} ms, depthwise {:.3} ms, all {:.3} ms",
        totals[0] * 1e3,
        totals[1] * 1e3,
        (totals[0] + totals[1]) * 1e3
    );
}
