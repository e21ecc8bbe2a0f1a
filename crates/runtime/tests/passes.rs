//! Each pass: what it makes of a small graph, and that results stay the same.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::reshape::Identity;
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Graph, Tensor, ValueId, ValueType, interpret};
use kinglet_runtime::{Plan, PlanOptions};

fn input(g: &mut Graph, dims: &[usize]) -> ValueId {
    g.add_input("x", ValueType::new(DType::F32, dims))
}

fn ramp(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 25.0 - 2.0).collect();
    Tensor::from_slice(dims, &data).unwrap()
}

/// The ops of the plan, after checking that it computes what the graph means.
fn ops_after(g: &Graph) -> Vec<String> {
    let inputs: Vec<Tensor> =
        g.inputs.iter().map(|v| ramp(&g.value(*v).ty.shape.fixed().unwrap())).collect();
    let want = interpret(g, &inputs).unwrap();
    let mut plan = Plan::new(g, &PlanOptions::default()).unwrap();
    for (i, tensor) in inputs.iter().enumerate() {
        plan.set_input(i, &tensor.view()).unwrap();
    }
    plan.run().unwrap();
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
