//! That a planned step allocates nothing. The counts are of the process: one test.

use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::RmsNorm;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Graph, Tensor, ValueType};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_testing::Counting;
use kinglet_tune::{Optimiser, Recipe, differentiate, mean_squared_error};

#[global_allocator]
static MEMORY: Counting = Counting::new();

#[test]
fn a_step_allocates_nothing() {
    const WIDTH: usize = 48;
    let mut graph = Graph::new("deep");
    let mut x = graph.add_input("x", ValueType::new(DType::F32, &[5, WIDTH][..]));
    let input = x;
    let mut trained = Vec::new();
    for layer in 0..3 {
        let wave = |n: usize| (0..n).map(|i| (0.37 * i as f32).sin() / 4.0).collect::<Vec<_>>();
        let matrix = Tensor::from_slice(&[WIDTH, WIDTH], &wave(WIDTH * WIDTH)).unwrap();
        let scale = Tensor::from_slice(&[WIDTH], &wave(WIDTH)).unwrap();
        let w = graph.add_constant(format!("w{layer}"), matrix);
        let scale = graph.add_constant(format!("scale{layer}"), scale);
        x = graph.apply("", MatMul::new(), &[x, w], DType::F32);
        x = graph.apply("", RmsNorm { axis: -1, epsilon: 1e-5 }, &[x, scale], DType::F32);
        x = graph.apply("", Unary::Silu, &[x], DType::F32);
        trained.extend([w, scale]);
    }
    let loss = mean_squared_error(&mut graph, x, input).unwrap();
    let recipe = Recipe { clip: Some(1.0), ..Recipe::new(Optimiser::adam_w()) };
    let training = differentiate(&graph, loss, &trained, &recipe).unwrap();
    let options = PlanOptions { threads: 2, ..PlanOptions::default() };
    let mut plan = Plan::new(&training.graph, &options).unwrap();
    let batch: Vec<f32> = (0..5 * WIDTH).map(|i| (0.11 * i as f32).cos()).collect();
    let inputs = [Tensor::from_slice(&[5, WIDTH], &batch).unwrap(), Tensor::scalar(0.01f32)];
    let mut losses = Vec::with_capacity(4);
    for step in 0..4 {
        for (i, tensor) in inputs.iter().enumerate() {
            plan.set_input(i, &tensor.view()).unwrap();
        }
        let before = MEMORY.calls();
        plan.run().unwrap();
        let calls = MEMORY.calls() - before;
        // The first run may find room for what threads keep.
        assert!(step == 0 || calls == 0, "step {step} allocates {calls} times");
        losses.push(plan.output(0).scalar::<f32>().unwrap());
    }
    assert!(losses[3] < losses[0], "{losses:?}");
}
