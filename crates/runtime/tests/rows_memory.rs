//! Memories of rows changed by kernels are those of the reference implementations, step after
//! step, and the same bits however rows are cut into steps.

use kinglet_graph::ops::rows::{DeltaRule, RowConv, SelectiveScan};
use kinglet_graph::{DType, Graph, Interpreter, Op, Shape, State, StateId, Tensor, ValueType};
use kinglet_kernels::isa::Isa;
use kinglet_runtime::{Plan, PlanOptions};

fn value(i: usize, seed: usize) -> f32 {
    let mixed = (i + seed * 7919).wrapping_mul(2_654_435_761) >> 7;
    (mixed % 2000) as f32 / 1000.0 - 1.0
}

fn floats(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    Tensor::from_slice(dims, &(0..n).map(|i| value(i, seed)).collect::<Vec<_>>()).unwrap()
}

enum In {
    /// Of each row so many elements.
    Row(usize),
    Constant(Tensor),
    None,
}
use In::{Constant, Row};

/// A case: the op over a state of these sizes for each of three sequences, and its inputs before
/// the rows' sequences and positions.
struct Case<F> {
    op: F,
    state: Vec<usize>,
    inputs: Vec<In>,
}

impl<O: Op + Clone, F: Fn(StateId) -> O> Case<F> {
    fn graph(&self, n: usize) -> Graph {
        let mut graph = Graph::new("case");
        let dims: Vec<usize> = [3].into_iter().chain(self.state.iter().copied()).collect();
        let initial = Some(floats(&dims, 5));
        let ty = ValueType::new(DType::F32, &dims[..]);
        let state = graph.add_state(State { name: "memory".into(), ty, initial });
        let mut ids = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            ids.push(match input {
                Row(width) => {
                    let ty = ValueType::new(DType::F32, &[n, *width][..]);
                    Some(graph.add_input(format!("x{i}"), ty))
                }
                Constant(tensor) => Some(graph.add_constant(format!("w{i}"), tensor.clone())),
                In::None => None,
            });
        }
        for name in ["sequences", "positions"] {
            ids.push(Some(graph.add_input(name, ValueType::new(DType::I32, &[n][..]))));
        }
        let y = graph.add_value("y", ValueType::new(DType::F32, Shape::unknown()));
        graph.add_node("node", (self.op)(state), ids, vec![y]);
        graph.outputs = vec![y];
        graph
    }

    fn given(&self, rows: &[[i32; 2]], first: usize) -> Vec<Tensor> {
        let n = rows.len();
        let mut all = Vec::new();
        for (seed, input) in self.inputs.iter().enumerate() {
            if let Row(width) = input {
                let x: Vec<f32> = (0..n * width).map(|i| value(first * width + i, seed)).collect();
                all.push(Tensor::from_slice(&[n, *width], &x).unwrap());
            }
        }
        for i in 0..2 {
            let column: Vec<i32> = rows.iter().map(|row| row[i]).collect();
            all.push(Tensor::from_slice(&[n], &column).unwrap());
        }
        all
    }

    fn check(&self) {
        let rows = [[0, 7], [2, 0], [2, 1], [-1, 0], [1, 3], [2, 2], [0, 8]];
        let graph = self.graph(rows.len());
        let mut reference = Interpreter::new(&graph).unwrap();
        let steps: Vec<Vec<Tensor>> = (0..3).map(|i| self.given(&rows, i * rows.len())).collect();
        let want: Vec<Tensor> =
            steps.iter().map(|x| reference.run(&graph, x).unwrap().remove(0)).collect();
        for isa in Isa::available() {
            for threads in [1, 3] {
                let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
                let mut plan = Plan::new(&graph, &options).unwrap();
                assert!(plan.steps().all(|s| s.kernel != "reference"));
                for (step, want) in steps.iter().zip(&want) {
                    let got = run(&mut plan, step);
                    for (i, (got, want)) in got.iter().zip(want.slice::<f32>().unwrap()).enumerate()
                    {
                        let close = (got - want).abs() <= 1e-5 * want.abs().max(1.0);
                        assert!(close, "{isa:?} [{i}]: {got}, not {want}");
                    }
                }
            }
            let rows: Vec<[i32; 2]> = (0..6).map(|i| [1, i]).collect();
            let plan = |n| {
                let options = PlanOptions { isa: Some(isa), threads: 2, ..PlanOptions::default() };
                Plan::new(&self.graph(n), &options).unwrap()
            };
            let whole = run(&mut plan(6), &self.given(&rows, 0));
            let mut halves = plan(3);
            let mut got = run(&mut halves, &self.given(&rows[..3], 0));
            got.extend(run(&mut halves, &self.given(&rows[3..], 3)));
            assert!(got == whole, "{isa:?}: rows in two steps differ");
        }
    }
}

fn run(plan: &mut Plan, inputs: &[Tensor]) -> Vec<f32> {
    for (i, tensor) in inputs.iter().enumerate() {
        plan.set_input(i, &tensor.view()).unwrap();
    }
    plan.run().unwrap();
    plan.output(0).slice::<f32>().unwrap().to_vec()
}

#[test]
fn convolution() {
    for (channels, width) in [(1, 4), (37, 4), (64, 3), (20, 1)] {
        let w = || Constant(floats(&[channels, width], 3));
        let op = |state| RowConv { state };
        let state = vec![width - 1, channels];
        Case { op, state: state.clone(), inputs: vec![Row(channels), w(), In::None] }.check();
        let bias = Constant(floats(&[channels], 4));
        Case { op, state, inputs: vec![Row(channels), w(), bias] }.check();
    }
}

#[test]
fn selective_scan() {
    for (heads, size, keys, groups, each) in [(24, 1, 16, 1, 16), (6, 8, 20, 2, 1)] {
        let op = |state| SelectiveScan { state, heads, size, keys, groups };
        let inputs = vec![
            Row(heads * size),
            Row(heads),
            Constant(floats(&[heads, each], 7)),
            Row(groups * keys),
            Row(groups * keys),
            Constant(floats(&[heads], 8)),
        ];
        Case { op, state: vec![heads, size, keys], inputs }.check();
    }
}

#[test]
fn delta_rule() {
    for (heads, key_heads, key, value, strided) in [(4, 2, 16, 32, false), (6, 3, 10, 21, true)] {
        let op = |state| DeltaRule { state, heads, key_heads, key, value, strided };
        let keys = key_heads * key;
        let inputs = vec![Row(keys), Row(keys), Row(heads * value), Row(heads), Row(heads)];
        Case { op, state: vec![heads, key, value], inputs }.check();
    }
}
