use super::*;
use crate::fixed::Multiplier;
use crate::requant::{ByteOutput, Rescale};
use crate::test_random::Random;
use crate::window::Lines;

/// The definition: accumulators of every output, from loops.
fn reference(
    shape: &ConvShape,
    (kind, zero): (Byte, i32),
    weights: &QWeights,
    input: &[u8],
) -> Vec<i32> {
    let multiplier = shape.out_channels / shape.in_channels;
    let mut out = Vec::new();
    for row in 0..shape.rows() {
        let (ox, rest) = (row % shape.output[1], row / shape.output[1]);
        let (oy, image) = (rest % shape.output[0], rest / shape.output[0]);
        for channel in 0..shape.out_channels {
            let mut acc = weights.bias.get(channel).copied().unwrap_or(0);
            let weight_zero = match weights.zero_points {
                [] => 0,
                [one] => *one,
                each => each[channel],
            };
            for ky in 0..shape.kernel[0] {
                for kx in 0..shape.kernel[1] {
                    let y =
                        (oy * shape.stride[0] + ky * shape.dilation[0]).wrapping_sub(shape.pad[0]);
                    let x =
                        (ox * shape.stride[1] + kx * shape.dilation[1]).wrapping_sub(shape.pad[1]);
                    if y >= shape.input[0] || x >= shape.input[1] {
                        continue;
                    }
                    let from = ((image * shape.input[0] + y) * shape.input[1] + x)
                        * shape.in_channels
                        + channel / multiplier;
                    let weight = (ky * shape.kernel[1] + kx) * shape.out_channels + channel;
                    acc += (kind.value(input[from]) - zero)
                        * (weights.kind.value(weights.data[weight]) - weight_zero);
                }
            }
            out.push(acc);
        }
    }
    out
}

fn same<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T], about: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got, want, "element {i} of {about}");
    }
}

fn check(isa: Isa, shape: &ConvShape, seed: u64) {
    let mut random = Random::new(seed);
    let channels = shape.out_channels;
    let kinds = [Byte::Signed, Byte::Unsigned];
    let pick = |random: &mut Random| kinds[(random.next() & 1) as usize];
    let any = |random: &mut Random, kind: Byte| {
        random.range(kind.limits().0.into(), kind.limits().1.into()) as i32
    };
    let (input_kind, kind, output_kind) = (pick(&mut random), pick(&mut random), pick(&mut random));
    let input_zero = any(&mut random, input_kind);
    let zero_points = match (kind, random.next() % 3) {
        (Byte::Signed, 0) => vec![],
        (Byte::Unsigned, 0) => vec![0],
        (_, 1) => vec![any(&mut random, kind)],
        _ => (0..channels).map(|_| any(&mut random, kind)).collect(),
    };
    let mut data = random.bytes(channels * shape.kernel[0] * shape.kernel[1]);
    if seed.is_multiple_of(2) {
        // Of several units the first has no weight that needs more than a byte.
        for (i, weight) in data.iter_mut().enumerate().filter(|(i, _)| i % channels < 16) {
            let zero = match zero_points.as_slice() {
                [] => 0,
                [zero] => *zero,
                each => each[i % channels],
            };
            let (low, high) = kind.limits();
            *weight = (zero + random.range(-100, 100) as i32).clamp(low, high) as u8;
        }
    }
    let bias: Vec<i32> = (0..channels).map(|_| random.range(-5000, 5000) as i32).collect();
    let weights = QWeights { data: &data, kind, zero_points: &zero_points, bias: &bias };
    let input = random.bytes(shape.input_len() + 1);
    let input = &input[1..];
    let acc = reference(shape, (input_kind, input_zero), &weights, input);
    let about = format!("{isa:?} {shape:?} {input_kind:?} {kind:?} {zero_points:?}");

    let packed = PackedQDepthwise::new(
        isa,
        shape,
        (input_kind, input_zero),
        &weights,
        &QOutput::Accumulators,
    );
    let mut scratch = vec![0x55; packed.scratch_bytes()];
    let mut got = vec![0; shape.output_len()];
    let (lines, blocks) = (packed.lines(), packed.blocks());
    let out = SharedMut::new(&mut got);
    for lines in [0..lines / 3, lines / 3..lines] {
        for blocks in [0..blocks / 2, blocks / 2..blocks] {
            // SAFETY: one at a time.
            unsafe { packed.run_accumulators(lines.clone(), blocks, input, out, &mut scratch) };
        }
    }
    same(&got, &acc, &about);

    let mut output = ByteOutput::new(output_kind, any(&mut random, output_kind));
    output.max = output.max.min(output.zero_point + 60);
    let factor = Multiplier::new(0.003).unwrap();
    let rescale = Rescale::Fixed(vec![factor; channels]);
    let mut want = vec![0; shape.output_len()];
    Requantiser::new(Isa::Portable, &rescale, output, channels, i64::MAX).run(
        0,
        channels,
        shape.rows(),
        (&acc, channels),
        (&mut want, channels),
    );
    let output = QOutput::Bytes(rescale, output);
    let packed = PackedQDepthwise::new(isa, shape, (input_kind, input_zero), &weights, &output);
    let mut got = vec![0; shape.output_len()];
    let out = Lines::all(SharedMut::new(&mut got));
    // SAFETY: one thread.
    unsafe { packed.run(0..lines, 0..blocks, Lines::all(input), out, &mut scratch) };
    same(&got, &want, &about);

    // Two lines at a time, with no more of the input than they read.
    let (line_in, line_out) = (shape.input[1] * shape.in_channels, shape.output[1] * channels);
    for first in (0..lines).step_by(2) {
        let band = first..lines.min(first + 2);
        let read = packed.lines_read(band.clone());
        let part = input[read.start * line_in..read.end * line_in].to_vec();
        let part = Lines { data: part.as_slice(), first: read.start };
        let mut got = vec![0; band.len() * line_out];
        let out = Lines { data: SharedMut::new(&mut got), first };
        // SAFETY: one thread.
        unsafe { packed.run(band.clone(), 0..blocks, part, out, &mut scratch) };
        same(&got, &want[band.start * line_out..band.end * line_out], &about);
    }
}

#[test]
fn every_isa_matches_the_loops() {
    let mut shapes = Vec::new();
    for channels in [1, 3, 16, 17, 32, 70, 144] {
        for (kernel, stride, dilation, pad) in [
            ([3, 3], 1, 1, 1),
            ([3, 3], 2, 1, 0),
            ([3, 3], 2, 1, 1),
            ([3, 3], 1, 1, 0),
            ([3, 3], 1, 2, 2),
            ([3, 3], 3, 1, 1),
            ([5, 5], 1, 1, 2),
            ([1, 4], 1, 1, 0),
            ([2, 1], 2, 1, 1),
        ] {
            for input in [[7, 6], [3, 23]] {
                if (kernel[0] - 1) * dilation + 1 > input[0] + 2 * pad {
                    continue;
                }
                let output = [0, 1].map(|i: usize| {
                    (input[i] + 2 * pad - (kernel[i] - 1) * dilation - 1) / stride + 1
                });
                shapes.push(ConvShape {
                    batch: 1 + channels % 2,
                    input,
                    in_channels: channels,
                    output,
                    out_channels: channels * if channels == 3 { 5 } else { 1 },
                    kernel,
                    stride: [stride; 2],
                    dilation: [dilation; 2],
                    pad: [pad; 2],
                    groups: channels,
                });
            }
        }
    }
    for isa in Isa::available() {
        for (index, shape) in shapes.iter().enumerate() {
            for seed in 0..4 {
                check(isa, shape, index as u64 * 31 + seed);
            }
        }
    }
}
