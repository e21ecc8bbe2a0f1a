use super::*;
use crate::elementwise::Unary;
use crate::testing::{Values, assert_close, unary};

fn image(height: usize, width: usize, channels: usize) -> ImageShape {
    ImageShape { height, width, channels }
}

/// The convolution by its definition, in f64. Weights are OHWI.
fn naive(shape: &ConvShape, n: usize, input: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let ConvShape { input: from, output: to, window, groups } = *shape;
    let (inputs, outputs) = (from.channels / groups, to.channels / groups);
    let [height, width] = window.kernel;
    let mut out = Vec::new();
    for n in 0..n {
        for y in 0..to.height {
            for x in 0..to.width {
                for (o, &bias) in bias.iter().enumerate().take(to.channels) {
                    let mut sum = f64::from(bias);
                    for (ky, kx) in (0..height).flat_map(|ky| (0..width).map(move |kx| (ky, kx))) {
                        let at = |axis: usize, at: usize, tap: usize| {
                            (at * window.stride[axis] + tap * window.dilation[axis])
                                .checked_sub(window.padding[axis])
                        };
                        let (Some(iy), Some(ix)) = (at(0, y, ky), at(1, x, kx)) else {
                            continue;
                        };
                        if iy >= from.height || ix >= from.width {
                            continue;
                        }
                        for i in 0..inputs {
                            let channel = o / outputs * inputs + i;
                            let pixel = (n * from.height + iy) * from.width + ix;
                            let weight = ((o * height + ky) * width + kx) * inputs + i;
                            sum += f64::from(input[pixel * from.channels + channel])
                                * f64::from(weights[weight]);
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

/// The transposed convolution by its definition: every input spreads. Weights are, for each
/// group, output channels, height, width, input channels.
fn naive_transposed(
    shape: &ConvShape,
    n: usize,
    input: &[f32],
    weights: &[f32],
    bias: &[f32],
) -> Vec<f64> {
    let ConvShape { input: from, output: to, window, groups } = *shape;
    let (inputs, outputs) = (from.channels / groups, to.channels / groups);
    let [height, width] = window.kernel;
    let mut out: Vec<f64> = (0..n * to.len()).map(|i| f64::from(bias[i % to.channels])).collect();
    for pixel in 0..n * from.pixels() {
        let (n, y, x) =
            (pixel / from.pixels(), pixel / from.width % from.height, pixel % from.width);
        for (ky, kx) in (0..height).flat_map(|ky| (0..width).map(move |kx| (ky, kx))) {
            let at = |axis: usize, at: usize, tap: usize| {
                (at * window.stride[axis] + tap * window.dilation[axis])
                    .checked_sub(window.padding[axis])
            };
            let (Some(oy), Some(ox)) = (at(0, y, ky), at(1, x, kx)) else {
                continue;
            };
            if oy >= to.height || ox >= to.width {
                continue;
            }
            for o in 0..to.channels {
                for i in 0..inputs {
                    let channel = o / outputs * inputs + i;
                    let weight = ((o * height + ky) * width + kx) * inputs + i;
                    out[((n * to.height + oy) * to.width + ox) * to.channels + o] +=
                        f64::from(input[pixel * from.channels + channel])
                            * f64::from(weights[weight]);
                }
            }
        }
    }
    out
}

fn window(
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: [usize; 2],
) -> Window {
    Window { kernel, stride, dilation, padding }
}

fn shapes() -> Vec<ConvShape> {
    let shape = |input, output, window, groups| ConvShape { input, output, window, groups };
    vec![
        shape(image(9, 7, 5), image(9, 7, 11), Window::plain(1, 1), 1),
        shape(image(9, 7, 20), image(5, 4, 33), window([1, 1], [2, 2], [1, 1], [0, 0]), 1),
        // The first layer of a network, padded as TensorFlow does: below and right only.
        shape(image(18, 22, 3), image(9, 11, 32), window([3, 3], [2, 2], [1, 1], [0, 0]), 1),
        shape(image(17, 13, 3), image(9, 7, 16), window([3, 3], [2, 2], [1, 1], [1, 1]), 1),
        shape(image(20, 19, 1), image(10, 10, 8), window([7, 7], [2, 2], [1, 1], [3, 3]), 1),
        shape(image(8, 9, 17), image(8, 9, 50), window([3, 3], [1, 1], [1, 1], [1, 1]), 1),
        shape(image(8, 9, 4), image(8, 9, 6), window([3, 3], [1, 1], [2, 3], [2, 3]), 1),
        shape(image(8, 9, 6), image(8, 9, 10), window([3, 3], [1, 1], [1, 1], [1, 1]), 2),
        shape(image(8, 9, 34), image(4, 5, 66), window([3, 5], [2, 2], [1, 1], [1, 2]), 2),
        shape(image(6, 6, 8), image(6, 6, 16), window([3, 3], [1, 1], [1, 1], [1, 1]), 8),
        shape(image(1, 50, 12), image(1, 48, 20), window([1, 3], [1, 1], [1, 1], [0, 0]), 1),
        // The window is larger than the image, and some see nothing of it.
        shape(image(2, 2, 3), image(8, 8, 5), window([3, 3], [2, 2], [1, 1], [7, 7]), 1),
        // Heavy enough for blocks of several tiles.
        shape(image(10, 10, 130), image(8, 8, 240), window([3, 3], [1, 1], [1, 1], [0, 0]), 1),
    ]
}

#[test]
fn convolutions_of_all_shapes_are_right() {
    let mut values = Values::new(5);
    for isa in Isa::available() {
        for shape in shapes() {
            let n = 2;
            let [height, width] = shape.window.kernel;
            let inputs = shape.input.channels / shape.groups;
            let outputs = shape.output.channels;
            let input = values.floats(n * shape.input.len() + 1);
            let weights = values.floats(outputs * height * width * inputs);
            let (bias, residual) = (values.floats(outputs), values.floats(n * shape.output.len()));
            let strides = WeightStrides::ohwi(height, width, inputs);
            let packed = PackedConv::new(isa, shape, &weights, strides);
            let epilogue = Epilogue {
                bias: Some(&bias),
                activation: Unary::Clamp(-2.0, 2.0),
                residual: Some(Rows { data: &residual, stride: outputs }),
                after: Unary::RELU,
            };
            let conv = ConvF32 { packed: &packed, epilogue };
            let mut out = vec![f32::NAN; n * shape.output.len()];
            let mut scratch = vec![0xa5; packed.scratch_bytes()];
            let rows = n * shape.output.pixels();
            let (cut, panel_cut) = (values.below(rows), values.below(packed.panels() + 1));
            let shared = SharedMut::new(&mut out);
            for rows in [0..cut, cut..rows] {
                for panels in [0..panel_cut, panel_cut..packed.panels()] {
                    // SAFETY: one thread.
                    unsafe { conv.run(rows.clone(), panels, &input[1..], shared, &mut scratch) };
                }
            }
            let want: Vec<f64> = naive(&shape, n, &input[1..], &weights, &bias)
                .iter()
                .zip(&residual)
                .map(|(&x, &r)| unary(Unary::RELU, x.clamp(-2.0, 2.0) + f64::from(r)))
                .collect();
            let bound = (height * width * inputs + 4) as f64 * 3e-7;
            assert_close(&format!("{isa:?} {shape:?}"), &out, &want, bound);
        }
    }
}

#[test]
fn winograds_convolutions_are_right() {
    let mut values = Values::new(8);
    for isa in Isa::available() {
        for (height, width, inputs, outputs, pad, grow) in [
            (8, 8, 16, 16, 1, 2),
            (9, 7, 17, 33, 1, 2),
            (6, 9, 5, 50, 0, 0),
            (1, 3, 20, 16, 2, 3),
            (20, 20, 65, 100, 1, 2),
        ] {
            let shape = ConvShape {
                input: image(height, width, inputs),
                output: image(height + grow - 2, width + grow - 2, outputs),
                window: window([3, 3], [1, 1], [1, 1], [pad, pad]),
                groups: 1,
            };
            let n = 2;
            let input = values.floats(n * shape.input.len() + 1);
            let weights = values.floats(outputs * 9 * inputs);
            let (bias, residual) = (values.floats(outputs), values.floats(n * shape.output.len()));
            let packed =
                PackedWinograd::new(isa, shape, &weights, WeightStrides::ohwi(3, 3, inputs));
            let exact = naive(&shape, n, &input[1..], &weights, &bias);
            for (activation, add) in
                [(Unary::Clamp(-2.0, 2.0), true), (Unary::RELU, false), (Unary::Tanh, true)]
            {
                let residual_rows = Rows { data: &residual, stride: outputs };
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    activation,
                    residual: add.then_some(residual_rows),
                    after: Unary::RELU,
                };
                let conv = WinogradF32 { packed: &packed, epilogue };
                let mut out = vec![f32::NAN; n * shape.output.len()];
                let mut scratch = vec![0xff; packed.scratch_bytes()];
                let tiles = n * packed.tiles();
                let cut = values.below(tiles + 1);
                let shared = SharedMut::new(&mut out);
                for tiles in [0..cut, cut..tiles] {
                    // SAFETY: one thread.
                    unsafe { conv.run(tiles, &input[1..], shared, &mut scratch) };
                }
                let want: Vec<f64> = exact
                    .iter()
                    .zip(&residual)
                    .map(|(&x, &r)| match add {
                        true => unary(Unary::RELU, unary(activation, x) + f64::from(r)),
                        false => unary(activation, x),
                    })
                    .collect();
                // As precise as sums by the definition are asked to be.
                let bound = (9 * inputs + 4) as f64 * 3e-7;
                assert_close(&format!("{isa:?} {shape:?}"), &out, &want, bound);
            }
        }
    }
}

#[test]
fn weights_in_either_order_pack_the_same() {
    let shape = ConvShape {
        input: image(4, 4, 6),
        output: image(4, 4, 10),
        window: window([3, 2], [1, 1], [1, 1], [1, 1]),
        groups: 2,
    };
    let ohwi = Values::new(6).floats(10 * 3 * 2 * 3);
    let mut oihw = vec![0.0; ohwi.len()];
    for o in 0..10 {
        for y in 0..3 {
            for x in 0..2 {
                for i in 0..3 {
                    oihw[((o * 3 + i) * 3 + y) * 2 + x] = ohwi[((o * 3 + y) * 2 + x) * 3 + i];
                }
            }
        }
    }
    let a = PackedConv::new(Isa::Portable, shape, &ohwi, WeightStrides::ohwi(3, 2, 3));
    let b = PackedConv::new(Isa::Portable, shape, &oihw, WeightStrides::oihw(3, 2, 3));
    assert_eq!(*a.data, *b.data);
}

#[test]
fn transposed_convolutions_are_right() {
    let mut values = Values::new(7);
    let shape = |input, output, window, groups| ConvShape { input, output, window, groups };
    let shapes = [
        shape(image(5, 4, 7), image(10, 8, 9), window([2, 2], [2, 2], [1, 1], [0, 0]), 1),
        shape(image(5, 4, 7), image(9, 7, 40), window([3, 3], [2, 2], [1, 1], [1, 1]), 1),
        shape(image(5, 6, 4), image(20, 18, 6), window([4, 3], [4, 3], [1, 1], [0, 0]), 2),
        shape(image(5, 6, 3), image(9, 10, 5), window([3, 3], [1, 1], [2, 2], [0, 0]), 1),
        // A stride beyond the kernel: some outputs are bias alone.
        shape(image(3, 3, 3), image(11, 12, 5), window([2, 1], [4, 4], [1, 1], [0, 0]), 1),
        shape(image(4, 4, 3), image(8, 9, 5), window([5, 5], [2, 2], [3, 1], [6, 2]), 1),
    ];
    for isa in Isa::available() {
        for shape in shapes {
            let n = 2;
            let [height, width] = shape.window.kernel;
            let (inputs, outputs) =
                (shape.input.channels / shape.groups, shape.output.channels / shape.groups);
            let input = values.floats(n * shape.input.len());
            let weights = values.floats(shape.output.channels * height * width * inputs);
            let (bias, residual) =
                (values.floats(shape.output.channels), values.floats(n * shape.output.len()));
            let strides = WeightStrides::ohwi(height, width, inputs);
            let group_stride = outputs * strides.output;
            let packed = PackedConvTransposed::new(isa, shape, &weights, strides, group_stride);
            let epilogue = Epilogue {
                bias: Some(&bias),
                activation: Unary::Tanh,
                residual: Some(Rows { data: &residual, stride: shape.output.channels }),
                after: Unary::RELU,
            };
            let conv = ConvTransposedF32 { packed: &packed, epilogue };
            let mut out = vec![f32::NAN; n * shape.output.len()];
            let mut scratch = vec![0xa5; packed.scratch_bytes()];
            let lines = n * shape.output.height;
            let cut = values.below(lines);
            let shared = SharedMut::new(&mut out);
            for lines in [0..cut, cut..lines] {
                // SAFETY: one thread.
                unsafe { conv.run(lines, &input, shared, &mut scratch) };
            }
            let want: Vec<f64> = naive_transposed(&shape, n, &input, &weights, &bias)
                .iter()
                .zip(&residual)
                .map(|(&x, &r)| unary(Unary::RELU, x.tanh() + f64::from(r)))
                .collect();
            assert_close(&format!("{isa:?} {shape:?}"), &out, &want, 2e-5);
        }
    }
}

#[test]
fn a_transposed_convolution_of_stride_1_is_a_convolution_by_the_turned_kernel() {
    let mut values = Values::new(8);
    let shape = |input, output, window, groups| ConvShape { input, output, window, groups };
    let taps = |kernel, dilation, padding| window(kernel, [1, 1], dilation, padding);
    let shapes = [
        shape(image(5, 6, 7), image(5, 6, 9), taps([1, 1], [1, 1], [0, 0]), 1),
        shape(image(5, 6, 3), image(5, 6, 5), taps([3, 3], [1, 1], [1, 1]), 1),
        shape(image(5, 6, 3), image(7, 7, 5), taps([3, 2], [1, 1], [0, 0]), 1),
        // Padded above by all that the kernel reaches, and below by nothing.
        shape(image(5, 6, 4), image(7, 5, 6), taps([5, 3], [1, 2], [2, 4]), 2),
        shape(image(5, 6, 6), image(5, 6, 6), taps([3, 3], [1, 1], [1, 1]), 6),
    ];
    for shape in shapes {
        let [height, width] = shape.window.kernel;
        let inputs = shape.input.channels / shape.groups;
        let strides = WeightStrides::ohwi(height, width, inputs);
        let group_stride = shape.output.channels / shape.groups * strides.output;
        let input = values.floats(2 * shape.input.len());
        let weights = values.floats(shape.output.channels * height * width * inputs);
        let bias = values.floats(shape.output.channels);
        let (conv, turned, order) = turned(shape, &weights, strides, group_stride).unwrap();
        assert_eq!(order, strides, "{shape:?}");
        let want = naive_transposed(&shape, 2, &input, &weights, &bias);
        let found: Vec<f32> =
            naive(&conv, 2, &input, &turned, &bias).iter().map(|v| *v as f32).collect();
        assert_close(&format!("{shape:?}"), &found, &want, 1e-6);
    }
    let strided = shape(image(3, 3, 2), image(5, 5, 2), window([1, 1], [2, 2], [1, 1], [0, 0]), 1);
    // Pixels beyond all windows; padding beyond them.
    let longer = shape(image(3, 3, 2), image(4, 3, 2), Window::plain(1, 1), 1);
    let cut = shape(image(5, 5, 2), image(3, 3, 2), taps([1, 1], [1, 1], [1, 1]), 1);
    for shape in [strided, longer, cut] {
        let strides = WeightStrides::ohwi(1, 1, 2);
        assert!(turned(shape, &[1.0; 4], strides, 4).is_none(), "{shape:?}");
    }
}
