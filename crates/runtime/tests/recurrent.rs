//! LSTMs run by kernels give what their reference implementations give, in every output.

use kinglet_graph::ops::rnn::{Cell, Direction, Recurrent, SequenceLstm};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Graph, Op, Shape, Tensor, ValueType, interpret};
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

/// Runs `op` by its kernel and compares with its reference implementation. Input 0 and those
/// among `states` are given when it runs; the others are constants.
fn check(op: impl Op, inputs: &[Option<&[usize]>], states: &[usize], outputs: usize) {
    let what = format!("{op:?}");
    let mut graph = Graph::new("case");
    let mut given = Vec::new();
    let mut ids = Vec::new();
    for (i, dims) in inputs.iter().enumerate() {
        ids.push(dims.map(|dims| {
            if i > 0 && !states.contains(&i) {
                return graph.add_constant(format!("w{i}"), data(dims, i));
            }
            given.push(data(dims, i));
            graph.add_input(format!("x{i}"), ValueType::new(DType::F32, dims))
        }));
    }
    let ty = ValueType::new(DType::F32, Shape::unknown());
    graph.outputs = (0..outputs).map(|i| graph.add_value(format!("y{i}"), ty.clone())).collect();
    graph.add_node("node", op, ids, graph.outputs.clone());
    let want = interpret(&graph, &given).unwrap();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
            let mut plan = Plan::new(&graph, &options).unwrap();
            assert!(plan.steps().all(|step| step.kernel.starts_with("lstm")), "{what}: no kernel");
            for (i, tensor) in given.iter().enumerate() {
                plan.set_input(i, &tensor.view()).unwrap();
            }
            // Twice: nothing of the first run may be left.
            for _ in 0..2 {
                plan.run().unwrap();
                for (i, want) in want.iter().enumerate() {
                    let got = plan.output(i);
                    assert_eq!(got.dims, want.dims(), "{what}, output {i}");
                    let got = got.slice::<f32>().unwrap();
                    for (got, want) in got.iter().zip(want.slice::<f32>().unwrap()) {
                        assert!((got - want).abs() < 1e-5, "{what} {isa:?}: {got}, not {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn onnx_lstms() {
    let lstm = Cell::Lstm { input_forget: false };
    let (steps, batch, features, units) = (5, 3, 7, 19);
    for (direction, ways) in
        [(Direction::Forward, 1), (Direction::Reverse, 1), (Direction::Both, 2)]
    {
        for batch_first in [false, true] {
            let op = Recurrent { batch_first, ..Recurrent::new(lstm, direction) };
            let (x, state) = match batch_first {
                false => ([steps, batch, features], [ways, batch, units]),
                true => ([batch, steps, features], [batch, ways, units]),
            };
            let w = [ways, 4 * units, features];
            let r = [ways, 4 * units, units];
            let (b, p) = ([ways, 8 * units], [ways, 3 * units]);
            let all: [Option<&[usize]>; 8] = [
                Some(&x),
                Some(&w),
                Some(&r),
                Some(&b),
                None,
                Some(&state),
                Some(&state),
                Some(&p),
            ];
            check(op.clone(), &all, &[5, 6], 3);
            check(op, &all[..3], &[], 1);
        }
    }
}

#[test]
fn tflite_lstms() {
    let (steps, batch, features, units) = (4, 2, 6, 21);
    for (time_major, coupled, width) in [(true, false, 21), (false, true, 21), (false, false, 5)] {
        let op = SequenceLstm {
            activation: Unary::Tanh,
            cell_clip: coupled.then_some(0.5),
            projection_clip: (width != units).then_some(0.3),
            time_major,
        };
        let x = match time_major {
            true => [steps, batch, features],
            false => [batch, steps, features],
        };
        let (w, r, vector) = ([units, features], [units, width], [units]);
        let (projection, bias) = ([width, units], [width]);
        let (h, c) = ([batch, width], [batch, units]);
        let mut inputs: Vec<Option<&[usize]>> = vec![None; 24];
        inputs[0] = Some(&x);
        for gate in usize::from(coupled)..4 {
            inputs[1 + gate] = Some(&w);
            inputs[5 + gate] = Some(&r);
            inputs[12 + gate] = Some(&vector);
        }
        if time_major {
            inputs[9..12].fill(Some(&vector));
        }
        if width != units {
            inputs[16] = Some(&projection);
            inputs[17] = Some(&bias);
        }
        inputs[18] = Some(&h);
        inputs[19] = Some(&c);
        check(op, &inputs, &[18, 19], 3);
    }
}
