//! Float ops run by kernels give what their reference implementations give, on every instruction
//! set this CPU has and on one thread as on three.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::batch_norm::{BatchNormGradient, BatchNormTraining};
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::conv::{Conv, ConvTranspose, ConvWeightGradient};
use kinglet_graph::ops::fake_quantize::{FakeEncode, FakeQuantize, FakeQuantizeGradient, Integers};
use kinglet_graph::ops::loss::{ClassLoss, LossReduction};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::{BatchNorm, GroupNorm, LayerNorm, RmsNorm};
use kinglet_graph::ops::pool::{GlobalPool, Pool, PoolKind};
use kinglet_graph::ops::reduce::{Reduce, ReduceKind};
use kinglet_graph::ops::resize::{Coordinates, Interpolation, Resize};
use kinglet_graph::ops::rows::{Linear, LinearTranspose};
use kinglet_graph::ops::soft_loss::{SoftLoss, SoftLossGradient};
use kinglet_graph::ops::softmax::{LogSoftmax, Softmax};
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::{Slope, Unary};
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{DType, Encoding, Graph, Op, Tensor, TensorView, ValueType, interpret};
use kinglet_kernels::isa::Isa;
use kinglet_runtime::{Plan, PlanOptions};

fn data(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let value = |i: usize| {
        let mixed = (i + seed * 7919).wrapping_mul(2_654_435_761) >> 7;
        (mixed % 2000) as f32 / 1000.0 - 1.0
    };
    Tensor::from_slice(dims, &(0..n).map(value).collect::<Vec<_>>()).unwrap()
}

/// An input of a case: sizes, and whether it is a constant.
enum In {
    Data(&'static [usize]),
    Constant(&'static [usize]),
    /// Rounded to bf16; the first is data, the second a constant.
    Rounded(&'static [usize]),
    RoundedConstant(&'static [usize]),
    Ints(&'static [i64]),
    None,
}
use In::{Constant, Data, Ints, Rounded, RoundedConstant};

fn rounded(tensor: &Tensor) -> Tensor {
    Tensor::encode(DType::BF16, tensor.dims(), tensor.slice().unwrap()).unwrap()
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    let mut all = vec![0.0; view.len()];
    view.decode(0, &mut all).unwrap();
    all
}

/// Runs `op` by its kernel everywhere and compares with its reference implementation.
fn check(op: impl Op + Clone, inputs: &[In]) {
    check_all(op, inputs, 1);
}

/// The same for an op of several outputs.
fn check_all(op: impl Op + Clone, inputs: &[In], outputs: usize) {
    let mut graph = Graph::new("case");
    let mut given = Vec::new();
    let mut ids = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        ids.push(match input {
            Data(dims) => {
                given.push(data(dims, i));
                Some(graph.add_input(format!("x{i}"), ValueType::new(DType::F32, *dims)))
            }
            Constant(dims) => Some(graph.add_constant(format!("w{i}"), data(dims, i))),
            Rounded(dims) => {
                given.push(rounded(&data(dims, i)));
                Some(graph.add_input(format!("x{i}"), ValueType::new(DType::BF16, *dims)))
            }
            RoundedConstant(dims) => {
                Some(graph.add_constant(format!("w{i}"), rounded(&data(dims, i))))
            }
            Ints(v) => Some(
                graph.add_constant(format!("i{i}"), Tensor::from_slice(&[v.len()], v).unwrap()),
            ),
            In::None => None,
        });
    }
    let what = format!("{op:?}");
    let unknown = || ValueType::new(DType::F32, kinglet_graph::Shape::unknown());
    let ys: Vec<_> = (0..outputs).map(|i| graph.add_value(format!("y{i}"), unknown())).collect();
    graph.add_node("node", op, ids, ys.clone());
    graph.outputs = ys;
    let want = interpret(&graph, &given).unwrap();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
            let mut plan = Plan::new(&graph, &options).unwrap();
            for step in plan.steps() {
                assert_ne!(step.kernel, "reference", "{what}: no kernel");
            }
            // Twice: nothing of the first run may be left.
            for _ in 0..2 {
                for (i, tensor) in given.iter().enumerate() {
                    plan.set_input(i, &tensor.view()).unwrap();
                }
                plan.run().unwrap();
                for (output, want) in want.iter().enumerate() {
                    let got = plan.output(output);
                    assert_eq!(got.dims, want.dims(), "{what}");
                    let pairs = floats(&got).into_iter().zip(floats(&want.view()));
                    for (i, (got, want)) in pairs.enumerate() {
                        let close = (got - want).abs() <= 2e-6 * want.abs().max(4.0)
                            || got.is_nan() && want.is_nan();
                        assert!(close, "{what} {isa:?} {threads}: {output}[{i}] {got}, not {want}");
                    }
                }
            }
        }
    }
}

fn window(stride: usize, dilation: usize, padding: Padding) -> Window {
    Window { stride: vec![stride; 2], dilation: vec![dilation; 2], padding }
}

fn conv(groups: usize, window: Window, weight_layout: WeightLayout) -> Conv {
    Conv {
        window,
        groups,
        layout: Layout::ChannelsLast,
        weight_layout,
        activation: Activation::Relu6,
    }
}

#[test]
fn convolutions() {
    use WeightLayout::{InSpatialOut, OutInSpatial, OutSpatialIn};
    let same = || window(1, 1, Padding::SameUpper);
    check(conv(1, same(), OutSpatialIn), &[Data(&[1, 9, 7, 5]), Constant(&[20, 1, 1, 5])]);
    check(
        conv(1, window(2, 1, Padding::SameUpper), OutInSpatial),
        &[Data(&[2, 30, 31, 3]), Constant(&[16, 3, 3, 3]), Constant(&[16])],
    );
    let residual =
        [Data(&[1, 20, 20, 8]), Constant(&[40, 3, 3, 8]), Data(&[40]), Data(&[1, 20, 20, 40])];
    check(conv(1, same(), OutSpatialIn), &residual);
    check(
        conv(2, window(1, 2, Padding::Valid), OutSpatialIn),
        &[Data(&[1, 9, 9, 8]), Constant(&[6, 3, 3, 4])],
    );
    let odd = Padding::Explicit { before: vec![2, 0], after: vec![0, 1] };
    check(
        conv(24, window(2, 1, odd), InSpatialOut),
        &[Data(&[2, 15, 14, 24]), Constant(&[1, 3, 3, 24]), Constant(&[24])],
    );
    check(conv(70, same(), InSpatialOut), &[Data(&[1, 2, 2, 70]), Constant(&[1, 5, 5, 70])]);
    check(conv(3, same(), InSpatialOut), &[Data(&[1, 8, 8, 3]), Constant(&[1, 3, 3, 12])]);
    let line = Conv {
        window: Window { stride: vec![2], dilation: vec![1], padding: Padding::SameLower },
        ..conv(1, same(), OutSpatialIn)
    };
    check(line, &[Data(&[1, 33, 20]), Constant(&[10, 3, 20])]);
    let function = Conv {
        activation: Activation::Function(Unary::HardSwish),
        ..conv(1, same(), OutSpatialIn)
    };
    check(function, &residual);
}

#[test]
fn convolutions_of_many_channels_take_winograds() {
    use WeightLayout::{OutInSpatial, OutSpatialIn};
    let same = || window(1, 1, Padding::SameUpper);
    check(
        conv(1, same(), OutInSpatial),
        &[Data(&[2, 10, 9, 16]), Constant(&[20, 16, 3, 3]), Constant(&[20])],
    );
    let residual =
        [Data(&[1, 12, 12, 18]), Constant(&[16, 3, 3, 18]), Data(&[16]), Data(&[1, 12, 12, 16])];
    check(conv(1, window(1, 1, Padding::SameLower), OutSpatialIn), &residual);
    let mut graph = Graph::new("chosen");
    let x = graph.add_input("x", ValueType::new(DType::F32, &[1, 12, 12, 18][..]));
    let w = graph.add_constant("w", data(&[16, 3, 3, 18], 1));
    let y = graph.add_value("y", ValueType::new(DType::F32, kinglet_graph::Shape::unknown()));
    graph.add_node("node", conv(1, same(), OutSpatialIn), vec![Some(x), Some(w)], vec![y]);
    graph.outputs = vec![y];
    let plan = Plan::new(&graph, &PlanOptions::default()).unwrap();
    let step = plan.steps().next().unwrap();
    assert!(step.kernel.starts_with("winograd conv"), "{}", step.kernel);
    assert!(step.why.contains("16 products"), "{}", step.why);
}

#[test]
fn integers_become_floats() {
    let mut graph = Graph::new("cast");
    let values = [0, 1, -1, 255, i32::MAX, i32::MIN, 16_777_217, -16_777_219];
    let x = graph.add_input("x", ValueType::new(DType::I32, &[values.len()][..]));
    let y = graph.add_value("y", ValueType::new(DType::F32, kinglet_graph::Shape::unknown()));
    graph.add_node("node", Cast::new(DType::F32), vec![Some(x)], vec![y]);
    graph.outputs = vec![y];
    let given = Tensor::from_slice(&[values.len()], &values).unwrap();
    let want = interpret(&graph, std::slice::from_ref(&given)).unwrap();
    let mut plan = Plan::new(&graph, &PlanOptions::default()).unwrap();
    assert_eq!(plan.steps().next().unwrap().kernel, "i32 to floats");
    plan.set_input(0, &given.view()).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.output(0).slice::<f32>().unwrap(), want[0].slice::<f32>().unwrap());
}

#[test]
fn transposed_convolutions() {
    let op = ConvTranspose {
        window: window(2, 1, Padding::SameUpper),
        output_padding: vec![0, 0],
        groups: 1,
        layout: Layout::ChannelsLast,
        weight_layout: WeightLayout::OutSpatialIn,
        activation: Activation::Relu,
    };
    let inputs = [Data(&[1, 10, 11, 7]), Constant(&[9, 3, 3, 7]), Constant(&[9]), Ints(&[20, 22])];
    check(op.clone(), &inputs);
    let explicit = Padding::Explicit { before: vec![1, 0], after: vec![0, 1] };
    let op = ConvTranspose {
        window: window(3, 1, explicit),
        output_padding: vec![1, 0],
        groups: 2,
        weight_layout: WeightLayout::InOutSpatial,
        ..op
    };
    check(op, &[Data(&[2, 4, 5, 6]), Constant(&[6, 5, 4, 3])]);
}

#[test]
fn transposed_convolutions_without_strides_are_convolutions() {
    let around = |n: usize| Padding::Explicit { before: vec![n; 2], after: vec![n; 2] };
    let op = |stride, groups, padding| ConvTranspose {
        window: window(stride, 1, padding),
        output_padding: vec![0, 0],
        groups,
        layout: Layout::ChannelsLast,
        weight_layout: WeightLayout::InOutSpatial,
        activation: Activation::Relu6,
    };
    let cases: [(_, &[In], _); 6] = [
        (op(1, 1, around(0)), &[Data(&[2, 6, 5, 20]), Constant(&[20, 33, 1, 1])], "conv"),
        (op(1, 1, around(1)), &[Data(&[2, 6, 5, 3]), Constant(&[3, 5, 3, 3])], "conv"),
        (op(1, 1, around(1)), &[Data(&[2, 9, 9, 20]), Constant(&[20, 16, 3, 3])], "winograd conv"),
        (op(1, 2, around(0)), &[Data(&[2, 6, 5, 4]), Constant(&[4, 5, 3, 3])], "conv"),
        (op(1, 20, around(1)), &[Data(&[2, 6, 5, 20]), Constant(&[20, 1, 3, 3])], "depthwise"),
        // Each channel by itself, and strides.
        (
            op(2, 20, around(1)),
            &[Data(&[2, 6, 5, 20]), Constant(&[20, 1, 3, 3]), Constant(&[20]), Ints(&[12, 9])],
            "direct conv",
        ),
    ];
    for (op, inputs, kernel) in cases {
        let mut graph = Graph::new("chosen");
        let ids = inputs.iter().enumerate().map(|(i, input)| match input {
            Data(dims) => Some(graph.add_input("x", ValueType::new(DType::F32, *dims))),
            Constant(dims) => Some(graph.add_constant("w", data(dims, i))),
            Ints(v) => Some(graph.add_constant("i", Tensor::from_slice(&[v.len()], v).unwrap())),
            Rounded(_) | RoundedConstant(_) | In::None => None,
        });
        let ids = ids.collect();
        let y = graph.add_value("y", ValueType::new(DType::F32, kinglet_graph::Shape::unknown()));
        graph.add_node("node", op.clone(), ids, vec![y]);
        graph.outputs = vec![y];
        let plan = Plan::new(&graph, &PlanOptions::default()).unwrap();
        let chosen = plan.steps().next().unwrap().kernel.to_owned();
        assert!(chosen.starts_with(kernel), "{op:?}: {chosen}");
        check(op, inputs);
    }
}

#[test]
fn products() {
    let op = MatMul::new();
    let turned = MatMul { transpose_b: true, activation: Activation::Relu, ..op };
    check(op, &[Data(&[40, 30]), Constant(&[30, 70])]);
    check(op, &[Data(&[2, 3, 40, 30]), Constant(&[30, 70]), Constant(&[70])]);
    check(turned, &[Data(&[1, 300]), Constant(&[200, 300]), Constant(&[200])]);
    check(turned, &[Data(&[5, 300]), Constant(&[200, 300]), Data(&[5, 200])]);
    check(op, &[Data(&[2, 8, 20, 16]), Data(&[2, 8, 16, 25])]);
    check(turned, &[Data(&[2, 8, 20, 16]), Data(&[2, 1, 25, 16])]);
    check(op, &[Data(&[90, 70]), Data(&[70, 80])]);
    check(op, &[Data(&[3, 9, 7]), Constant(&[3, 7, 8])]);
    check(MatMul { transpose_a: true, ..op }, &[Data(&[30, 40]), Constant(&[30, 50])]);
    check(MatMul { transpose_a: true, ..turned }, &[Data(&[6, 30, 9]), Data(&[6, 8, 30])]);
    check(op, &[Data(&[30]), Data(&[4, 30, 5])]);
    check(op, &[Data(&[4, 5, 30]), Data(&[30])]);
}

/// Factors of bf16, results of f32: rows of even and of odd lengths, of one term and of many.
#[test]
fn products_of_mixed_precision() {
    let op = MatMul { wide: true, ..MatMul::new() };
    let right = MatMul { transpose_b: true, activation: Activation::Relu, ..op };
    let left = MatMul { transpose_a: true, ..op };
    check(op, &[Rounded(&[40, 30]), Rounded(&[30, 70])]);
    check(op, &[Rounded(&[2, 3, 40, 31]), RoundedConstant(&[31, 70]), Constant(&[70])]);
    check(right, &[Rounded(&[5, 300]), Rounded(&[200, 300]), Data(&[5, 200])]);
    check(right, &[Rounded(&[2, 8, 20, 16]), Rounded(&[2, 1, 25, 16])]);
    check(left, &[Rounded(&[300, 40]), Rounded(&[300, 8])]);
    check(left, &[Rounded(&[33, 500]), Rounded(&[33, 50])]);
    check(left, &[Rounded(&[6, 31, 9]), Rounded(&[6, 31, 8])]);
    check(MatMul { transpose_a: true, ..right }, &[Rounded(&[6, 30, 9]), Rounded(&[6, 8, 30])]);
    check(op, &[Rounded(&[1]), Rounded(&[1, 3])]);
    let linear = Linear { activation: Activation::Function(Unary::Silu) };
    check(linear, &[Rounded(&[3, 7, 48]), Rounded(&[60, 48]), Data(&[60])]);
    check(linear, &[Rounded(&[21, 47]), RoundedConstant(&[60, 47])]);
    check(LinearTranspose, &[Rounded(&[70, 61]), Rounded(&[61, 48])]);
    check(LinearTranspose, &[Rounded(&[3, 7, 60]), RoundedConstant(&[60, 47])]);
}

#[test]
fn functions_and_broadcasts() {
    for f in [Unary::Sigmoid, Unary::HardSwish, Unary::Elu { alpha: 0.7 }, Unary::Floor] {
        check(f, &[Data(&[3, 5000])]);
    }
    for f in [BinaryFn::Add, BinaryFn::Mul, BinaryFn::Max, BinaryFn::PRelu] {
        let op = Binary { function: f, activation: Activation::Clamp { min: -0.5, max: 0.75 } };
        check(op, &[Data(&[7, 900]), Data(&[7, 900])]);
        check(op, &[Data(&[2, 30, 40, 24]), Constant(&[24])]);
        check(op, &[Constant(&[]), Data(&[2, 3000])]);
        check(op, &[Data(&[2, 30, 40, 24]), Data(&[2, 1, 1, 24])]);
        check(op, &[Data(&[2, 1, 40, 1]), Data(&[30, 1, 24])]);
        check(op, &[Data(&[50, 1]), Data(&[1, 60])]);
    }
}

#[test]
fn pools() {
    for kind in [
        PoolKind::Max,
        PoolKind::Average { include_padding: false },
        PoolKind::Average { include_padding: true },
        PoolKind::RootMeanSquare,
    ] {
        let padding = Padding::Explicit { before: vec![1, 0], after: vec![1, 2] };
        let op = Pool {
            kind,
            kernel: vec![3, 2],
            window: window(2, 1, padding),
            ceil: true,
            layout: Layout::ChannelsLast,
            activation: Activation::None,
        };
        check(op, &[Data(&[2, 20, 17, 19])]);
    }
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        for kind in [PoolKind::Max, PoolKind::Average { include_padding: false }] {
            check(GlobalPool { kind, layout }, &[Data(&[3, 7, 9, 40])]);
        }
    }
}

#[test]
fn softmaxes() {
    for axis in [-1, 1, 0] {
        check(Softmax { beta: 1.5, ..Softmax::new(axis) }, &[Data(&[30, 11, 20])]);
        check(LogSoftmax { axis, flatten: true }, &[Data(&[3, 11, 20])]);
    }
}

#[test]
fn slopes() {
    let some = [Unary::Silu, Unary::GeluTanh, Unary::Relu6, Unary::Sigmoid, Unary::HardSwish];
    for function in some {
        check(Slope { function }, &[Data(&[70, 90]), Data(&[70, 90])]);
    }
}

#[test]
fn losses_of_classes() {
    use LossReduction::{Mean, None, Sum};
    for (reduction, ignore) in [(None, Some(3)), (Sum, Option::None), (Mean, Some(-1))] {
        let op = ClassLoss { softmax: true, reduction, ignore };
        let targets: &[i64] = if ignore == Some(-1) { &[7, 0, -1, 300] } else { &[7, 0, 3, 300] };
        check(op, &[Data(&[4, 301]), Ints(targets)]);
    }
}

#[test]
fn losses_by_a_teacher() {
    let x: &[usize] = &[5, 301];
    for (mean, ignore, temperature) in
        [(false, Some(3), 1.0), (true, Some(3), 2.5), (true, None, 4.0)]
    {
        let loss = SoftLoss { temperature, mean, ignore };
        check(loss, &[Data(x), Data(x), Ints(&[7, 3, 0, 3, 1])]);
        check(loss, &[Data(x), Data(x)]);
        let op = SoftLossGradient { loss };
        check(op, &[Data(x), Data(x), Ints(&[7, 3, 0, 3, 1]), Data(&[])]);
        check(op, &[Data(x), Data(x), In::None, Data(&[])]);
    }
}

#[test]
fn rounding_in_training() {
    let encodings = Encoding::ALL.iter().map(|e| DType::Encoded(*e));
    for dtype in encodings.chain([DType::F16, DType::BF16]) {
        check(FakeEncode { dtype }, &[Data(&[70, 256])]);
    }
    let x: &[usize] = &[6, 50, 40];
    let sizes: [&[usize]; 4] = [&[], &[6], &[50], &[40]];
    for (i, dims) in sizes.into_iter().enumerate() {
        let axis = i.checked_sub(1);
        let integers = Integers::symmetric(3, axis).unwrap();
        let op = FakeQuantize { integers, learned: false };
        check(op, &[Data(x), Data(dims)]);
        check(op, &[Data(x), Data(dims), Data(dims)]);
        let op = FakeQuantizeGradient { integers };
        check(op, &[Data(x), Data(dims), In::None, Data(x)]);
        check_all(op, &[Data(x), Data(dims), Data(dims), Data(x)], 2);
    }
}

#[test]
fn convolutions_of_weights_that_are_trained() {
    use WeightLayout::{InSpatialOut, OutInSpatial, OutSpatialIn};
    let (layout, same) = (Layout::ChannelsLast, || window(2, 1, Padding::SameUpper));
    let gradient = |groups, kernel, weight_layout| ConvWeightGradient {
        window: same(),
        kernel,
        groups,
        layout,
        weight_layout,
    };
    let images = [Data(&[2, 9, 10, 20]), Data(&[20, 1, 3, 3])];
    check(conv(20, same(), OutInSpatial), &images);
    check(
        conv(1, same(), OutSpatialIn),
        &[Data(&[2, 9, 10, 3]), Data(&[16, 3, 3, 3]), Data(&[16])],
    );
    // What ends a residual block: the sum is part of the convolution.
    check(
        Conv { activation: Activation::Relu, ..conv(1, same(), OutSpatialIn) },
        &[Data(&[2, 9, 10, 3]), Data(&[16, 3, 3, 3]), Data(&[16]), Data(&[2, 5, 5, 16])],
    );
    check(gradient(20, vec![3, 3], OutInSpatial), &[Data(&[2, 9, 10, 20]), Data(&[2, 5, 5, 20])]);
    check(gradient(1, vec![3, 5], OutSpatialIn), &[Data(&[2, 9, 10, 3]), Data(&[2, 5, 5, 7])]);
    check(gradient(6, vec![3, 3], InSpatialOut), &[Data(&[2, 9, 10, 6]), Data(&[2, 5, 5, 6])]);
    let back = |groups, weight_layout: WeightLayout| ConvTranspose {
        window: window(2, 1, Padding::Explicit { before: vec![1, 1], after: vec![1, 1] }),
        output_padding: vec![0, 1],
        groups,
        layout,
        weight_layout: weight_layout.transposed(),
        activation: Activation::None,
    };
    check(back(1, OutInSpatial), &[Data(&[2, 5, 5, 7]), Data(&[7, 12, 3, 3])]);
    check(back(20, OutInSpatial), &[Data(&[2, 5, 5, 20]), Data(&[20, 1, 3, 3])]);
    check(back(6, InSpatialOut), &[Data(&[2, 5, 5, 6]), Data(&[1, 3, 3, 6])]);
}

#[test]
fn normalisations_by_the_batch() {
    let (layout, epsilon) = (Layout::ChannelsLast, 1e-3);
    let vector = || Data(&[21]);
    let op = BatchNormTraining { epsilon, momentum: 0.9, layout };
    check_all(op, &[Data(&[3, 7, 5, 21]), vector(), vector(), vector(), vector()], 3);
    let op = BatchNormGradient { epsilon, layout };
    check_all(op, &[Data(&[3, 7, 5, 21]), vector(), Data(&[3, 7, 5, 21])], 3);
}

#[test]
fn permutations() {
    check(Transpose, &[Data(&[2, 30, 40, 24]), Ints(&[0, 3, 1, 2])]);
    check(Transpose, &[Data(&[40, 50]), In::None]);
    check(Transpose, &[Data(&[3, 4, 5, 6, 7]), Ints(&[3, 0, 4, 1, 2])]);
}

#[test]
fn reductions() {
    use ReduceKind::*;
    for kind in [Sum, Mean, Max, Min, Product, L1, L2, SumSquare] {
        let op = Reduce { kind, keep_dims: false, none_by_default: false };
        check(op, &[Data(&[3, 40, 30]), Ints(&[-1])]);
        check(op, &[Data(&[3, 4, 5, 30]), Ints(&[1, 2])]);
        check(Reduce { keep_dims: true, ..op }, &[Data(&[20, 1, 3, 1]), Ints(&[0, 3])]);
        check(op, &[Data(&[6, 7])]);
    }
}

#[test]
fn normalisations() {
    check(
        LayerNorm { axis: -1, epsilon: 1e-3 },
        &[Data(&[3, 20, 65]), Constant(&[65]), Constant(&[65])],
    );
    check(LayerNorm { axis: 1, epsilon: 1e-3 }, &[Data(&[30, 8, 9]), Data(&[8, 9])]);
    check(RmsNorm { axis: -1, epsilon: 1e-3 }, &[Data(&[300, 64]), Constant(&[64])]);
    let layout = Layout::ChannelsLast;
    check(
        GroupNorm { groups: None, epsilon: 1e-3, layout },
        &[Data(&[3, 9, 9, 20]), Constant(&[20]), Data(&[20])],
    );
}

#[test]
fn batch_normalisation() {
    let op = BatchNorm { epsilon: 2.0, layout: Layout::ChannelsLast };
    let vector = || Constant(&[19]);
    check(op, &[Data(&[2, 9, 9, 19]), vector(), vector(), vector(), vector()]);
}

#[test]
fn resizes() {
    let sizes = |v| [Data(&[2, 9, 11, 7]), In::None, In::None, Ints(v)];
    for (align, half) in [(false, false), (true, false), (false, true)] {
        check(Resize::tflite_bilinear(align, half), &sizes(&[20, 5]));
        check(Resize::tflite_nearest(align, half), &sizes(&[20, 5]));
    }
    for interpolation in [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic] {
        for coordinates in [Coordinates::HalfPixel, Coordinates::AlignCorners] {
            let op = Resize {
                interpolation,
                coordinates,
                axes: Some(vec![1, 2]),
                cubic_coefficient: -0.75,
                ..Resize::default()
            };
            check(op, &sizes(&[20, 5]));
        }
    }
    let first = Resize {
        interpolation: Interpolation::Linear,
        antialias: true,
        axes: Some(vec![2, 3]),
        ..Resize::default()
    };
    check(first, &[Data(&[2, 3, 16, 18]), In::None, In::None, Ints(&[5, 7])]);
}
