//! Quantised ops run by kernels give exactly what their reference implementations give, on every
//! instruction set this CPU has and on one thread as on three.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::conv::{Conv, ConvTranspose};
use kinglet_graph::ops::quantized::{
    Clamp, Dequantize, HybridConv, HybridMatMul, QBinary, QBinaryKind, QConv, QConvAdd,
    QConvTranspose, QFunction, QLstm, QMatMul, QPool, QPoolKind, QReduce, QReduceKind, QSoftmax,
    QSvdf, QUnary, Quantize, Rescale, RoundTo,
};
use kinglet_graph::ops::resize::Resize;
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{DType, Graph, Op, Quant, Shape, Tensor, ValueType, interpret};
use kinglet_kernels::isa::Isa;
use kinglet_runtime::{Plan, PlanOptions};
use std::sync::Arc;

const FULL: Clamp = Clamp { low: -128, high: 127 };
const BYTES: Clamp = Clamp { low: 0, high: 255 };

fn number(i: usize, seed: usize) -> u64 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed as u64 * 7919);
    mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 33
}

fn per_tensor(scale: f32, zero_point: i32) -> Arc<Quant> {
    Arc::new(Quant::per_tensor(scale, zero_point))
}

/// Different scales along `axis`, symmetric.
fn along(axis: usize, len: usize) -> Arc<Quant> {
    let scale = (0..len).map(|i| 0.002 + 0.0001 * (i % 7) as f32).collect();
    Arc::new(Quant { scale, zero_point: vec![0; len], axis: Some(axis) })
}

fn bytes(dtype: DType, dims: &[usize], seed: usize, quant: &Arc<Quant>) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<u8> = (0..n).map(|i| number(i, seed) as u8).collect();
    let tensor = match dtype {
        DType::I8 => Tensor::from_slice(dims, &values.iter().map(|v| *v as i8).collect::<Vec<_>>()),
        _ => Tensor::from_slice(dims, &values),
    };
    tensor.unwrap().with_quant(Some(quant.clone()))
}

fn floats(dims: &[usize], seed: usize) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (number(i, seed) % 4001) as f32 / 100.0 - 20.0).collect();
    Tensor::from_slice(dims, &values).unwrap()
}

fn shorts(dims: &[usize], seed: usize, quant: &Arc<Quant>) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<i16> = (0..n).map(|i| (number(i, seed) % 20001) as i16 - 10000).collect();
    Tensor::from_slice(dims, &values).unwrap().with_quant(Some(quant.clone()))
}

fn biases(len: usize) -> Tensor {
    let values: Vec<i32> = (0..len).map(|i| (number(i, 3) % 4001) as i32 - 2000).collect();
    Tensor::from_slice(&[len], &values).unwrap()
}

enum In {
    Data(Tensor),
    Constant(Tensor),
}
use In::{Constant, Data};

/// Runs `op` by its kernel everywhere and compares with its reference implementation, for an
/// output of type `dtype` and quantisation `out`.
fn check(op: impl Op, inputs: Vec<In>, output: (DType, Option<&Arc<Quant>>)) {
    check_all(op, inputs.into_iter().map(Some).collect(), &[output]);
}

/// The same for several outputs, and inputs that may be left out.
fn check_all(op: impl Op, inputs: Vec<Option<In>>, outputs: &[(DType, Option<&Arc<Quant>>)]) {
    let what = format!("{op:?}");
    let mut graph = Graph::new("case");
    let (mut given, mut ids) = (Vec::new(), Vec::new());
    for (i, input) in inputs.into_iter().enumerate() {
        ids.push(match input {
            None => None,
            Some(Data(tensor)) => {
                let mut ty = ValueType::new(tensor.dtype(), tensor.dims());
                ty.quant = tensor.quant().cloned();
                given.push(tensor);
                Some(graph.add_input(format!("x{i}"), ty))
            }
            Some(Constant(tensor)) => Some(graph.add_constant(format!("w{i}"), tensor)),
        });
    }
    let mut results = Vec::new();
    for (i, (dtype, quant)) in outputs.iter().enumerate() {
        let mut ty = ValueType::new(*dtype, Shape::unknown());
        ty.quant = quant.cloned();
        results.push(graph.add_value(format!("y{i}"), ty));
    }
    graph.add_node("node", op, ids, results.clone());
    graph.outputs = results;
    kinglet_graph::infer(&mut graph, kinglet_graph::Fold::Shapes).unwrap();
    let want = interpret(&graph, &given).unwrap();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
            let mut plan = Plan::new(&graph, &options).unwrap();
            for step in plan.steps() {
                assert_ne!(step.kernel, "reference", "{what}: no kernel");
            }
            for (i, tensor) in given.iter().enumerate() {
                plan.set_input(i, &tensor.view()).unwrap();
            }
            // Twice: nothing of the first run may be left.
            for _ in 0..2 {
                plan.run().unwrap();
                for (i, want) in want.iter().enumerate() {
                    let got = plan.output(i);
                    assert_eq!((got.dtype, got.dims), (want.dtype(), want.dims()), "{what}");
                    let differs = got.bytes.iter().zip(want.bytes()).position(|(a, b)| a != b);
                    let place = format!("{what} {isa:?} {threads}: output {i}");
                    assert_eq!(differs, None, "{place}, the first byte that differs");
                }
            }
        }
    }
}

fn window(stride: usize, dilation: usize) -> Window {
    Window { stride: vec![stride; 2], dilation: vec![dilation; 2], padding: Padding::SameUpper }
}

fn conv(groups: usize, window: Window, weight_layout: WeightLayout, clamp: Clamp) -> QConv {
    QConv {
        window,
        groups,
        layout: Layout::ChannelsLast,
        weight_layout,
        to: if clamp == BYTES { DType::U8 } else { DType::I8 },
        clamp,
        rescale: Rescale::FixedPoint,
    }
}

#[test]
fn convolutions() {
    use WeightLayout::{InSpatialOut, OutInSpatial, OutSpatialIn};
    let (x, y) = (per_tensor(0.03, -7), per_tensor(0.5, -20));
    let image = |dims: &[usize]| Data(bytes(DType::I8, dims, 1, &x));
    let signed =
        |dims: &[usize], axis: usize| Constant(bytes(DType::I8, dims, 2, &along(axis, dims[axis])));
    let relu = Clamp { low: -20, high: 127 };
    check(
        conv(1, window(1, 1), OutSpatialIn, relu),
        vec![image(&[1, 9, 7, 5]), signed(&[20, 1, 1, 5], 0), Constant(biases(20))],
        (DType::I8, Some(&y)),
    );
    check(
        conv(1, window(2, 1), OutInSpatial, FULL),
        vec![image(&[2, 11, 13, 3]), signed(&[16, 3, 3, 3], 0)],
        (DType::I8, Some(&y)),
    );
    check(
        conv(3, window(1, 1), OutSpatialIn, FULL),
        vec![image(&[1, 5, 5, 6]), signed(&[9, 3, 3, 2], 0), Constant(biases(9))],
        (DType::I8, Some(&y)),
    );
    for stride in [1, 2] {
        check(
            conv(40, window(stride, 1), InSpatialOut, relu),
            vec![image(&[1, 9, 10, 40]), signed(&[1, 3, 3, 40], 3), Constant(biases(40))],
            (DType::I8, Some(&y)),
        );
    }
    check(
        conv(20, window(1, 2), OutInSpatial, FULL),
        vec![image(&[1, 9, 10, 20]), signed(&[20, 1, 3, 3], 0), Constant(biases(20))],
        (DType::I8, Some(&y)),
    );
    // One input channel, eight output channels.
    check(
        conv(1, window(2, 1), InSpatialOut, FULL),
        vec![image(&[1, 12, 12, 1]), signed(&[1, 5, 4, 8], 3), Constant(biases(8))],
        (DType::I8, Some(&y)),
    );
    check(
        conv(4, window(1, 1), InSpatialOut, FULL),
        vec![image(&[1, 6, 6, 4]), signed(&[1, 3, 3, 12], 3)],
        (DType::I8, Some(&y)),
    );

    // Unsigned, with a zero point of the weights.
    let (x, w, y) = (per_tensor(0.03, 120), per_tensor(0.002, 141), per_tensor(0.5, 100));
    let image = |dims: &[usize]| Data(bytes(DType::U8, dims, 1, &x));
    let weights = |dims: &[usize]| Constant(bytes(DType::U8, dims, 2, &w));
    check(
        conv(1, window(2, 1), OutSpatialIn, BYTES),
        vec![image(&[1, 9, 7, 16]), weights(&[24, 3, 3, 16]), Constant(biases(24))],
        (DType::U8, Some(&y)),
    );
    check(
        conv(24, window(1, 1), InSpatialOut, BYTES),
        vec![image(&[1, 7, 7, 24]), weights(&[1, 3, 3, 24]), Constant(biases(24))],
        (DType::U8, Some(&y)),
    );
    let float = QConv { rescale: Rescale::Float, ..conv(1, window(1, 1), OutSpatialIn, BYTES) };
    check(float, vec![image(&[1, 8, 8, 8]), weights(&[32, 1, 1, 8])], (DType::U8, Some(&y)));
}

#[test]
fn convolutions_with_a_residual() {
    use WeightLayout::{OutInSpatial, OutSpatialIn};
    let product = per_tensor(0.5, -20);
    let add =
        |clamp, rescale| QBinary { kind: QBinaryKind::Add, clamp, rescale, power_of_two: false };
    let (x, r, y) = (per_tensor(0.03, -7), per_tensor(0.4, 11), per_tensor(0.7, -5));
    let relu = Clamp { low: -5, high: 90 };
    // Few rows, which threads split by columns; many; channels that fill no vector.
    for (groups, size, inputs, outputs) in
        [(1, [7, 7], 40, 24), (1, [1, 1], 130, 1300), (1, [19, 18], 16, 96), (3, [5, 6], 6, 33)]
    {
        for rescale in [Rescale::FixedPoint, Rescale::Float] {
            for kernel in [1, 3] {
                let conv = QConv { rescale, ..conv(groups, window(1, 1), OutSpatialIn, FULL) };
                let sum = add(relu, rescale);
                let weights = [outputs, kernel, kernel, inputs / groups];
                let [h, w] = size;
                let op = QConvAdd { conv, product: product.clone(), sum };
                let inputs = [
                    Some(Data(bytes(DType::I8, &[2, h, w, inputs], 1, &x))),
                    Some(Constant(bytes(DType::I8, &weights, 2, &along(0, outputs)))),
                    (kernel == 1).then(|| Constant(biases(outputs))),
                    Some(Data(bytes(DType::I8, &[2, h, w, outputs], 4, &r))),
                ];
                check_all(op, inputs.into(), &[(DType::I8, Some(&y))]);
            }
        }
    }

    let (x, w, r) = (per_tensor(0.03, 120), per_tensor(0.002, 141), per_tensor(0.05, 255));
    let inputs = vec![
        Data(bytes(DType::U8, &[1, 9, 7, 16], 1, &x)),
        Constant(bytes(DType::U8, &[26, 16, 3, 3], 2, &w)),
        Constant(biases(26)),
        Data(bytes(DType::U8, &[1, 9, 7, 26], 4, &r)),
    ];
    let op = QConvAdd {
        conv: conv(1, window(1, 1), OutInSpatial, BYTES),
        product: per_tensor(0.03, 100),
        sum: add(BYTES, Rescale::FixedPoint),
    };
    check(op, inputs, (DType::U8, Some(&per_tensor(0.06, 130))));
}

#[test]
fn matrix_products() {
    let (a, y) = (per_tensor(0.03, 4), per_tensor(0.4, -1));
    for (rescale, transpose_b) in
        [(Rescale::FixedPoint, true), (Rescale::FixedPointOnce, true), (Rescale::Float, false)]
    {
        for rows in [1, 9] {
            let op =
                QMatMul { transpose_a: false, transpose_b, to: DType::I8, clamp: FULL, rescale };
            let (dims, axis) = if transpose_b { ([90, 130], 0) } else { ([130, 90], 1) };
            let inputs = vec![
                Data(bytes(DType::I8, &[rows, 130], 1, &a)),
                Constant(bytes(DType::I8, &dims, 2, &along(axis, 90))),
                Constant(biases(90)),
            ];
            check(op, inputs, (DType::I8, Some(&y)));
        }
    }
}

#[test]
fn accumulators_as_they_are() {
    let unit = per_tensor(1.0, 0);
    let image = |channels: usize| Data(bytes(DType::U8, &[2, 6, 5, channels], 1, &unit));
    let plain = Clamp::of(DType::I32).unwrap();
    let conv = |groups, layout| QConv {
        to: DType::I32,
        rescale: Rescale::None,
        ..conv(groups, window(1, 1), layout, plain)
    };
    let out = (DType::I32, Some(&unit));
    let weights = Constant(bytes(DType::I8, &[9, 3, 3, 7], 2, &along(0, 9)));
    check(conv(1, WeightLayout::OutSpatialIn), vec![image(7), weights], out);
    let weights = Constant(bytes(DType::U8, &[1, 3, 3, 20], 2, &per_tensor(1.0, 130)));
    check(conv(20, WeightLayout::InSpatialOut), vec![image(20), weights], out);
    let (to, rescale) = (DType::I32, Rescale::None);
    for rows in [1, 9] {
        let op = QMatMul { transpose_a: false, transpose_b: false, to, clamp: plain, rescale };
        let inputs = vec![
            Data(bytes(DType::U8, &[rows, 40], 1, &unit)),
            Constant(bytes(DType::I8, &[40, 33], 2, &along(1, 33))),
        ];
        check(op, inputs, out);
    }
}

#[test]
fn element_by_element() {
    let quants = [per_tensor(0.03, 4), per_tensor(0.05, -9), per_tensor(0.06, 3)];
    let cases: [(&[usize], &[usize]); 11] = [
        // Short lines, which are joined: with one that repeats, with single elements, with both.
        (&[300, 3], &[3]),
        (&[3], &[4, 301, 3]),
        (&[2, 40, 1], &[2, 40, 17]),
        (&[7, 40, 1], &[17]),
        (&[5, 1, 6], &[90, 1]),
        (&[2, 3, 70], &[2, 3, 70]),
        (&[2, 3, 70], &[70]),
        (&[1], &[2, 3, 70]),
        (&[3, 70], &[2, 3, 70]),
        (&[2, 1, 70], &[3, 1]),
        (&[2, 3, 1], &[2, 3, 70]),
    ];
    for (a, b) in cases {
        for kind in [QBinaryKind::Add, QBinaryKind::Sub, QBinaryKind::Mul] {
            for rescale in [Rescale::FixedPoint, Rescale::Float] {
                let op = QBinary { kind, clamp: FULL, rescale, power_of_two: false };
                let a = Data(bytes(DType::I8, a, 1, &quants[0]));
                let b = Data(bytes(DType::I8, b, 2, &quants[1]));
                check(op, vec![a, b], (DType::I8, Some(&quants[2])));
            }
        }
        let op = QBinary {
            kind: QBinaryKind::Div,
            clamp: Clamp { low: 10, high: 250 },
            rescale: Rescale::Float,
            power_of_two: false,
        };
        let zero = per_tensor(0.05, 120);
        let a = Data(bytes(DType::U8, a, 1, &zero));
        let b = Data(bytes(DType::U8, b, 2, &zero));
        check(op, vec![a, b], (DType::U8, Some(&per_tensor(0.25, 100))));
    }
    let (fine, full) = (per_tensor(0.001, 0), Clamp { low: -32768, high: 32767 });
    for kind in [QBinaryKind::Add, QBinaryKind::Max, QBinaryKind::SquaredDifference] {
        let op = QBinary { kind, clamp: full, rescale: Rescale::FixedPoint, power_of_two: false };
        let of = |dims: &[usize], seed| Data(shorts(dims, seed, &fine));
        check(op, vec![of(&[4, 33], 1), of(&[4, 1], 2)], (DType::I16, Some(&fine)));
    }
    for (function, to, clamp) in [
        (QFunction::Identity, DType::I8, FULL),
        (QFunction::Identity, DType::I32, Clamp { low: i32::MIN, high: i32::MAX }),
        (QFunction::Logistic, DType::I16, full),
        (QFunction::LeakyRelu { alpha: 0.3 }, DType::I16, full),
    ] {
        let op = QUnary { function, to, clamp, rescale: Rescale::FixedPoint };
        check(op, vec![Data(shorts(&[5, 77], 1, &fine))], (to, Some(&per_tensor(0.01, 0))));
    }
    let x = || Data(bytes(DType::I8, &[5, 77], 1, &quants[0]));
    for function in [QFunction::Identity, QFunction::HardSwish, QFunction::Tanh] {
        let op = QUnary { function, to: DType::I8, clamp: FULL, rescale: Rescale::FixedPoint };
        check(op, vec![x()], (DType::I8, Some(&quants[1])));
    }
    check(Dequantize, vec![x()], (DType::F32, None));
    for round in [RoundTo::AwayFromZero, RoundTo::Even] {
        let op = Quantize { to: DType::U8, round };
        check(op, vec![Data(floats(&[5, 77], 4))], (DType::U8, Some(&per_tensor(0.125, 100))));
    }
}

#[test]
fn pools_means_and_softmax() {
    let q = per_tensor(0.04, -3);
    let x = |dims: &[usize]| Data(bytes(DType::I8, dims, 1, &q));
    for kind in [QPoolKind::Average, QPoolKind::Max] {
        let op = QPool {
            kind,
            kernel: vec![3, 2],
            window: window(2, 1),
            layout: Layout::ChannelsLast,
            clamp: FULL,
            rescale: Rescale::FixedPoint,
        };
        check(op, vec![x(&[2, 9, 8, 70])], (DType::I8, Some(&q)));
    }
    for (kind, axes) in [(QReduceKind::Mean, vec![1, 2]), (QReduceKind::Sum, vec![-1])] {
        let op = QReduce { kind, axes, keep_dims: false, rescale: Rescale::FixedPoint };
        check(op, vec![x(&[2, 7, 7, 40])], (DType::I8, Some(&per_tensor(0.3, 11))));
    }
    let op = QSoftmax { beta: 1.0, to: DType::I8, rescale: Rescale::FixedPoint };
    check(op, vec![x(&[6, 90])], (DType::I8, Some(&per_tensor(1.0 / 256.0, -128))));
}

#[test]
fn concatenations_rescale_unsigned_bytes() {
    let quants = [per_tensor(0.03, 100), per_tensor(0.05, 9), per_tensor(0.06, 120)];
    for axis in [-1, 1, 0] {
        let sizes: [&[usize]; 3] = match axis {
            -1 => [&[2, 3, 40], &[2, 3, 7], &[2, 3, 1]],
            1 => [&[2, 3, 40], &[2, 1, 40], &[2, 2, 40]],
            _ => [&[2, 3, 40], &[1, 3, 40], &[3, 3, 40]],
        };
        let parts = sizes.iter().zip(&quants).enumerate();
        let parts = parts.map(|(i, (dims, quant))| Data(bytes(DType::U8, dims, i, quant)));
        check(Concat { axis }, parts.collect(), (DType::U8, Some(&quants[1])));
    }
    let parts = [1, 2].map(|seed| Data(floats(&[5, 9], seed)));
    check(Concat { axis: 1 }, parts.into(), (DType::F32, None));
}

#[test]
fn images_of_bytes_resize() {
    let sizes = |h: i32, w: i32| Constant(Tensor::from_slice(&[2], &[h, w]).unwrap());
    let q = per_tensor(0.04, -3);
    for dtype in [DType::I8, DType::U8] {
        for (align, half) in [(false, false), (true, false), (false, true)] {
            for (h, w) in [(11, 14), (3, 4), (1, 1)] {
                let x = Data(bytes(dtype, &[2, 6, 7, 5], 1, &q));
                let inputs = vec![Some(x), None, None, Some(sizes(h, w))];
                let op = Resize::tflite_bilinear(align, half);
                check_all(op, inputs, &[(dtype, Some(&q))]);
            }
        }
    }
}

#[test]
fn floats_times_bytes() {
    let float_bias =
        |len: usize| Constant(Tensor::from_slice(&[len], &vec![0.375f32; len]).unwrap());
    let conv = |groups, weight_layout, stride| HybridConv {
        conv: Conv {
            window: window(stride, 1),
            groups,
            layout: Layout::ChannelsLast,
            weight_layout,
            activation: Activation::Relu,
        },
    };
    let one = per_tensor(0.02, 0);
    for (quant, stride) in [(&along(0, 12), 2), (&one, 1)] {
        let x = Data(floats(&[3, 9, 8, 5], 1));
        let w = Constant(bytes(DType::I8, &[12, 3, 3, 5], 2, quant));
        let op = conv(1, WeightLayout::OutSpatialIn, stride);
        check(op, vec![x, w, float_bias(12)], (DType::F32, None));
    }
    for quant in [&along(3, 20), &one] {
        let x = Data(floats(&[2, 9, 8, 20], 1));
        let w = Constant(bytes(DType::I8, &[1, 3, 3, 20], 2, quant));
        check(conv(20, WeightLayout::InSpatialOut, 1), vec![x, w], (DType::F32, None));
    }
    for asymmetric in [false, true] {
        let x = Data(floats(&[2, 3, 40], 1));
        let w = Constant(bytes(DType::I8, &[17, 40], 2, &along(0, 17)));
        let op = HybridMatMul { asymmetric, activation: Activation::None };
        check(op, vec![x, w, float_bias(17)], (DType::F32, None));
    }
}

#[test]
fn svdf() {
    let (x, y, w) = (per_tensor(0.03, -7), per_tensor(0.1, 5), per_tensor(0.004, 0));
    let (fine, memory) = (per_tensor(0.0005, 0), per_tensor(0.002, 0));
    for (rank, bias) in [(1, true), (2, false)] {
        let inputs = |time: Tensor, state: Tensor| {
            vec![
                Some(Data(bytes(DType::I8, &[2, 30], 1, &x))),
                Some(Constant(bytes(DType::I8, &[16, 30], 2, &w))),
                Some(Constant(time)),
                bias.then(|| Constant(biases(16 / rank))),
                Some(Data(state)),
            ]
        };
        let op = || QSvdf { rank, clamp: FULL };
        let (time, state) = (shorts(&[16, 9], 3, &fine), shorts(&[2, 144], 4, &memory));
        let outputs = [(DType::I8, Some(&y)), (DType::I16, Some(&memory))];
        check_all(op(), inputs(time, state), &outputs);
        let memory = per_tensor(0.5, 0);
        let time = bytes(DType::I8, &[16, 9], 3, &w);
        let state = bytes(DType::I8, &[2, 144], 4, &memory);
        let outputs = [(DType::I8, Some(&y)), (DType::I8, Some(&memory))];
        check_all(op(), inputs(time, state), &outputs);
    }
}

#[test]
fn lstms() {
    let (x, h, w) = (per_tensor(0.02, 9), per_tensor(0.008, -4), per_tensor(0.004, 0));
    let (cell, fine) = (per_tensor(2f32.powi(-11), 0), per_tensor(0.0001, 0));
    let (batch, steps, features) = (2, 3, 21);
    let case = |units: usize,
                coupled: bool,
                peephole: bool,
                projected: bool,
                normal: bool,
                time_major: bool| {
        let outputs = if projected { 6 } else { units };
        let mut all: Vec<Option<In>> = (0..24).map(|_| None).collect();
        let dims = if time_major { [steps, batch, features] } else { [batch, steps, features] };
        all[0] = Some(Data(bytes(DType::I8, &dims, 1, &x)));
        for gate in usize::from(coupled)..4 {
            let of = |columns, seed| Constant(bytes(DType::I8, &[units, columns], seed, &w));
            all[1 + gate] = Some(of(features, 10 + gate));
            all[5 + gate] = Some(of(outputs, 20 + gate));
            all[12 + gate] = Some(Constant(biases(units)));
            if normal {
                all[20 + gate] = Some(Constant(shorts(&[units], 30 + gate, &fine)));
            }
        }
        for i in if peephole { usize::from(coupled)..3 } else { 0..0 } {
            all[9 + i] = Some(Constant(shorts(&[units], 40 + i, &fine)));
        }
        if projected {
            all[16] = Some(Constant(bytes(DType::I8, &[outputs, units], 50, &w)));
            all[17] = Some(Constant(biases(outputs)));
        }
        all[18] = Some(Data(bytes(DType::I8, &[batch, outputs], 51, &h)));
        all[19] = Some(Data(shorts(&[batch, units], 52, &cell)));
        let op = QLstm {
            cell_clip: if coupled { 4.0 } else { 0.0 },
            projection_clip: if projected { 0.7 } else { 0.0 },
            time_major,
            gate_scales: normal.then_some([0.001, 0.002, 0.0015, 0.001]),
            hidden: if projected { (0.007, 5) } else { (0.008, -4) },
        };
        check_all(
            op,
            all,
            &[(DType::I8, Some(&h)), (DType::I8, Some(&h)), (DType::I16, Some(&cell))],
        );
    };
    case(10, false, false, false, false, false);
    case(10, true, true, false, false, true);
    case(10, false, true, true, false, true);
    // More than a thread's own scratch holds.
    case(300, false, false, true, true, false);
}

#[test]
fn products_of_16_bits() {
    let (x, y) = (per_tensor(0.001, 0), per_tensor(0.002, 0));
    let full = Clamp { low: -32768, high: 32767 };
    let wide = |len: usize| {
        let values: Vec<i64> = (0..len).map(|i| number(i, 3) as i64 * 7 - (1 << 33)).collect();
        Constant(Tensor::from_slice(&[len], &values).unwrap())
    };
    let conv = |groups, weight_layout, stride| QConv {
        to: DType::I16,
        ..conv(groups, window(stride, 1), weight_layout, full)
    };
    let image = |channels: usize| Data(shorts(&[2, 9, 8, channels], 1, &x));
    for bias in [wide(12), Constant(biases(12))] {
        let w = Constant(bytes(DType::I8, &[12, 3, 3, 5], 2, &along(0, 12)));
        let op = conv(1, WeightLayout::OutSpatialIn, 2);
        check(op, vec![image(5), w, bias], (DType::I16, Some(&y)));
    }
    let w = Constant(bytes(DType::I8, &[1, 3, 3, 20], 2, &along(3, 20)));
    check(conv(20, WeightLayout::InSpatialOut, 1), vec![image(20), w], (DType::I16, Some(&y)));
    for (transpose_b, dims) in [(true, [90, 700]), (false, [700, 90])] {
        let op = QMatMul {
            transpose_a: false,
            transpose_b,
            to: DType::I16,
            clamp: full,
            rescale: Rescale::FixedPointOnce,
        };
        let w = Constant(bytes(DType::I8, &dims, 2, &per_tensor(0.01, 0)));
        let inputs = vec![Data(shorts(&[3, 700], 1, &x)), w, wide(90)];
        check(op, inputs, (DType::I16, Some(&y)));
    }
}

#[test]
fn transposed_convolutions() {
    let geometry = |stride: usize, padding| ConvTranspose {
        window: Window { stride: vec![stride; 2], dilation: vec![1; 2], padding },
        output_padding: vec![0; 2],
        groups: 1,
        layout: Layout::ChannelsLast,
        weight_layout: WeightLayout::OutSpatialIn,
        activation: Activation::None,
    };
    let op = |stride, padding, to| QConvTranspose {
        geometry: geometry(stride, padding),
        to,
        clamp: if to == DType::U8 { BYTES } else { FULL },
        rescale: Rescale::FixedPoint,
    };
    let sizes = |h: i32, w: i32| Constant(Tensor::from_slice(&[2], &[h, w]).unwrap());
    let (x, y) = (per_tensor(0.03, -7), per_tensor(0.5, -20));
    for (stride, padding, size) in [
        (2, Padding::SameUpper, (12, 14)),
        (1, Padding::SameUpper, (6, 7)),
        (3, Padding::Valid, (18, 21)),
    ] {
        let inputs = vec![
            Some(Data(bytes(DType::I8, &[2, 6, 7, 9], 1, &x))),
            Some(Constant(bytes(DType::I8, &[10, 3, 3, 9], 2, &along(0, 10)))),
            Some(Constant(biases(10))),
            Some(sizes(size.0, size.1)),
        ];
        check_all(op(stride, padding, DType::I8), inputs, &[(DType::I8, Some(&y))]);
    }
    let (x, w, y) = (per_tensor(0.03, 120), per_tensor(0.002, 141), per_tensor(0.5, 100));
    let inputs = vec![
        Some(Data(bytes(DType::U8, &[1, 5, 4, 20], 1, &x))),
        Some(Constant(bytes(DType::U8, &[33, 2, 2, 20], 2, &w))),
        None,
        Some(sizes(10, 8)),
    ];
    check_all(op(2, Padding::Valid, DType::U8), inputs, &[(DType::U8, Some(&y))]);
}
