//! Plans that run by turns in one arena, of which the size is known before there is one.

use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Graph, Tensor, ValueType};
use kinglet_runtime::{Arena, Plan, PlanOptions};

/// √(exp x) of so many elements.
fn graph(elements: usize) -> Graph {
    let mut graph = Graph::new("");
    let x = graph.add_input("x", ValueType::new(DType::F32, &[elements][..]));
    let y = graph.apply("exp", Unary::Exp, &[x], DType::F32);
    let y = graph.apply("root", Unary::Sqrt, &[y], DType::F32);
    graph.outputs.push(y);
    graph
}

#[test]
fn plans_run_by_turns_in_one_arena() {
    let options = PlanOptions { threads: 1, ..PlanOptions::default() };
    let mut plans = [10, 100_000, 50].map(|elements| {
        let graph = graph(elements);
        let plan = Plan::new(&graph, &options).unwrap();
        assert_eq!(Plan::memory_of(&graph, &options).unwrap(), plan.memory());
        plan
    });
    for plan in &mut plans {
        plan.take_arena();
        let error = plan.run().unwrap_err().to_string();
        assert!(error.contains("arena"), "{error}");
    }
    let mut arena = Arena::default();
    for _ in 0..2 {
        for plan in &mut plans {
            plan.give_arena(arena);
            let x = vec![2.0f32; plan.inputs().next().unwrap().ty.shape.fixed().unwrap()[0]];
            plan.set_input(0, &Tensor::from_slice(&[x.len()], &x).unwrap().view()).unwrap();
            plan.run().unwrap();
            let y = plan.output(0).slice::<f32>().unwrap().to_vec();
            assert!(y.iter().all(|y| (y - 1f32.exp()).abs() < 1e-5), "{:?}", &y[..10]);
            arena = plan.take_arena();
        }
    }
}
