//! The place of the largest and of the smallest is what the reference implementation finds.

use kinglet_graph::ops::order::ArgReduce;
use kinglet_graph::{DType, Element, Graph, Shape, Tensor, ValueType, interpret};
use kinglet_runtime::{Plan, PlanOptions};

fn check<T: Element>(values: &[T]) {
    let dims = [3, values.len() / 15, 5];
    let x = Tensor::from_slice(&dims, &values[..dims.iter().product()]).unwrap();
    for case in 0..24 {
        let (largest, last) = (case & 1 == 0, case & 2 == 0);
        let index = if case & 4 == 0 { DType::I32 } else { DType::I64 };
        let op = ArgReduce { largest, last, index, axis: case / 8, keep_dims: case & 1 == 0 };
        let mut graph = Graph::new("case");
        let input = graph.add_input("x", ValueType::new(T::DTYPE, &dims[..]));
        let y = graph.add_value("y", ValueType::new(index, Shape::unknown()));
        graph.add_node("node", op, vec![Some(input)], vec![y]);
        graph.outputs = vec![y];
        let want = interpret(&graph, std::slice::from_ref(&x)).unwrap();
        let options = PlanOptions { threads: 2, ..PlanOptions::default() };
        let mut plan = Plan::new(&graph, &options).unwrap();
        assert!(plan.steps().all(|step| step.kernel.starts_with("arg")), "{op:?}: no kernel");
        plan.set_input(0, &x.view()).unwrap();
        plan.run().unwrap();
        assert_eq!(plan.output(0).dims, want[0].dims(), "{op:?}");
        assert_eq!(plan.output(0).bytes, want[0].raw(), "{op:?}");
    }
}

#[test]
fn places_of_the_best() {
    // Few different values, so that equal ones abound.
    let mixed = |i: usize| (i.wrapping_mul(2_654_435_761) >> 9) % 11;
    let n = 3 * 700 * 5;
    check(&(0..n).map(|i| mixed(i) as i8 - 5).collect::<Vec<_>>());
    check(&(0..n).map(|i| mixed(i) as u8 * 23).collect::<Vec<_>>());
    let float = |i: usize| if mixed(i) == 7 { f32::NAN } else { mixed(i) as f32 - 5.0 };
    check(&(0..n).map(float).collect::<Vec<_>>());
}
