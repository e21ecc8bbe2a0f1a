//! Attention of rows by its kernel gives what its reference implementation gives, and the same
//! bits however rows are cut into steps.

use kinglet_graph::ops::rows::{PAGE, RowAttention, RowAttentionGradient};
use kinglet_graph::{
    AlignedBytes, Bytes, DType, Graph, Shape, State, Tensor, ValueType, interpret,
};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_runtime::{Plan, PlanOptions};
use std::sync::Arc;

fn value(i: usize, seed: usize) -> f32 {
    let mixed = (i + seed * 7919).wrapping_mul(2_654_435_761) >> 7;
    (mixed % 2000) as f32 / 1000.0 - 1.0
}

fn floats(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    Tensor::from_slice(dims, &(0..n).map(|i| value(i, seed)).collect::<Vec<_>>()).unwrap()
}

/// What lies in the cells before a step.
fn content(op: &RowAttention, dtype: DType) -> Tensor {
    let (dims, held) = (op.state_dims(PAGES), op.pages(dtype).unwrap());
    let mut bytes = AlignedBytes::zeros(dtype.bytes(dims.iter().product()).unwrap());
    for cell in 0..PAGES * PAGE {
        for head in 0..op.kv_heads {
            let at = cell * op.kv_heads + head;
            let part = |n: usize, seed| (0..n).map(|i| value(at * n + i, seed)).collect::<Vec<_>>();
            let page = &mut bytes[held.page_of(cell, head)];
            held.take_in(Isa::Portable, page, cell, &part(op.key, 11), &part(held.value, 12));
        }
    }
    Tensor::from_bytes(dtype, &dims, Bytes::new(Arc::new(bytes))).unwrap()
}

/// Sequence, position, parent and slot of a row.
type Row = [i32; 4];

const PAGES: usize = 8;
const PER_SEQUENCE: usize = 3;
/// Of two sequences.
const TABLE: [i32; 2 * PER_SEQUENCE] = [5, 0, 3, 2, 7, 1];

fn cell(sequence: usize, position: usize) -> i32 {
    TABLE[sequence * PER_SEQUENCE + position / PAGE] * PAGE as i32 + (position % PAGE) as i32
}

/// A step of `n` rows.
fn graph(op: &RowAttention, n: usize, held: DType, sinks: bool) -> Graph {
    let mut graph = Graph::new("attention");
    let dims = op.state_dims(PAGES);
    let ty = ValueType::new(held, &dims[..]);
    let state = State { name: "cells".into(), ty, initial: Some(content(op, held)) };
    let state = graph.add_state(state);
    let f32s = |d: [usize; 2]| ValueType::new(DType::F32, &d[..]);
    let mut inputs = vec![
        Some(graph.add_input("q", f32s([n, op.heads * op.key]))),
        Some(graph.add_input("k", f32s([n, op.kv_heads * op.key]))),
    ];
    let v = (!op.value_in_key).then(|| graph.add_input("v", f32s([n, op.kv_heads * op.value])));
    inputs.push(v);
    for name in ["sequences", "positions", "parents", "slots"] {
        inputs.push(Some(graph.add_input(name, ValueType::new(DType::I32, &[n][..]))));
    }
    let table = Tensor::from_slice(&[2, PER_SEQUENCE], &TABLE).unwrap();
    inputs.push(Some(graph.add_constant("pages", table)));
    if sinks {
        inputs.push(Some(graph.add_constant("sinks", floats(&[op.heads], 9))));
    }
    let y = graph.add_value("y", ValueType::new(DType::F32, Shape::unknown()));
    graph.add_node("attention", RowAttention { state, ..*op }, inputs, vec![y]);
    graph.outputs = vec![y];
    graph
}

/// Inputs of rows whose queries, keys and values are those of numbers `numbers`.
fn given(op: &RowAttention, rows: &[Row], first: usize) -> Vec<Tensor> {
    let n = rows.len();
    let part = |width: usize, seed| {
        let x: Vec<f32> = (0..n * width).map(|i| 2.0 * value(first * width + i, seed)).collect();
        Tensor::from_slice(&[n, width], &x).unwrap()
    };
    let mut all = vec![part(op.heads * op.key, 1), part(op.kv_heads * op.key, 2)];
    if !op.value_in_key {
        all.push(part(op.kv_heads * op.value, 3));
    }
    for i in 0..4 {
        let column: Vec<i32> = rows.iter().map(|row| row[i]).collect();
        all.push(Tensor::from_slice(&[n], &column).unwrap());
    }
    all
}

fn op(heads: usize, kv_heads: usize, key: usize, value: usize) -> RowAttention {
    // The id is put in where the state is.
    let mut graph = Graph::new("ids");
    let ty = ValueType::new(DType::F32, &[1][..]);
    let state = graph.add_state(State { name: "cells".into(), ty, initial: None });
    RowAttention {
        state,
        heads,
        kv_heads,
        key,
        value,
        value_in_key: false,
        scale: 0.3,
        softcap: None,
        window: None,
        alibi: None,
    }
}

fn run(plan: &mut Plan, inputs: &[Tensor]) -> Vec<f32> {
    for (i, tensor) in inputs.iter().enumerate() {
        plan.set_input(i, &tensor.view()).unwrap();
    }
    plan.run().unwrap();
    plan.output(0).slice::<f32>().unwrap().to_vec()
}

/// Rows that go on in two sequences, padding, and a tree.
fn mixed_rows() -> Vec<Row> {
    let mut rows: Vec<Row> = vec![[0, 0, -1, cell(0, 0)]];
    rows.extend(
        (0..20).map(|i| [1, 40 + i, if i == 0 { -1 } else { i }, cell(1, 40 + i as usize)]),
    );
    rows.push([-1, 0, -1, 0]);
    // Three ways on after one row, in cells of a page that no sequence has.
    let root = rows.len() as i32;
    let spare = 4 * PAGE as i32;
    rows.push([0, 70, -1, cell(0, 70)]);
    rows.push([0, 71, root, cell(0, 71)]);
    rows.push([0, 71, root, spare]);
    rows.push([0, 72, root + 2, spare + 1]);
    rows.push([0, 71, root, spare + 7]);
    rows
}

/// How far results may be off: scores reach some tens, where the last digit is worth 4e-6, and a
/// weight is off by as much.
const OFF: f32 = 2e-5;

const HELD: [DType; 3] = [DType::F32, DType::F16, DType::Encoded(Encoding::Q8_0)];

/// Runs `graph` by kernels on every instruction set and on one thread as on three, and calls `f` after
/// each run.
fn everywhere(graph: &Graph, inputs: &[Tensor], f: impl Fn(Isa, &Plan)) {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
            let mut plan = Plan::new(graph, &options).unwrap();
            assert!(plan.steps().all(|s| s.kernel != "reference"));
            // Twice: the cells are taken in again.
            for _ in 0..2 {
                run(&mut plan, inputs);
                f(isa, &plan);
            }
        }
    }
}

fn check(op: &RowAttention, sinks: bool) {
    let rows = mixed_rows();
    for held in HELD {
        if held != DType::F32 && held != DType::F16 && op.key % 32 + op.value % 32 > 0 {
            continue;
        }
        let graph = graph(op, rows.len(), held, sinks);
        let inputs = given(op, &rows, 0);
        let want = interpret(&graph, &inputs).unwrap();
        let want = want[0].slice::<f32>().unwrap();
        everywhere(&graph, &inputs, |isa, plan| {
            let got = plan.output(0).slice::<f32>().unwrap();
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let close = (got - want).abs() <= OFF;
                assert!(close, "{isa:?} {op:?} {held} [{i}]: {got}, not {want}");
            }
        });
    }
}

#[test]
fn plain_grouped_and_odd_sizes() {
    check(&op(8, 2, 64, 32), false);
    check(&op(3, 3, 32, 96), false);
    check(&op(4, 1, 20, 12), false);
}

#[test]
fn windows_caps_slopes_and_sinks() {
    check(&RowAttention { window: Some(17), ..op(4, 2, 32, 32) }, true);
    check(&RowAttention { window: Some(64), softcap: Some(5.0), ..op(4, 2, 32, 32) }, false);
    check(&RowAttention { alibi: Some(8.0), ..op(6, 3, 32, 32) }, true);
    check(&RowAttention { value_in_key: true, ..op(4, 1, 96, 64) }, false);
}

#[test]
fn bits_do_not_depend_on_the_cut() {
    let op = RowAttention { window: Some(50), softcap: Some(20.0), ..op(8, 2, 64, 64) };
    const N: usize = 84;
    let rows = |from: usize, to: usize| -> Vec<Row> {
        let parent = |i: usize| if i == from { -1 } else { (i - from) as i32 - 1 };
        (from..to).map(|i| [1, i as i32, parent(i), cell(1, i)]).collect()
    };
    for held in HELD {
        for isa in Isa::available() {
            let plan = |n| {
                let options = PlanOptions { isa: Some(isa), threads: 2, ..PlanOptions::default() };
                Plan::new(&graph(&op, n, held, false), &options).unwrap()
            };
            let whole = run(&mut plan(N), &given(&op, &rows(0, N), 0));
            for step in [1, 7, 42] {
                let mut plan = plan(step);
                let mut all = Vec::new();
                for from in (0..N).step_by(step) {
                    all.extend(run(&mut plan, &given(&op, &rows(from, from + step), from)));
                }
                assert!(all == whole, "{isa:?} {held}: {step} rows at a time differ");
            }
        }
    }
}

#[test]
fn rows_out_of_bounds_are_refused() {
    let op = op(2, 2, 32, 32);
    let graph = graph(&op, 1, DType::F16, false);
    let mut plan = Plan::new(&graph, &PlanOptions::default()).unwrap();
    for row in [[2, 0, -1, 0], [0, -1, -1, 0], [0, 200, -1, 0], [0, 0, -1, 256], [0, 0, -1, -5]] {
        for (i, tensor) in given(&op, &[row], 0).iter().enumerate() {
            plan.set_input(i, &tensor.view()).unwrap();
        }
        assert!(plan.run().is_err(), "{row:?}");
    }
}

/// The gradient of a step whose rows are `rows`, after the step itself.
fn gradient_graph(op: &RowAttention, n: usize, held: DType, sinks: bool) -> Graph {
    let mut graph = graph(op, n, held, sinks);
    let forward = graph.nodes()[0].clone();
    let op = *forward.op.downcast::<RowAttention>().unwrap();
    let dy = ValueType::new(DType::F32, &[n, op.heads * op.value][..]);
    let mut inputs = vec![forward.inputs[0], Some(graph.add_input("dy", dy))];
    inputs.extend(&forward.inputs[3..]);
    let count = 2 + usize::from(!op.value_in_key) + usize::from(sinks);
    let out: Vec<_> = (0..count)
        .map(|i| graph.add_value(format!("d{i}"), ValueType::new(DType::F32, Shape::unknown())))
        .collect();
    graph.add_node("gradient", RowAttentionGradient { forward: op }, inputs, out.clone());
    graph.outputs.extend(out);
    graph
}

/// Three chains from position 0 on, the last of them longer than a block of queries; padding.
fn chains() -> Vec<Row> {
    let chain = |from: usize, count: usize, cell_of: &dyn Fn(usize) -> i32| -> Vec<Row> {
        let parent = |i: usize| if i == 0 { -1 } else { (from + i) as i32 - 1 };
        (0..count).map(|i| [1, i as i32, parent(i), cell_of(i)]).collect()
    };
    let mut rows = chain(0, 1, &|_| 4 * PAGE as i32);
    rows.extend(chain(1, 19, &|i| 6 * PAGE as i32 + 3 + i as i32));
    rows.push([-1, 0, -1, 0]);
    rows.extend(chain(21, 83, &|i| cell(0, i)));
    rows
}

fn check_gradient(op: &RowAttention, sinks: bool) {
    for (rows, held) in
        [chains(), mixed_rows()].into_iter().flat_map(|r| HELD.map(|h| (r.clone(), h)))
    {
        if op.pages(held).is_err() {
            continue;
        }
        let n = rows.len();
        let graph = gradient_graph(op, n, held, sinks);
        let mut inputs = given(op, &rows, 0);
        inputs.push(floats(&[n, op.heads * op.value], 4));
        let want = interpret(&graph, &inputs).unwrap();
        everywhere(&graph, &inputs, |isa, plan| {
            for (output, want) in want.iter().enumerate().skip(1) {
                let (got, want) = (plan.output(output), want.slice::<f32>().unwrap());
                let got = got.slice::<f32>().unwrap();
                let most = want.iter().fold(1f32, |m, x| m.max(x.abs()));
                for (i, (got, want)) in got.iter().zip(want).enumerate() {
                    let close = (got - want).abs() <= OFF * most;
                    assert!(close, "{isa:?} {op:?} {held} {output}[{i}]: {got}, not {want}");
                }
            }
        });
    }
}

#[test]
fn gradients_are_those_of_the_reference() {
    check_gradient(&op(8, 2, 64, 32), false);
    check_gradient(&op(4, 1, 20, 12), true);
    check_gradient(&RowAttention { window: Some(17), ..op(4, 2, 32, 32) }, true);
    let capped = RowAttention { softcap: Some(5.0), alibi: Some(8.0), ..op(6, 3, 32, 32) };
    check_gradient(&RowAttention { window: Some(64), ..capped }, false);
    check_gradient(&RowAttention { value_in_key: true, ..op(4, 1, 96, 64) }, false);
}
