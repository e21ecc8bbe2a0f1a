use super::super::test::{b, i, run_opt, t};
use super::*;
use crate::ops::activation::Activation;
use crate::ops::binary::{Binary, BinaryFn};
use crate::ops::concat::Concat;
use crate::ops::reshape::Identity;
use crate::{DType, State, ValueId};

fn binary(function: BinaryFn) -> Binary {
    Binary { function, activation: Activation::default() }
}

/// A graph of inputs of these types that `build` gives outputs to.
fn graph(
    name: &str,
    inputs: &[ValueType],
    build: impl FnOnce(&mut Graph, &[ValueId]) -> Vec<ValueId>,
) -> Graph {
    let mut graph = Graph::new(name);
    for (i, ty) in inputs.iter().enumerate() {
        graph.add_input(format!("in{i}"), ty.clone());
    }
    let ids = graph.inputs.clone();
    graph.outputs = build(&mut graph, &ids);
    graph.verify().unwrap();
    graph
}

fn vector() -> ValueType {
    ValueType::new(DType::I64, vec![Dim::symbol("length")])
}

fn scalar(dtype: DType) -> ValueType {
    ValueType::new(dtype, Vec::new())
}

fn run(op: &dyn Op, inputs: &[Option<&Tensor>], outputs: usize) -> Vec<Vec<i64>> {
    let out = run_opt(op, inputs, outputs).unwrap();
    out.iter().map(|t| t.slice::<i64>().unwrap().to_vec()).collect()
}

#[test]
fn a_branch_is_taken() {
    let op = If {
        then: graph("then", &[vector()], |_, v| vec![v[0]]),
        otherwise: graph("else", &[vector(), vector()], |g, v| {
            vec![g.apply("sum", binary(BinaryFn::Add), v, DType::I64)]
        }),
    };
    let (x, y, z) = (i(&[1, 2]), i(&[3, 4]), i(&[5, 6]));
    let inputs =
        |c: &'static bool| run(&op, &[Some(&b(&[], &[*c])), Some(&x), Some(&y), Some(&z)], 1);
    assert_eq!(inputs(&true), [[1, 2]]);
    assert_eq!(inputs(&false), [[8, 10]]);
    let missing = run_opt(&op, &[Some(&b(&[], &[true])), Some(&x)], 1).unwrap_err();
    assert!(missing.to_string().contains("inputs"), "{missing}");
    let many = b(&[2], &[true, true]);
    assert!(run_opt(&op, &[Some(&many), Some(&x), Some(&y), Some(&z)], 1).is_err());
}

/// Carries a sum and a growing list; scans the turn; stops when the condition's limit is met.
fn counting() -> Loop {
    let inputs = [scalar(DType::I64), scalar(DType::Bool), vector(), vector(), vector()];
    let body = graph("body", &inputs, |g, v| {
        let [turn, condition, sum, list, step] = v[..] else { panic!("five inputs") };
        let sum = g.apply("sum", binary(BinaryFn::Add), &[sum, step], DType::I64);
        let list = g.apply("list", Concat { axis: 0 }, &[list, sum], DType::I64);
        let condition = g.apply("go", Identity, &[condition], DType::Bool);
        let turn = g.apply("turn", Identity, &[turn], DType::I64);
        vec![condition, sum, list, turn]
    });
    Loop { body, carried: 2 }
}

#[test]
fn loops_carry_and_stack() {
    let op = counting();
    let (start, list, step) = (i(&[0]), i(&[9]), i(&[5]));
    let go = |n: i64, c: Option<bool>| {
        let (n, c) = (t(&[], &[n]), c.map(|c| b(&[], &[c])));
        run(&op, &[Some(&n), c.as_ref(), Some(&start), Some(&list), Some(&step)], 3)
    };
    assert_eq!(go(3, None), [vec![15], vec![9, 5, 10, 15], vec![0, 1, 2]]);
    assert_eq!(go(2, Some(true)), [vec![10], vec![9, 5, 10], vec![0, 1]]);
    assert_eq!(go(3, Some(false)), [vec![0], vec![9], vec![]]);
    assert_eq!(go(-1, None), [vec![0], vec![9], vec![]]);
}

#[test]
fn shapes_of_loops_are_told_where_they_can_be() {
    let op = counting();
    let ty = |n: usize| ValueType::new(DType::I64, &[n][..]);
    let (count, start, list, step) = (scalar(DType::I64), ty(1), ty(1), ty(1));
    let seven = Tensor::scalar(7i64);
    let known = |ty| Some(crate::Known { ty, data: None });
    let count = Some(crate::Known { ty: &count, data: Some(seven.view()) });
    let inputs = [count, None, known(&start), known(&list), known(&step)];
    let symbols = std::cell::Cell::new(0);
    let types = op.infer(&InferCx::new(&inputs, 3, &symbols)).unwrap();
    assert_eq!(types[0].shape.to_string(), "[1]");
    assert_eq!(types[1].shape.rank(), Some(1));
    assert_eq!(types[1].shape.fixed(), None);
    assert_eq!(types[2].shape.to_string(), "[7]");
}

#[test]
fn while_runs_on_its_own_values() {
    let types = [scalar(DType::I64), scalar(DType::I64)];
    let op = While {
        condition: graph("condition", &types, |g, v| {
            let out = g.add_value("less", scalar(DType::Bool));
            g.add_node(
                "less",
                crate::ops::logic::Compare::Less,
                vec![Some(v[0]), Some(v[1])],
                vec![out],
            );
            vec![out]
        }),
        body: graph("body", &types, |g, v| {
            vec![g.apply("double", binary(BinaryFn::Add), &[v[0], v[0]], DType::I64), v[1]]
        }),
    };
    let go = |from: i64, to: i64| run(&op, &[Some(&t(&[], &[from])), Some(&t(&[], &[to]))], 2);
    assert_eq!(go(3, 40), [[48], [40]]);
    assert_eq!(go(50, 40), [[50], [40]]);
}

/// Adds each part to the state, which is also scanned out.
fn sums() -> Scan {
    let vector = ValueType::new(DType::I64, vec![Dim::from(2)]);
    let body = graph("body", &[vector.clone(), vector], |g, v| {
        let sum = g.apply("sum", binary(BinaryFn::Add), v, DType::I64);
        let out = g.apply("out", Identity, &[sum], DType::I64);
        vec![sum, out]
    });
    Scan {
        body,
        states: 1,
        scanned: 1,
        input_axes: vec![],
        input_reversed: vec![],
        output_axes: vec![],
        output_reversed: vec![],
        batched: false,
    }
}

#[test]
fn scans_walk_any_axis_either_way() {
    let op = sums();
    let (start, x) = (i(&[0, 0]), t(&[3, 2], &[1i64, 2, 3, 4, 5, 6]));
    let run2 = |op: &Scan, x: &Tensor| run(op, &[Some(&start), Some(x)], 2);
    assert_eq!(run2(&op, &x), [vec![9, 12], vec![1, 2, 4, 6, 9, 12]]);
    let backwards = Scan { input_reversed: vec![true], output_reversed: vec![true], ..op.clone() };
    assert_eq!(run2(&backwards, &x), [vec![9, 12], vec![9, 12, 8, 10, 5, 6]]);
    let columns = Scan { input_axes: vec![1], output_axes: vec![-1], ..op.clone() };
    let x = t(&[2, 3], &[1i64, 3, 5, 2, 4, 6]);
    assert_eq!(run2(&columns, &x), [vec![9, 12], vec![1, 4, 9, 2, 6, 12]]);
    let none = t::<i64>(&[0, 2], &[]);
    assert_eq!(run2(&op, &none), [vec![0, 0], vec![]]);
    assert!(run_opt(&columns, &[Some(&start), Some(&i(&[1, 2]))], 2).is_err());
}

#[test]
fn batches_are_scanned_to_their_lengths() {
    let op = Scan { batched: true, ..sums() };
    let start = t(&[2, 2], &[0i64, 0, 10, 10]);
    let x = t(&[2, 2, 2], &[1i64, 2, 3, 4, 5, 6, 7, 8]);
    let out = run(&op, &[None, Some(&start), Some(&x)], 2);
    assert_eq!(out, [vec![4, 6, 22, 24], vec![1, 2, 4, 6, 15, 16, 22, 24]]);
    let lengths = i(&[2, 1]);
    let out = run(&op, &[Some(&lengths), Some(&start), Some(&x)], 2);
    assert_eq!(out, [vec![4, 6, 15, 16], vec![1, 2, 4, 6, 15, 16, 0, 0]]);
    let long = i(&[2, 3]);
    assert!(run_opt(&op, &[Some(&long), Some(&start), Some(&x)], 2).is_err());
}

#[test]
fn calls_run_their_body_and_state_is_refused() {
    let mut body = graph("body", &[vector()], |_, v| vec![v[0]]);
    let x = i(&[1]);
    assert_eq!(run(&Call { body: body.clone() }, &[Some(&x)], 1), [[1]]);
    let wrong = run_opt(&Call { body: body.clone() }, &[Some(&t(&[1], &[1f32]))], 1).unwrap_err();
    assert!(wrong.to_string().contains("in0"), "{wrong}");
    body.add_state(State { name: "memory".into(), ty: vector(), initial: None });
    let error = run_opt(&Call { body }, &[Some(&x)], 1).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
}
