//! What training in mixed precision rounds, and what it holds.

use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::RmsNorm;
use kinglet_graph::ops::rows::{Linear, LinearTranspose};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Graph, Node, Tensor, ValueId, ValueType};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_tune::{Optimiser, Precision, Recipe, Training, differentiate, mean_squared_error};

const ROWS: usize = 96;
/// Odd: no row is whole pairs.
const WIDTH: usize = 45;
const LAYERS: usize = 6;

fn wave(dims: &[usize], step: f32) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (step * i as f32).sin() / 3.0).collect();
    Tensor::from_slice(dims, &values).unwrap()
}

/// Layers of a product, a norm and a function, and a loss.
struct Net {
    graph: Graph,
    loss: ValueId,
    weights: Vec<ValueId>,
}

fn net() -> Net {
    let mut graph = Graph::new("net");
    let mut x = graph.add_input("x", ValueType::new(DType::F32, &[ROWS, WIDTH][..]));
    let target = graph.add_constant("target", wave(&[ROWS, WIDTH], 0.07));
    let scale = graph.add_constant("scale", Tensor::from_slice(&[WIDTH], &[1f32; WIDTH]).unwrap());
    let mut weights = Vec::new();
    for layer in 0..LAYERS {
        let matrix = wave(&[WIDTH, WIDTH], 0.37 + layer as f32);
        weights.push(graph.add_constant(format!("w{layer}"), matrix));
        x = match layer % 2 {
            0 => graph.apply("", Linear::default(), &[x, weights[layer]], DType::F32),
            _ => graph.apply("", MatMul::new(), &[x, weights[layer]], DType::F32),
        };
        x = graph.apply("", RmsNorm { axis: -1, epsilon: 1e-5 }, &[x, scale], DType::F32);
        x = graph.apply("", Unary::Silu, &[x], DType::F32);
    }
    let loss = mean_squared_error(&mut graph, x, target).unwrap();
    Net { graph, loss, weights }
}

fn training(net: &Net, trained: &[ValueId], precision: Precision) -> Training {
    let recipe = Recipe { precision, clip: Some(1.0), ..Recipe::new(Optimiser::adam_w()) };
    differentiate(&net.graph, net.loss, trained, &recipe).unwrap()
}

fn plan(training: &Training) -> Plan {
    Plan::new(&training.graph, &PlanOptions { threads: 1, ..PlanOptions::default() }).unwrap()
}

fn step(plan: &mut Plan) -> f32 {
    plan.set_input(0, &wave(&[ROWS, WIDTH], 0.11).view()).unwrap();
    plan.set_input(1, &Tensor::scalar(0.01f32).view()).unwrap();
    plan.run().unwrap();
    plan.output(0).scalar().unwrap()
}

fn products(graph: &Graph) -> Vec<&Node> {
    let is = |n: &&Node| n.op.is::<MatMul>() || n.op.is::<Linear>() || n.op.is::<LinearTranspose>();
    graph.nodes().iter().filter(is).collect()
}

#[test]
fn products_round_their_factors_and_nothing_else_is_rounded() {
    let net = net();
    let training = training(&net, &net.weights, Precision::Bf16);
    let graph = &training.graph;
    let dtype = |v: ValueId| graph.value(v).ty.dtype;
    let products = products(graph);
    // Of each layer forwards, for the weights and, but of the first, for what goes in.
    assert_eq!(products.len(), 3 * LAYERS - 1);
    for product in &products {
        assert!(product.inputs.iter().flatten().all(|v| dtype(*v) == DType::BF16), "{product:?}");
        assert_eq!(dtype(product.outputs[0]), DType::F32);
    }
    for node in graph.nodes().iter().filter(|n| !products.iter().any(|p| p.outputs == n.outputs)) {
        assert!(node.inputs.iter().flatten().all(|v| dtype(*v) != DType::BF16), "{node:?}");
    }
    // What goes in once, for both; the weights when they are read; each gradient of a result once, for
    // both. Of the first layer's, the weights are read once.
    let rounded =
        graph.nodes().iter().filter(|n| n.outputs.iter().any(|v| dtype(*v) == DType::BF16));
    assert_eq!(rounded.count(), LAYERS + (2 * LAYERS - 1) + LAYERS);
    assert!(graph.states().iter().all(|state| state.ty.dtype != DType::BF16));
    let evaluation = &training.evaluation;
    assert!(evaluation.values().iter().all(|v| v.ty.dtype != DType::BF16));
}

#[test]
fn what_no_gradient_goes_through_is_not_rounded() {
    let net = net();
    let training = training(&net, &net.weights[LAYERS - 1..], Precision::Bf16);
    let rounded = products(&training.graph)
        .into_iter()
        .map(|product| training.graph.value(product.inputs[0].unwrap()).ty.dtype == DType::BF16);
    // The last layer's product, and that for its weights.
    let want: Vec<bool> = (0..=LAYERS).map(|i| i >= LAYERS - 1).collect();
    assert_eq!(rounded.collect::<Vec<_>>(), want);
}

#[test]
fn activations_that_only_products_read_are_held_in_half_the_memory() {
    let net = net();
    let planned = [Precision::F32, Precision::Bf16]
        .map(|precision| plan(&training(&net, &net.weights, precision)).memory().planned);
    // Of all layers but where the peak is.
    let least = (LAYERS - 2) * ROWS * WIDTH * 2;
    assert!(planned[0] - planned[1] > least, "{planned:?}, {least}");
}

#[test]
fn training_goes_on_to_the_same_bits() {
    let net = net();
    let training = training(&net, &net.weights, Precision::Bf16);
    let states = |plan: &Plan| plan.shared().with_states(|states| states.to_vec());
    let mut whole = plan(&training);
    let losses: Vec<f32> = (0..6).map(|_| step(&mut whole)).collect();
    let mut first = plan(&training);
    (0..3).for_each(|_| _ = step(&mut first));
    let mut second = plan(&training);
    second.shared().with_states(|to| {
        to.iter_mut().zip(states(&first)).for_each(|(to, from)| {
            to.bytes_mut().copy_from_slice(from.raw());
        });
    });
    let rest: Vec<f32> = (0..3).map(|_| step(&mut second)).collect();
    assert_eq!(rest, losses[3..]);
    for (found, want) in states(&second).iter().zip(states(&whole)) {
        assert_eq!(found.raw(), want.raw());
    }
    assert!(losses[5] < losses[0], "{losses:?}");
}
