//! Models that ONNX Runtime's quantiser made of a small convnet and a perceptron
//! (`fixtures/onnx/make.py` of `kinglet-testing`): integer kernels run them, plans compute what the
//! reference implementations do, and ONNX Runtime much the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use kinglet_formats::onnx;
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::quantize_linear::DequantizeLinear;
use kinglet_graph::{Bytes, DType, Dims, Graph, Op, Tensor, interpret};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_testing::Array;

fn recorded() -> BTreeMap<String, Array> {
    kinglet_testing::npz(&kinglet_testing::fixture("onnx/outputs.npz")).into_iter().collect()
}

fn load(name: &str) -> Graph {
    let path = kinglet_testing::fixture(&format!("onnx/{name}.onnx"));
    let graph = onnx::load(&path).unwrap_or_else(|e| panic!("{e}"));
    graph.verify().unwrap();
    graph
}

/// The first `batch` inputs or outputs.
fn first(array: &Array, batch: usize) -> Tensor {
    let mut dims = array.shape.clone();
    let bytes = array.data.len() / dims[0] * batch;
    dims[0] = batch;
    let bytes = Bytes::new(Arc::new(array.data[..bytes].to_vec()));
    Tensor::from_bytes(DType::F32, &dims, bytes).unwrap()
}

fn planned(graph: &Graph, x: &Tensor) -> (Tensor, Plan) {
    let input_shapes = Some(vec![Dims::from_slice(x.dims())]);
    let options = PlanOptions { input_shapes, ..PlanOptions::default() };
    let mut plan = Plan::new(graph, &options).unwrap_or_else(|e| panic!("{e}"));
    plan.set_input(0, &x.view()).unwrap();
    plan.run().unwrap();
    (Tensor::copy_of(&plan.output(0)), plan)
}

/// The scale of a graph's quantised output; `None` where it is computed in floats.
fn step(graph: &Graph) -> Option<f32> {
    let last = graph.nodes().iter().find(|n| n.outputs.contains(&graph.outputs[0]))?;
    last.op.downcast::<DequantizeLinear>()?;
    graph.value(last.inputs[1]?).data.as_ref()?.view().scalar::<f32>().ok()
}

/// The largest difference.
fn distance(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let pairs = got.slice::<f32>().unwrap().iter().zip(want.slice::<f32>().unwrap());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A recorded net: its file, the inputs it was recorded with, and what its plan must hold.
struct Net {
    name: &'static str,
    inputs: &'static str,
    /// Steps by integer kernels: convolutions and products, depthwise convolutions.
    kernels: [usize; 2],
}

const fn net(name: &'static str, inputs: &'static str, kernels: [usize; 2]) -> Net {
    Net { name, inputs, kernels }
}

const NETS: &[Net] = &[
    net("qdq_u8", "convnet.x", [5, 1]),
    net("qdq_s8_channel", "convnet.x", [5, 1]),
    net("qdq_u8s8_channel", "convnet.x", [5, 1]),
    net("qoperator_u8", "convnet.x", [5, 1]),
    net("qoperator_s8_channel", "convnet.x", [5, 1]),
    net("qoperator_u8s8_channel", "convnet.x", [5, 1]),
    net("dynamic_u8", "perceptron.x", [2, 0]),
    net("dynamic_s8_channel", "perceptron.x", [2, 0]),
    net("dynamic_conv_u8", "convnet.x", [5, 1]),
];

#[test]
fn integer_kernels_compute_what_onnx_runtime_does() {
    let recorded = recorded();
    for net in NETS {
        let graph = load(net.name);
        let x = first(&recorded[net.inputs], 5);
        let want = first(&recorded[net.name], 5);
        let (got, plan) = planned(&graph, &x);

        let count = |kernel: &str| plan.steps().filter(|s| s.kernel.starts_with(kernel)).count();
        let kernels = [count("qconv"), count("qdepthwise")];
        assert_eq!(kernels, net.kernels, "{}: {}", net.name, plan.graph());
        let float = |op: &dyn Op| op.is::<Conv>() || op.is::<MatMul>();
        assert!(!plan.graph().nodes().iter().any(|n| float(&*n.op)), "{}", net.name);

        // The passes' graph to the last bit; ONNX Runtime, and the float ops that the file means,
        // within a step of the output.
        let same = interpret(plan.graph(), std::slice::from_ref(&x)).unwrap().remove(0);
        assert_eq!(got.bytes(), same.bytes(), "{}", net.name);
        let step = step(&graph).unwrap_or(2e-5) * 1.001;
        let off = distance(&got, &want);
        assert!(off <= step, "{}: ONNX Runtime is {off} off, a step is {step}", net.name);
        let meant = interpret(&graph, std::slice::from_ref(&x)).unwrap().remove(0);
        let off = distance(&got, &meant);
        assert!(off <= step, "{}: the reference is {off} off, a step is {step}", net.name);
    }
}

/// One plan serves each batch that the file's symbolic size is bound to.
#[test]
fn a_symbolic_batch_is_planned_at_any_size() {
    let recorded = recorded();
    for name in ["convnet", "qdq_u8s8_channel"] {
        let graph = load(name);
        let batch = &graph.value(graph.inputs[0]).ty.shape.dims().unwrap()[0];
        assert_eq!(batch.as_symbol().map(|n| &**n), Some("n"));
        for batch in [1, 2, 5] {
            let x = first(&recorded["convnet.x"], batch);
            let (got, _) = planned(&graph, &x);
            let off = distance(&got, &first(&recorded[name], batch));
            let allowed = step(&graph).unwrap_or(2e-5) * 1.001;
            assert!(off <= allowed, "{name}, batch {batch}: {off} off");
        }
    }
}
