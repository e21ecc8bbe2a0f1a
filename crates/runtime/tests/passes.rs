//! Each pass: what it makes of a small graph, and that results stay the same.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::{BatchNorm, RmsNorm};
use kinglet_graph::ops::pad::Pad;
use kinglet_graph::ops::pool::{GlobalPool, PoolKind};
use kinglet_graph::ops::quantize_linear::{DequantizeLinear, Granularity, QuantizeLinear};
use kinglet_graph::ops::quantized::{Clamp, QBinary, QBinaryKind, QConv, Rescale};
use kinglet_graph::ops::reduce::{Reduce, ReduceKind};
use kinglet_graph::ops::reshape::{Flatten, Identity};
use kinglet_graph::ops::resize::{Interpolation, Resize};
use kinglet_graph::ops::rows::{Linear, Linears, RowNorm};
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::softmax::Softmax;
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::{Clip, Unary};
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{DType, Graph, Op, Quant, Tensor, ValueId, ValueType, interpret};
use kinglet_kernels::encoding::Encoding;
use kinglet_runtime::{Plan, PlanOptions};
use std::sync::Arc;

fn input(g: &mut Graph, dims: &[usize]) -> ValueId {
    g.add_input("x", ValueType::new(DType::F32, dims))
}

fn ramp(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 25.0 - 2.0).collect();
    Tensor::from_slice(dims, &data).unwrap()
}

/// A plan of `g` that has run on `inputs`.
fn run(g: &Graph, inputs: &[Tensor]) -> Plan {
    let mut plan = Plan::new(g, &PlanOptions::default()).unwrap();
    for (i, tensor) in inputs.iter().enumerate() {
        plan.set_input(i, &tensor.view()).unwrap();
    }
    plan.run().unwrap();
    plan
}

/// The ops of the plan, after checking that it computes what the graph means.
fn ops_after(g: &Graph) -> Vec<String> {
    let inputs: Vec<Tensor> =
        g.inputs.iter().map(|v| ramp(&g.value(*v).ty.shape.fixed().unwrap())).collect();
    let want = interpret(g, &inputs).unwrap();
    let plan = run(g, &inputs);
    for (i, want) in want.iter().enumerate() {
        let (got, want) = (plan.output(i), want.view());
        assert_eq!(got.dims, want.dims);
        let pairs = got.slice::<f32>().unwrap().iter().zip(want.slice::<f32>().unwrap());
        for (got, want) in pairs {
            assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{got} for {want}");
        }
    }
    plan.graph().nodes().iter().map(|n| format!("{:?}", n.op)).collect()
}

#[test]
fn activations_join_the_op_before_and_clamps_each_other() {
    let mut g = Graph::new("activation");
    let x = input(&mut g, &[3, 5]);
    let sum = g.apply("sum", Binary::new(BinaryFn::Add), &[x, x], DType::F32);
    let relu = g.apply("relu", Unary::Relu, &[sum], DType::F32);
    let clamp = g.apply("clamp", Unary::Clamp { min: -1.0, max: 1.5 }, &[relu], DType::F32);
    g.outputs = vec![clamp];
    let fused =
        Binary { function: BinaryFn::Add, activation: Activation::Clamp { min: 0.0, max: 1.5 } };
    assert_eq!(ops_after(&g), [format!("{fused:?}")]);
    // A value that something else needs stays.
    g.outputs = vec![clamp, sum];
    assert_eq!(ops_after(&g).len(), 2);
}

#[test]
fn clips_of_constant_bounds_are_activations() {
    let mut g = Graph::new("clip");
    let x = input(&mut g, &[3, 5]);
    let sum = g.apply("sum", Binary::new(BinaryFn::Add), &[x, x], DType::F32);
    let low = g.add_constant("low", Tensor::scalar(-1.0f32));
    let high = g.add_constant("high", Tensor::scalar(1.5f32));
    let clip = g.apply("clip", Clip, &[sum, low, high], DType::F32);
    g.outputs = vec![clip];
    let fused =
        Binary { function: BinaryFn::Add, activation: Activation::Clamp { min: -1.0, max: 1.5 } };
    assert_eq!(ops_after(&g), [format!("{fused:?}")]);
}

#[test]
fn transposes_meet_cancel_and_become_views() {
    let mut g = Graph::new("transpose");
    let x = input(&mut g, &[2, 3, 4]);
    let p = g.add_constant("p", Tensor::from_slice(&[3], &[0i64, 2, 1]).unwrap());
    let a = g.apply("a", Transpose, &[x, p], DType::F32);
    let id = g.apply("id", Identity, &[a], DType::F32);
    let b = g.apply("b", Transpose, &[id, p], DType::F32);
    let y = g.apply("y", Unary::Abs, &[b], DType::F32);
    g.outputs = vec![y];
    assert_eq!(ops_after(&g), ["Abs"]);

    let mut g = Graph::new("ones");
    let x = input(&mut g, &[1, 6, 1, 1]);
    let p = g.add_constant("p", Tensor::from_slice(&[4], &[0i64, 2, 3, 1]).unwrap());
    let a = g.apply("a", Transpose, &[x, p], DType::F32);
    g.outputs = vec![a];
    assert_eq!(ops_after(&g), ["Reshape { allow_zero: true }"]);
}

fn constant(g: &mut Graph, dims: &[usize]) -> ValueId {
    let tensor = ramp(dims);
    g.add_constant("", tensor)
}

fn conv(layout: Layout, padding: Padding) -> Conv {
    Conv {
        window: Window { padding, ..Window::unit(2) },
        groups: 1,
        layout,
        weight_layout: WeightLayout::OutInSpatial,
        activation: Activation::None,
    }
}

fn same() -> Padding {
    Padding::Explicit { before: vec![1, 1], after: vec![1, 1] }
}

#[test]
fn a_residual_net_channels_first_turns_and_fuses_whole() {
    let mut g = Graph::new("residual");
    let x = input(&mut g, &[1, 4, 6, 5]);
    let (w1, b1) = (constant(&mut g, &[8, 4, 3, 3]), constant(&mut g, &[8, 1, 1]));
    let first = conv(Layout::ChannelsFirst, same());
    let y = g.apply("conv1", first.clone(), &[x, w1], DType::F32);
    let scale = constant(&mut g, &[1, 8, 1, 1]);
    let y = g.apply("scale", Binary::new(BinaryFn::Mul), &[y, scale], DType::F32);
    let y = g.apply("bias1", Binary::new(BinaryFn::Add), &[y, b1], DType::F32);
    let y = g.apply("relu1", Unary::Relu, &[y], DType::F32);
    let (w2, b2) = (constant(&mut g, &[8, 8, 3, 3]), constant(&mut g, &[8]));
    let z = g.apply("conv2", first, &[y, w2, b2], DType::F32);
    let mut norm = vec![z];
    norm.extend((0..3).map(|_| constant(&mut g, &[8])));
    norm.push(g.add_constant("variance", Tensor::from_slice(&[8], &[0.7f32; 8]).unwrap()));
    let layout = Layout::ChannelsFirst;
    let z = g.apply("norm", BatchNorm { epsilon: 1e-3, layout }, &norm, DType::F32);
    let z = g.apply("sum", Binary::new(BinaryFn::Add), &[z, y], DType::F32);
    let z = g.apply("relu2", Unary::Relu, &[z], DType::F32);
    let pool = GlobalPool {
        kind: PoolKind::Average { include_padding: false },
        layout: Layout::ChannelsFirst,
    };
    let p = g.apply("pool", pool, &[z], DType::F32);
    let flat = g.apply("flat", Flatten { axis: 1 }, &[p], DType::F32);
    let (w3, b3) = (constant(&mut g, &[8, 3]), constant(&mut g, &[3]));
    let out = g.apply("fc", MatMul::default(), &[flat, w3], DType::F32);
    let out = g.apply("fc_bias", Binary::new(BinaryFn::Add), &[out, b3], DType::F32);
    g.outputs = vec![out];
    let ops = ops_after(&g);
    let names: Vec<&str> = ops.iter().map(|op| op.split([' ', '{']).next().unwrap()).collect();
    assert_eq!(
        names,
        ["Transpose", "Conv", "Conv", "GlobalPool", "Reshape", "Flatten", "MatMul"],
        "{ops:#?}"
    );
    let joined = |op: &String| op.contains("ChannelsLast") && op.contains("activation: Relu");
    assert!(ops[1..3].iter().all(joined), "{ops:#?}");
}

#[test]
fn padding_joins_the_convolution() {
    let mut g = Graph::new("pad");
    let x = input(&mut g, &[1, 5, 5, 2]);
    let pads =
        g.add_constant("", Tensor::from_slice(&[4, 2], &[0i32, 0, 1, 2, 0, 1, 0, 0]).unwrap());
    let p = g.apply("pad", Pad::default(), &[x, pads], DType::F32);
    let w = constant(&mut g, &[3, 2, 2, 2]);
    let y = g.apply("conv", conv(Layout::ChannelsLast, Padding::Valid), &[p, w], DType::F32);
    g.outputs = vec![y];
    let ops = ops_after(&g);
    assert_eq!(ops.len(), 1, "{ops:?}");
    assert!(ops[0].contains("before: [1, 0], after: [2, 1]"), "{ops:?}");
}

/// x quantised and dequantised, its scales given as inputs of the ops, as ONNX files do.
fn through_codes(g: &mut Graph, x: ValueId, to: DType, scale: f32, zero: i32) -> ValueId {
    let granularity = Granularity { axis: 1, block_size: 0 };
    let scale = g.add_constant("", Tensor::scalar(scale));
    let zero = match to {
        DType::U8 => Tensor::scalar(zero as u8),
        _ => Tensor::scalar(zero as i8),
    };
    let zero = g.add_constant("", zero);
    let quantize = QuantizeLinear { granularity, to, precision: None, saturate: true };
    let codes = g.apply("q", quantize, &[x, scale, zero], to);
    let dequantize = DequantizeLinear { granularity, to: DType::F32 };
    g.apply("dq", dequantize, &[codes, scale, zero], DType::F32)
}

fn weight_codes(g: &mut Graph, dims: &[usize], scales: &[f32]) -> ValueId {
    let n: usize = dims.iter().product();
    let codes: Vec<i8> = (0..n).map(|i| ((i * 53 + 7) % 255) as u8 as i8).collect();
    let codes = g.add_constant("w", Tensor::from_slice(dims, &codes).unwrap());
    let scale = g.add_constant("", Tensor::from_slice(&[scales.len()], scales).unwrap());
    let granularity = Granularity { axis: 0, block_size: 0 };
    g.apply("w_dq", DequantizeLinear { granularity, to: DType::F32 }, &[codes, scale], DType::F32)
}

#[test]
fn quantised_float_ops_become_integer_ops() {
    let mut g = Graph::new("qdq");
    let x = input(&mut g, &[1, 2, 5, 5]);
    let x = through_codes(&mut g, x, DType::U8, 0.03, 77);
    let w = weight_codes(&mut g, &[3, 2, 3, 3], &[0.01, 0.02, 0.005]);
    let b = constant(&mut g, &[3]);
    let y = g.apply("conv", conv(Layout::ChannelsFirst, same()), &[x, w, b], DType::F32);
    let y = g.apply("relu", Unary::Relu, &[y], DType::F32);
    let y = through_codes(&mut g, y, DType::U8, 0.1, 3);
    let z = g.apply("sum", Binary::new(BinaryFn::Add), &[y, y], DType::F32);
    let z = through_codes(&mut g, z, DType::U8, 0.2, 0);
    let flat = g.apply("flat", Flatten { axis: 1 }, &[z], DType::F32);
    let flat = through_codes(&mut g, flat, DType::U8, 0.2, 0);
    let w = weight_codes(&mut g, &[4, 75], &[0.01]);
    let multiply = MatMul { transpose_b: true, ..MatMul::default() };
    let out = g.apply("fc", multiply, &[flat, w], DType::F32);
    let out = through_codes(&mut g, out, DType::I8, 0.5, -4);
    g.outputs = vec![out];
    let inputs = [ramp(&[1, 2, 5, 5])];
    let want = interpret(&g, &inputs).unwrap();
    let mut plan = Plan::new(&g, &PlanOptions::default()).unwrap();
    plan.set_input(0, &inputs[0].view()).unwrap();
    plan.run().unwrap();
    let names: Vec<_> = plan.graph().nodes().iter().map(|n| n.op.name()).collect();
    assert!(names.contains(&"QConv") && names.contains(&"QMatMul"), "{names:?}");
    let float = ["Conv", "MatMul", "Add", "Relu"];
    assert!(!names.iter().any(|n| float.contains(n)), "{names:?}");
    assert_eq!(names.iter().filter(|n| **n == "Dequantize").count(), 1, "{names:?}");
    // The one difference allowed is a code here or there that lies on the border of two.
    let steps = plan.output(0).slice::<f32>().unwrap().iter().zip(want[0].slice::<f32>().unwrap());
    for (got, want) in steps {
        assert!((got - want).abs() <= 0.5001, "{got} for {want}");
    }
}

#[test]
fn pads_slices_and_joins_turn_along() {
    let mut g = Graph::new("turn");
    let x = input(&mut g, &[1, 3, 6, 7]);
    let w = constant(&mut g, &[4, 3, 3, 3]);
    let y = g.apply("conv", conv(Layout::ChannelsFirst, same()), &[x, w], DType::F32);
    let ints =
        |g: &mut Graph, v: &[i64]| g.add_constant("", Tensor::from_slice(&[v.len()], v).unwrap());
    let pads = ints(&mut g, &[0, 1, 0, 2, 0, 0, 3, 0]);
    let padded = g.apply("pad", Pad::default(), &[y, pads], DType::F32);
    let (starts, ends, axes) =
        (ints(&mut g, &[1, 2]), ints(&mut g, &[4, -1]), ints(&mut g, &[1, -1]));
    let part = g.apply("slice", Slice, &[padded, starts, ends, axes], DType::F32);
    let (starts, ends) = (ints(&mut g, &[0, 0, 1]), ints(&mut g, &[1, 3, 7]));
    let other = g.apply("slice2", Slice, &[part, starts, ends], DType::F32);
    let join = g.apply("join", Concat { axis: 2 }, &[part, other], DType::F32);
    let w = constant(&mut g, &[2, 3, 3, 3]);
    let z = g.apply("conv2", conv(Layout::ChannelsFirst, same()), &[join, w], DType::F32);
    g.outputs = vec![z];
    let ops = ops_after(&g);
    assert_eq!(ops.iter().filter(|op| *op == "Transpose").count(), 2, "{ops:#?}");
}

#[test]
fn resizes_softmaxes_and_means_turn_along() {
    let mut g = Graph::new("turn");
    let x = input(&mut g, &[1, 3, 4, 5]);
    let w = constant(&mut g, &[4, 3, 3, 3]);
    let y = g.apply("conv", conv(Layout::ChannelsFirst, same()), &[x, w], DType::F32);
    let empty = g.add_constant("", Tensor::from_slice::<f32>(&[0], &[]).unwrap());
    let sizes = g.add_constant("", Tensor::from_slice(&[4], &[1i64, 4, 8, 9]).unwrap());
    let big = g.add_value("big", ValueType::new(DType::F32, kinglet_graph::Shape::unknown()));
    let resize = Resize { interpolation: Interpolation::Linear, ..Resize::default() };
    g.add_node("resize", resize, vec![Some(y), Some(empty), None, Some(sizes)], vec![big]);
    let soft = g.apply("soft", Softmax::new(1), &[big], DType::F32);
    let axes = g.add_constant("", Tensor::from_slice(&[2], &[2i64, -1]).unwrap());
    let mean = Reduce { kind: ReduceKind::Mean, keep_dims: false, none_by_default: false };
    let out = g.apply("mean", mean, &[soft, axes], DType::F32);
    g.outputs = vec![out];
    let ops = ops_after(&g);
    assert_eq!(ops.iter().filter(|op| *op == "Transpose").count(), 1, "{ops:#?}");
}

/// The ops of the plan of a graph on bytes, after checking that it computes exactly what the graph
/// means.
fn integer_ops_after(g: &Graph) -> Vec<&'static str> {
    let bytes = |v: &ValueId| {
        let ty = &g.value(*v).ty;
        let dims = ty.shape.fixed().unwrap();
        let n: usize = dims.iter().product();
        let data: Vec<i8> = (0..n).map(|i| (i * 37 + 11) as u8 as i8).collect();
        Tensor::from_slice(&dims, &data).unwrap().with_quant(ty.quant.clone())
    };
    let inputs: Vec<Tensor> = g.inputs.iter().map(bytes).collect();
    let want = interpret(g, &inputs).unwrap();
    let plan = run(g, &inputs);
    for (i, want) in want.iter().enumerate() {
        assert_eq!(plan.output(i).bytes, want.bytes());
    }
    for step in plan.steps() {
        assert!(!step.kernel.starts_with("reference"), "{}", step.kernel);
    }
    plan.graph().nodes().iter().map(|n| n.op.name()).collect()
}

struct Integers(Graph);

impl Integers {
    fn value(&mut self, op: impl Op, inputs: &[ValueId], scale: f32) -> ValueId {
        let y = self.0.apply("", op, inputs, DType::I8);
        self.0.value_mut(y).ty.quant = Some(Arc::new(Quant::per_tensor(scale, 3)));
        y
    }

    /// A convolution of `channels` channels, each its own group if `depthwise`.
    fn conv(&mut self, x: ValueId, channels: usize, layout: Layout, depthwise: bool) -> ValueId {
        let dims = [channels, if depthwise { 1 } else { channels }, 3, 3];
        let n: usize = dims.iter().product();
        let codes: Vec<i8> = (0..n).map(|i| ((i * 53 + 7) % 255) as u8 as i8).collect();
        let quant = Some(Arc::new(Quant::per_tensor(0.01, 0)));
        let w = Tensor::from_slice(&dims, &codes).unwrap().with_quant(quant);
        let w = self.0.add_constant("w", w);
        let conv = QConv {
            window: Window { stride: vec![1; 2], dilation: vec![1; 2], padding: same() },
            groups: if depthwise { channels } else { 1 },
            layout,
            weight_layout: WeightLayout::OutInSpatial,
            to: DType::I8,
            clamp: Clamp { low: -128, high: 127 },
            rescale: Rescale::FixedPoint,
        };
        self.value(conv, &[x, w], 0.4)
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let clamp = Clamp { low: -100, high: 127 };
        let (kind, rescale) = (QBinaryKind::Add, Rescale::FixedPoint);
        self.value(QBinary { kind, clamp, rescale, power_of_two: false }, &[a, b], 0.5)
    }
}

#[test]
fn sums_of_bytes_join_convolutions() {
    for (layout, dims) in
        [(Layout::ChannelsLast, [1, 6, 5, 8]), (Layout::ChannelsFirst, [1, 8, 6, 5])]
    {
        let mut g = Integers(Graph::new("residual"));
        let mut ty = ValueType::new(DType::I8, &dims[..]);
        ty.quant = Some(Arc::new(Quant::per_tensor(0.05, -4)));
        let x = g.0.add_input("x", ty);
        // Both are convolutions, and the first is needed after the sum.
        let (a, b) = (g.conv(x, 8, layout, false), g.conv(x, 8, layout, false));
        let first = g.add(b, a);
        let again = g.conv(first, 8, layout, false);
        let second = g.add(a, again);
        // A depthwise convolution's sum, and that of one which is needed itself, stay.
        let deep = g.conv(second, 8, layout, true);
        let third = g.add(second, deep);
        let needed = g.conv(third, 8, layout, false);
        let fourth = g.add(third, needed);
        g.0.outputs = vec![fourth, needed];
        let ops = integer_ops_after(&g.0);
        let count = |name| ops.iter().filter(|op| **op == name).count();
        let counts = ["QConvAdd", "QConv", "QAdd"].map(count);
        assert_eq!(counts, [2, 3, 2], "{ops:?}");
    }
}

#[test]
fn linears_of_one_input_are_computed_together() {
    let mut g = Graph::new("linears");
    let x = input(&mut g, &[3, 64]);
    let y = g.apply("function", Unary::Tanh, &[x], DType::F32);
    let linear = |g: &mut Graph, name: &str, x: ValueId, m: usize| {
        let w = constant(g, &[m, 64]);
        g.apply(name, Linear::default(), &[x, w], DType::F32)
    };
    let q = linear(&mut g, "layer.q", y, 8);
    let q = g.apply("q_function", Unary::Relu, &[q], DType::F32);
    let k = linear(&mut g, "layer.k", y, 16);
    let other = linear(&mut g, "other", x, 5);
    // Weights of another type, for which rows would be rounded otherwise.
    let halves = Tensor::zeros(DType::F16, &[4, 64]).unwrap();
    let halves = g.add_constant("halves", halves);
    let half = g.apply("half", Linear::default(), &[y, halves], DType::F32);
    let v = linear(&mut g, "layer.v", y, 16);
    let less = g.apply("less", Binary::new(BinaryFn::Sub), &[k, v], DType::F32);
    g.outputs = vec![q, less, other, half];
    assert_eq!(names_after(&g), ["Tanh", "Linears", "Linear", "Linear", "Sub"]);
    let plan = Plan::new(&g, &PlanOptions::default()).unwrap();
    assert_eq!(plan.graph().nodes()[1].name, "layer.q+k+v");
}

fn names_after(g: &Graph) -> Vec<String> {
    let ops = ops_after(g);
    ops.iter().map(|op| op.split([' ', '{']).next().unwrap_or_default().to_string()).collect()
}

#[test]
fn norms_gates_and_sums_join_linear_products() {
    // What differs from a block that becomes two ops keeps the steps that it names.
    let block = |encoding: DType, seen: bool, function: BinaryFn| {
        let mut g = Graph::new("block");
        let x = input(&mut g, &[3, 64]);
        let weights = |g: &mut Graph, m: usize, k: usize| {
            g.add_constant("weights", Tensor::zeros(encoding, &[m, k]).unwrap())
        };
        let scale = constant(&mut g, &[64]);
        let norm = RmsNorm { axis: -1, epsilon: 1e-5 };
        let y = g.apply("norm", norm, &[x, scale], DType::F32);
        let (w_gate, w_up) = (weights(&mut g, 96, 64), weights(&mut g, 96, 64));
        let gate = g.apply("gate", Linear::default(), &[y, w_gate], DType::F32);
        let gate = g.apply("function", Unary::Silu, &[gate], DType::F32);
        let up = g.apply("up", Linear::default(), &[y, w_up], DType::F32);
        let gated = g.apply("gated", Binary::new(function), &[gate, up], DType::F32);
        let w_down = weights(&mut g, 64, 96);
        let down = g.apply("down", Linear::default(), &[gated, w_down], DType::F32);
        let sum = g.apply("sum", Binary::new(BinaryFn::Add), &[x, down], DType::F32);
        g.outputs = if seen { vec![sum, y] } else { vec![sum] };
        g
    };
    let q8 = DType::Encoded(Encoding::Q8_0);
    let joined = block(q8, false, BinaryFn::Mul);
    assert_eq!(names_after(&joined), ["Linears", "Linear"]);
    let plan = Plan::new(&joined, &PlanOptions::default()).unwrap();
    let op = plan.graph().nodes()[0].op.downcast::<Linears>().unwrap();
    assert!(op.gated && op.norm == Some(RowNorm { epsilon: 1e-5, centred: false }));
    assert_eq!(plan.graph().nodes()[1].inputs.len(), 4);
    // A norm that is needed itself, or whose products take its floats.
    assert_eq!(names_after(&block(q8, true, BinaryFn::Mul)), ["RmsNorm", "Linears", "Linear"]);
    assert_eq!(
        names_after(&block(DType::F16, false, BinaryFn::Mul)),
        ["RmsNorm", "Linears", "Linear"]
    );
    // Another function of the two.
    assert_eq!(names_after(&block(q8, false, BinaryFn::Max)), ["Linears", "Max", "Linear"]);
}

#[test]
fn linear_products_by_computed_weights_stay_alone() {
    let mut g = Graph::new("training");
    let x = input(&mut g, &[3, 64]);
    let weights = [64, 64].map(|m| input(&mut g, &[m, 64]));
    let [a, b] = weights.map(|w| g.apply("linear", Linear::default(), &[x, w], DType::F32));
    let gated = g.apply("gated", Binary::new(BinaryFn::Mul), &[a, b], DType::F32);
    let down = g.apply("down", Linear::default(), &[gated, weights[0]], DType::F32);
    let sum = g.apply("sum", Binary::new(BinaryFn::Add), &[x, down], DType::F32);
    g.outputs = vec![sum];
    let plan = Plan::new(&g, &PlanOptions::default()).unwrap();
    let names: Vec<_> = plan.graph().nodes().iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["Linear", "Linear", "Mul", "Linear", "Add"]);
}
