//! Ops over rows run by kernels give what their reference implementations give, on every
//! instruction set this CPU has and on one thread as on three.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::rows::{
    Angles, Embedding, ExpertLinear, Linear, LinearTranspose, Linears, Rotate, RowNorm,
};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{AlignedBytes, Bytes, DType, Graph, Op, Shape, Tensor, ValueType, interpret};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_runtime::{Plan, PlanOptions};
use std::sync::Arc;

fn floats(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let value = |i: usize| {
        let mixed = (i + seed * 7919).wrapping_mul(2_654_435_761) >> 7;
        (mixed % 2000) as f32 / 1000.0 - 1.0
    };
    Tensor::from_slice(dims, &(0..n).map(value).collect::<Vec<_>>()).unwrap()
}

fn ints(dims: &[usize], values: &[i32]) -> Tensor {
    Tensor::from_slice(dims, values).unwrap()
}

/// Weights of moderate size of any type.
fn weights(dtype: DType, dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    let plain = floats(dims, 3);
    let plain = plain.slice::<f32>().unwrap();
    let bytes: Vec<u8> = match dtype {
        DType::F32 => plain.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => plain.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        DType::BF16 => plain.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        DType::Encoded(encoding) => {
            // Any codes; the scales, whose places differ, all 2⁻⁵ or so: 0x2a2a is a half of 0.05.
            let len = encoding.bytes(n).unwrap();
            let mut bytes: Vec<u8> =
                (0..len).map(|i| ((i * 2_654_435_761) >> 9 & 0x3f) as u8).collect();
            let scales: &[usize] = match encoding {
                Encoding::Q4_K => &[0, 2],
                Encoding::Q6_K => &[208],
                _ => &[0],
            };
            for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
                scales.iter().for_each(|at| block[*at..at + 2].fill(0x2a));
            }
            bytes
        }
        other => panic!("no weights of {other}"),
    };
    let bytes = Bytes::new(Arc::new(AlignedBytes::copy_of(&bytes)));
    Tensor::from_bytes(dtype, dims, bytes).unwrap()
}

#[derive(Clone)]
enum In {
    Given(Tensor),
    Constant(Tensor),
}
use In::{Constant, Given};

/// Runs `op` by its kernel everywhere and compares with its reference implementation; `off` is
/// how far results may be off, relative to the largest.
fn check(op: impl Op + Clone, inputs: Vec<In>, outputs: usize, off: f32) {
    check_some(op, inputs.into_iter().map(Some).collect(), outputs, off);
}

/// The same where inputs are left out.
fn check_some(op: impl Op + Clone, inputs: Vec<Option<In>>, outputs: usize, off: f32) {
    let mut graph = Graph::new("case");
    let mut given = Vec::new();
    let ids = inputs.into_iter().enumerate().map(|(i, input)| match input? {
        Given(tensor) => {
            let ty = ValueType::new(tensor.dtype(), tensor.dims());
            given.push(tensor);
            Some(graph.add_input(format!("x{i}"), ty))
        }
        Constant(tensor) => Some(graph.add_constant(format!("w{i}"), tensor)),
    });
    let ids: Vec<_> = ids.collect();
    let what = format!("{op:?}");
    graph.outputs = (0..outputs)
        .map(|i| graph.add_value(format!("y{i}"), ValueType::new(DType::F32, Shape::unknown())))
        .collect();
    let out = graph.outputs.clone();
    graph.add_node("node", op, ids, out);
    let want = interpret(&graph, &given).unwrap();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
            let mut plan = Plan::new(&graph, &options).unwrap();
            for step in plan.steps() {
                assert_ne!(step.kernel, "reference", "{what}: no kernel");
            }
            // Twice: nothing of the first run may be left. And again, packed anew.
            for round in 0..3 {
                if round == 2 {
                    plan.shared().trim();
                }
                for (i, tensor) in given.iter().enumerate() {
                    plan.set_input(i, &tensor.view()).unwrap();
                }
                plan.run().unwrap();
                for (i, want) in want.iter().enumerate() {
                    let (got, want) = (plan.output(i), want.slice::<f32>().unwrap());
                    let got = got.slice::<f32>().unwrap();
                    assert_eq!(got.len(), want.len());
                    let top = want.iter().fold(1e-30f32, |a, b| a.max(b.abs()));
                    for (j, (got, want)) in got.iter().zip(want).enumerate() {
                        let close = (got - want).abs() <= off * top;
                        assert!(close, "{isa:?} {threads} {what} {i}[{j}]: {got}, not {want}");
                    }
                }
            }
        }
    }
}

/// Types of weights, and how far results of some hundred elements are off.
const TYPES: [(DType, f32); 7] = [
    (DType::F32, 2e-6),
    (DType::F16, 2e-6),
    (DType::BF16, 2e-6),
    (DType::Encoded(Encoding::Q4_0), 0.02),
    (DType::Encoded(Encoding::Q8_0), 0.02),
    (DType::Encoded(Encoding::Q4_K), 0.02),
    (DType::Encoded(Encoding::Q6_K), 0.02),
];

#[test]
fn linear() {
    for (dtype, off) in TYPES {
        for (n, m, k) in [(1, 33, 256), (3, 100, 512), (23, 70, 256)] {
            let x = || Given(floats(&[n, k], 1));
            let w = || Constant(weights(dtype, &[m, k]));
            check(Linear::default(), vec![x(), w()], 1, off);
            let bias = Constant(floats(&[m], 5));
            let op = Linear { activation: Activation::default().then(Unary::Silu).unwrap() };
            check(op, vec![x(), w(), bias], 1, off);
            let (bias, sum) = (Some(Constant(floats(&[m], 5))), Given(floats(&[n, m], 7)));
            let x_and_w = || vec![Some(x()), Some(w())];
            check_some(op, [x_and_w(), vec![bias, Some(sum)]].concat(), 1, off);
            let sum = Some(Given(floats(&[n, m], 7)));
            check_some(Linear::default(), [x_and_w(), vec![None, sum]].concat(), 1, off);
        }
    }
    let x = Given(floats(&[2, 3, 256], 1));
    check(Linear::default(), vec![x, Constant(weights(DType::F16, &[5, 256]))], 1, 2e-6);
}

#[test]
fn linear_by_computed_weights() {
    let given = |dims: &[usize], seed| Given(floats(dims, seed));
    let (x, w, sum) = (given(&[3, 64], 1), given(&[5, 64], 2), floats(&[3, 5], 7));
    check(Linear::default(), vec![x, w, given(&[5], 5)], 1, 2e-6);
    // No kernel adds to these, and none may forget to.
    let mut graph = Graph::new("case");
    let values = [floats(&[3, 64], 1), floats(&[5, 64], 2), sum];
    let types = values.each_ref().map(|v| ValueType::new(v.dtype(), v.dims()));
    let [x, w, sum] = types.map(|ty| Some(graph.add_input("", ty)));
    let y = graph.add_value("y", ValueType::new(DType::F32, Shape::unknown()));
    graph.outputs = vec![y];
    graph.add_node("node", Linear::default(), vec![x, w, None, sum], vec![y]);
    let want = interpret(&graph, &values).unwrap();
    let mut plan = Plan::new(&graph, &PlanOptions::default()).unwrap();
    values.iter().enumerate().for_each(|(i, v)| plan.set_input(i, &v.view()).unwrap());
    plan.run().unwrap();
    assert_eq!(plan.output(0).slice::<f32>().unwrap(), want[0].slice::<f32>().unwrap());
}

#[test]
fn linears_of_one_x() {
    for (dtype, off) in TYPES {
        for n in [1, 2, 23] {
            let w = |m: usize| Some(Constant(weights(dtype, &[m, 256])));
            let bias = Some(Constant(floats(&[17], 5)));
            let silu = Linear { activation: Activation::default().then(Unary::Silu).unwrap() };
            let parts = vec![silu, Linear::default(), silu];
            let x = Some(Given(floats(&[n, 256], 1)));
            let inputs = vec![x, None, None, w(70), None, w(17), bias, w(33), None];
            check_some(Linears { norm: None, parts, gated: false }, inputs, 3, off);
            if !matches!(dtype, DType::Encoded(_)) {
                continue;
            }
            for centred in [false, true] {
                let (x, bias) = (Given(floats(&[n, 256], 1)), Constant(floats(&[150], 5)));
                let scale = Some(Constant(floats(&[256], 2)));
                let shift = centred.then(|| Constant(floats(&[256], 4)));
                let norm = Some(RowNorm { epsilon: 1e-5, centred });
                let inputs = vec![Some(x), scale, shift, w(150), None, w(150), Some(bias)];
                let op = |gated| Linears { norm, parts: vec![Linear::default(); 2], gated };
                check_some(op(false), inputs.clone(), 2, off);
                check_some(op(true), inputs, 1, 2.0 * off);
            }
        }
    }
}

#[test]
fn experts() {
    let choices = |n: usize, each: usize| {
        let values: Vec<i32> = (0..n * each).map(|i| (i * i % 7 % 5) as i32).collect();
        Given(ints(&[n, each], &values))
    };
    for (dtype, off) in TYPES {
        for (n, each, m) in [(1, 2, 20), (30, 3, 70)] {
            let w = || Constant(weights(dtype, &[5, m, 256]));
            let shared = Given(floats(&[n, 256], 1));
            check(ExpertLinear, vec![shared, w(), choices(n, each)], 1, off);
            let own = Given(floats(&[n, each, 256], 1));
            let bias = Constant(floats(&[5, m], 8));
            check(ExpertLinear, vec![own, w(), choices(n, each), bias], 1, off);
        }
    }
}

#[test]
fn embedding() {
    for (dtype, _) in TYPES {
        let ids = Given(ints(&[5], &[3, -1, 0, 6, 3]));
        check(Embedding, vec![ids, Constant(weights(dtype, &[7, 256]))], 1, 0.0);
    }
}

#[test]
fn rotation() {
    let frequencies = Rotate::frequencies(48, 10_000.0, None);
    let frequencies = || Constant(Tensor::from_slice(&[24], &frequencies).unwrap());
    let positions = Given(ints(&[6], &[0, 1, 17, 1000, 131_072, 999_999]));
    check(Angles { scale: 1.25 }, vec![positions, frequencies()], 2, 1e-7);
    for interleaved in [false, true] {
        let op = Rotate { size: 64, start: 8, interleaved };
        let angles = || Given(floats(&[40, 24], 4));
        check(op, vec![Given(floats(&[40, 192], 1)), angles(), angles()], 1, 1e-6);
    }
}

/// The gradient of a product by weights that stay as their file holds them.
#[test]
fn products_the_other_way_decode_their_weights() {
    let q = DType::Encoded;
    let types = [DType::F16, DType::BF16, q(Encoding::Q4_0), q(Encoding::Q8_0), q(Encoding::Q4_K)];
    for dtype in types.into_iter().chain([q(Encoding::Q6_K)]) {
        // The last has so many rows that few of its columns are decoded at once.
        for (rows, m, k) in [(1, 64, 256), (7, 96, 512), (33, 41, 768), (3, 9000, 512)] {
            let inputs = vec![Given(floats(&[rows, m], 1)), Constant(weights(dtype, &[m, k]))];
            check(LinearTranspose, inputs, 1, 2e-5);
        }
        // Panels of three vectors, whose width no block divides.
        let (m, k) = if dtype.block().0 == 256 { (9000, 768) } else { (30_000, 96) };
        let inputs = vec![Given(floats(&[2, m], 1)), Constant(weights(dtype, &[m, k]))];
        check(LinearTranspose, inputs, 1, 2e-5);
    }
}
