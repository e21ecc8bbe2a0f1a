use super::*;
use crate::fixed::Multiplier;
use crate::qbinary::{QArithmetic, QBinary, QReal, RealArithmetic};
use crate::test_random::Random;

/// The definition: accumulators of every output, from loops.
fn reference(
    shape: &ConvShape,
    (kind, zero): (Byte, i32),
    weights: &QWeights,
    input: &[u8],
) -> Vec<i32> {
    let (cin, cout) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
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
                    for c in 0..cin {
                        let from = ((image * shape.input[0] + y) * shape.input[1] + x)
                            * shape.in_channels
                            + channel / cout * cin
                            + c;
                        let weight =
                            ((channel * shape.kernel[0] + ky) * shape.kernel[1] + kx) * cin + c;
                        acc += (kind.value(input[from]) - zero)
                            * (weights.kind.value(weights.data[weight]) - weight_zero);
                    }
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
    let input_kind = pick(&mut random);
    let limits = input_kind.limits();
    let input_zero = random.range(limits.0.into(), limits.1.into()) as i32;
    let kind = pick(&mut random);
    let zero_points = match (kind, random.next() & 1) {
        (Byte::Signed, 0) => vec![],
        (_, 0) => vec![random.range(kind.limits().0.into(), kind.limits().1.into()) as i32],
        _ => (0..channels)
            .map(|_| random.range(kind.limits().0.into(), kind.limits().1.into()) as i32)
            .collect(),
    };
    let data = if seed.is_multiple_of(2) {
        random.bytes(channels * shape.depth())
    } else {
        rarely_wide(&mut random, kind, &zero_points, (channels, shape.depth()))
    };
    let bias: Vec<i32> = (0..channels).map(|_| random.range(-5000, 5000) as i32).collect();
    let weights = QWeights { data: &data, kind, zero_points: &zero_points, bias: &bias };
    // One byte in, to misalign it.
    let input = random.bytes(shape.input_len() + 1);
    let input = &input[1..];
    let acc = reference(shape, (input_kind, input_zero), &weights, input);
    let about = format!("{isa:?} {shape:?} {input_kind:?} {kind:?} {zero_points:?}");

    let packed =
        PackedQConv::new(isa, shape, (input_kind, input_zero), &weights, &QOutput::Accumulators);
    let mut scratch = vec![0x55; packed.scratch_bytes()];
    let mut got = vec![0; shape.output_len()];
    let (rows, panels) = (packed.rows(), packed.panels());
    let out = SharedMut::new(&mut got);
    for rows in [0..rows / 3, rows / 3..rows] {
        for panels in [0..panels / 2, panels / 2..panels] {
            // SAFETY: one at a time.
            unsafe { packed.run_accumulators(rows.clone(), panels, input, out, &mut scratch) };
        }
    }
    same(&got, &acc, &about);

    let output_kind = pick(&mut random);
    let limits = output_kind.limits();
    let mut output =
        ByteOutput::new(output_kind, random.range(limits.0.into(), limits.1.into()) as i32);
    output.min = output.min.max(output.zero_point - 60);
    let scale = 60.0 / (shape.depth() as f64).sqrt() / 5000.0;
    let factors: Vec<Multiplier> =
        (0..channels).map(|_| Multiplier::new(scale * (0.5 + random.unit())).unwrap()).collect();
    let factors = if random.next() & 1 == 0 { factors } else { vec![factors[0]] };
    let floats = factors.iter().map(|f| f.to_f64() as f32).collect();
    for rescale in [Rescale::Fixed(factors.clone()), Rescale::Float(floats)] {
        let rule = Requantiser::new(Isa::Portable, &rescale, output, channels, i64::MAX);
        let mut want = vec![0; shape.output_len()];
        rule.run(0, channels, shape.rows(), (&acc, channels), (&mut want, channels));
        let packed = PackedQConv::new(
            isa,
            shape,
            (input_kind, input_zero),
            &weights,
            &QOutput::Bytes(rescale, output),
        );
        let mut got = vec![0; shape.output_len() + 1];
        let out = SharedMut::new(&mut got[1..]);
        for rows in [0..rows / 2, rows / 2..rows] {
            // SAFETY: one at a time.
            unsafe { packed.run(rows, 0..packed.panels(), input, None, out, &mut scratch) };
        }
        same(&got[1..], &want, &about);
        if shape.is_pointwise() {
            // A stretch of pixels by itself.
            let stretch = rows / 3..rows;
            let part = |pixel: usize| stretch.start * pixel..stretch.end * pixel;
            let mut got = vec![0; stretch.len() * channels];
            let (out, input) = (SharedMut::new(&mut got), &input[part(shape.in_channels)]);
            let all = 0..packed.panels();
            // SAFETY: one thread.
            unsafe { packed.run(0..stretch.len(), all, input, None, out, &mut scratch) };
            same(&got, &want[part(channels)], &about);
        }

        let residual = random.bytes(want.len() + 1);
        for (sum, definition) in sums(isa, output_kind, &mut random) {
            let pairs = want.iter().zip(&residual[1..]);
            let want: Vec<u8> = pairs.map(|(x, y)| definition(*x, *y)).collect();
            let residual = Some(Residual { sum: &sum, data: &residual[1..] });
            let out = SharedMut::new(&mut got[1..]);
            for rows in [0..rows / 3, rows / 3..rows] {
                for panels in [0..panels / 2, panels / 2..panels] {
                    let rows = rows.clone();
                    // SAFETY: one at a time.
                    unsafe { packed.run(rows, panels, input, residual, out, &mut scratch) };
                }
            }
            same(&got[1..], &want, &format!("{about} {sum:?}"));
            let out = SharedMut::new(&mut got[1..]);
            // SAFETY: one at a time.
            unsafe { packed.run(0..rows, 0..panels, input, residual, out, &mut scratch) };
            same(&got[1..], &want, &format!("{about} {sum:?}"));
        }
    }
}

/// Weights most of which fit a byte without their zero points too.
fn rarely_wide(
    random: &mut Random,
    kind: Byte,
    zero_points: &[i32],
    (channels, depth): (usize, usize),
) -> Vec<u8> {
    let (low, high) = kind.limits();
    let mut data = Vec::new();
    for channel in 0..channels {
        let zero = if zero_points.len() == 1 {
            zero_points[0]
        } else {
            *zero_points.get(channel).unwrap_or(&0)
        };
        for _ in 0..depth {
            let near = (zero + random.range(-100, 100) as i32).clamp(low, high);
            let far = if zero - low > high - zero { low } else { high };
            let rare = data.is_empty() || random.range(0, 2000) == 0;
            let weight = if rare { far } else { near };
            data.push(weight as u8);
        }
    }
    data
}

type Definition = Box<dyn Fn(u8, u8) -> u8>;

/// Sums of bytes in both arithmetics, and what they are of one pair.
fn sums(isa: Isa, kind: Byte, random: &mut Random) -> [(ByteArithmetic, Definition); 2] {
    let (low, high) = kind.limits();
    let zeros = [0, 1, 2].map(|_| random.range(low.into(), high.into()) as i32);
    let output = ByteOutput { max: high - 3, ..ByteOutput::new(kind, zeros[2]) };
    let output = ByteOutput { max: output.max.max(output.zero_point), ..output };

    let factor = |real: f64| Multiplier::new(real).unwrap();
    let (a, b) = (factor(0.5), factor(0.1 + 0.3 * random.unit()));
    let out = factor((0.6 + random.unit()) / f64::from(1 << 20));
    let arithmetic = QArithmetic::Sum { a, b, out };
    let fixed = QBinary::new(isa, arithmetic, kind, [zeros[0], zeros[1]], output).unwrap();
    let fixed_definition = move |x: u8, y: u8| {
        let x = a.apply((kind.value(x) - zeros[0]) << 20);
        let y = b.apply((kind.value(y) - zeros[1]) << 20);
        (out.apply(x + y) + output.zero_point).clamp(output.min, output.max) as u8
    };

    let operands = [(0.05, zeros[0]), (0.03, zeros[1])];
    let scale = 0.07;
    let real = QReal { isa, arithmetic: RealArithmetic::Add, kind, operands, scale, output };
    let real_definition = move |x: u8, y: u8| {
        let [x, y] = [(x, operands[0]), (y, operands[1])]
            .map(|(byte, (scale, zero))| (kind.value(byte) - zero) as f32 * scale);
        let steps = ((x + y) / scale).round_ties_even() as i32;
        (steps + output.zero_point).clamp(output.min, output.max) as u8
    };
    [
        (ByteArithmetic::Fixed(fixed), Box::new(fixed_definition)),
        (ByteArithmetic::Real(real), Box::new(real_definition)),
    ]
}

#[expect(clippy::too_many_arguments, reason = "a table's row")]
fn conv(
    batch: usize,
    input: [usize; 2],
    (in_channels, out_channels): (usize, usize),
    kernel: [usize; 2],
    stride: usize,
    dilation: usize,
    pad: usize,
    groups: usize,
) -> ConvShape {
    let output = [0, 1].map(|i| (input[i] + 2 * pad - (kernel[i] - 1) * dilation - 1) / stride + 1);
    ConvShape {
        batch,
        input,
        in_channels,
        output,
        out_channels,
        kernel,
        stride: [stride; 2],
        dilation: [dilation; 2],
        pad: [pad; 2],
        groups,
    }
}

#[test]
fn every_isa_matches_the_loops() {
    let mut shapes = vec![
        conv(1, [9, 7], (3, 32), [3, 3], 2, 1, 1, 1),
        conv(2, [5, 6], (4, 17), [3, 2], 1, 1, 0, 1),
        conv(1, [8, 8], (6, 10), [3, 3], 1, 2, 2, 1),
        conv(1, [6, 6], (8, 12), [3, 3], 1, 1, 1, 4),
        conv(1, [4, 4], (6, 70), [1, 1], 2, 1, 0, 2),
        conv(1, [11, 3], (1, 8), [10, 3], 1, 1, 1, 1),
        conv(1, [7, 7], (64, 96), [1, 1], 1, 1, 0, 1),
        conv(1, [5, 5], (2, 2), [5, 5], 1, 1, 4, 1),
    ];
    for rows in [1, 2, 5, 11, 13, 25] {
        for (depth, columns) in
            [(1, 1), (3, 16), (16, 24), (33, 65), (260, 150), (64, 128), (7, 33)]
        {
            shapes.push(ConvShape::matrix(rows, depth, columns));
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

#[test]
fn rests_are_multiplied_where_the_kernel_can() {
    let mut random = Random::new(3);
    let shapes = [ConvShape::matrix(13, 128, 70), conv(1, [9, 7], (8, 33), [3, 3], 2, 1, 1, 1)];
    for isa in Isa::available() {
        for shape in &shapes {
            let (kind, zero_points) = (Byte::Unsigned, [180]);
            let size = (shape.out_channels, shape.depth());
            let data = rarely_wide(&mut random, kind, &zero_points, size);
            let weights = QWeights { data: &data, kind, zero_points: &zero_points, bias: &[] };
            let packed = PackedQConv::new(isa, shape, (kind, 9), &weights, &QOutput::Accumulators);
            assert_eq!(packed.weight_zero.is_empty(), packed.micro.seconds, "{isa:?}");
            assert_eq!(packed.seconds.is_empty(), !packed.micro.seconds, "{isa:?}");
            // More than a second byte holds.
            let data = vec![255; data.len()];
            let weights = QWeights { data: &data, kind, zero_points: &[0], bias: &[] };
            let packed = PackedQConv::new(isa, shape, (kind, 9), &weights, &QOutput::Accumulators);
            assert!(packed.seconds.is_empty());
        }
    }
}

#[test]
fn extremes_do_not_saturate() {
    for isa in Isa::available() {
        for (input_kind, input_byte, input_zero) in
            [(Byte::Signed, 0x80, 127), (Byte::Signed, 0x7f, -128), (Byte::Unsigned, 255, 0)]
        {
            for (kind, byte, zero) in [
                (Byte::Signed, 0x80, 0),
                (Byte::Signed, 0x7f, 0),
                (Byte::Unsigned, 255, 0),
                (Byte::Unsigned, 0, 255),
            ] {
                let shape = ConvShape::matrix(3, 1001, 20);
                let data = vec![byte; 1001 * 20];
                let weights = QWeights { data: &data, kind, zero_points: &[zero], bias: &[] };
                let input = vec![input_byte; 3 * 1001];
                let want =
                    1001 * (input_kind.value(input_byte) - input_zero) * (kind.value(byte) - zero);
                let packed = PackedQConv::new(
                    isa,
                    &shape,
                    (input_kind, input_zero),
                    &weights,
                    &QOutput::Accumulators,
                );
                let mut got = vec![0; 60];
                let mut scratch = vec![0; packed.scratch_bytes()];
                // SAFETY: one thread.
                unsafe {
                    packed.run_accumulators(
                        0..3,
                        0..packed.panels(),
                        &input,
                        SharedMut::new(&mut got),
                        &mut scratch,
                    );
                }
                assert_eq!(got, vec![want; 60], "{isa:?} {input_kind:?} {kind:?}");
            }
        }
    }
}
