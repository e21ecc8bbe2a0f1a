//! Random small graphs: the verifier accepts them, shape rules tell what the interpreter makes, and
//! every pass, and the plan, keep the interpreter's result.

use std::collections::BTreeSet;

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::gather::Gather;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::BatchNorm;
use kinglet_graph::ops::pad::{Pad, PadMode};
use kinglet_graph::ops::pool::{GlobalPool, Pool, PoolKind};
use kinglet_graph::ops::reduce::{Reduce, ReduceKind};
use kinglet_graph::ops::reshape::{Flatten, Identity};
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::softmax::Softmax;
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{Bindings, DType, Dim, Fold, Graph, Op, Shape, Tensor, ValueId, ValueType};
use kinglet_graph::{infer, interpret};
use kinglet_runtime::{Plan, PlanOptions, passes};
use kinglet_testing::Rng;

const BATCH: usize = 2;

/// A graph under construction, and the values that may go on.
struct Builder {
    graph: Graph,
    rng: Rng,
    values: Vec<ValueId>,
    /// The batch stays the first dimension, and what is done does not depend on its size.
    still: bool,
}

impl Builder {
    fn new(seed: u64, still: bool) -> Builder {
        let mut rng = Rng::new(seed);
        let mut graph = Graph::new("random");
        let mut size = || 3 + rng.below(4);
        let dims = [BATCH, size(), size(), size()];
        let x = graph.add_input("x", ValueType::new(DType::F32, &dims[..]));
        Builder { graph, rng, values: vec![x], still }
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.below(all.len())]
    }

    fn dims(&self, value: ValueId) -> Vec<usize> {
        self.graph.value(value).ty.shape.fixed().expect("sizes are inferred").to_vec()
    }

    fn weights(&mut self, dims: &[usize]) -> ValueId {
        let data = self.rng.floats(dims.iter().product(), -1.0, 1.0);
        self.graph.add_constant("", Tensor::from_slice(dims, &data).unwrap())
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_constant("", Tensor::from_slice(&[values.len()], values).unwrap())
    }

    fn add(&mut self, op: impl Op, inputs: &[ValueId]) {
        let name = format!("n{}", self.graph.nodes().len());
        let y = self.graph.apply(name, op, inputs, DType::F32);
        infer(&mut self.graph, Fold::Shapes).unwrap_or_else(|e| panic!("{e}\n{}", self.graph));
        self.values.push(y);
    }

    /// Adds one node, where the value that was chosen allows the op that was.
    fn grow(&mut self) {
        let x = self.one_of(&self.values.clone());
        let dims = self.dims(x);
        let (rank, first) = (dims.len(), usize::from(self.still));
        let axis = first + self.rng.below(rank - first);
        match self.rng.below(16) {
            0 | 1 => {
                let function = self.one_of(&[
                    Unary::Relu,
                    Unary::Abs,
                    Unary::Sigmoid,
                    Unary::Tanh,
                    Unary::HardSwish,
                    Unary::Clamp { min: -0.5, max: 0.75 },
                ]);
                self.add(function, &[x]);
            }
            2 => {
                // The batch may stand anywhere, and be of any size.
                let own: Vec<usize> = dims
                    .iter()
                    .map(|d| if *d == BATCH || self.rng.below(2) == 0 { 1 } else { *d })
                    .collect();
                let lead = self.rng.below(rank);
                let other = self.weights(&own[lead..]);
                let function =
                    self.one_of(&[BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Max]);
                let inputs = if self.rng.below(2) == 0 { [x, other] } else { [other, x] };
                self.add(Binary::new(function), &inputs);
            }
            3 => {
                let same: Vec<ValueId> =
                    self.values.iter().copied().filter(|v| self.dims(*v) == dims).collect();
                let other = self.one_of(&same);
                let function = self.one_of(&[BinaryFn::Add, BinaryFn::Sub, BinaryFn::Min]);
                self.add(Binary::new(function), &[x, other]);
            }
            4..=6 if rank == 4 => self.conv(x, &dims),
            7 if rank == 4 && dims[2].min(dims[3]) >= 2 => {
                let kind = match self.rng.below(3) {
                    0 => PoolKind::Max,
                    n => PoolKind::Average { include_padding: n == 1 },
                };
                let window = Window { stride: vec![1 + self.rng.below(2); 2], ..Window::unit(2) };
                let op = Pool {
                    kind,
                    kernel: vec![2, 2],
                    window,
                    ceil: self.rng.below(2) == 0,
                    layout: Layout::ChannelsFirst,
                    activation: Activation::None,
                };
                self.add(op, &[x]);
            }
            8 if rank == 4 => {
                let kind = PoolKind::Average { include_padding: false };
                self.add(GlobalPool { kind, layout: Layout::ChannelsFirst }, &[x]);
            }
            9 => {
                let kind = self.one_of(&[ReduceKind::Mean, ReduceKind::Sum, ReduceKind::Max]);
                let axes = self.ints(&[axis as i64]);
                let keep_dims = rank < 3 || self.rng.below(2) == 0;
                self.add(Reduce { kind, keep_dims, none_by_default: false }, &[x, axes]);
            }
            10 => {
                let mut order: Vec<i64> = (0..rank as i64).collect();
                let mut swap = |i| order.swap(i, first + self.rng.below(i + 1 - first));
                (first + 1..rank).for_each(&mut swap);
                let order = self.ints(&order);
                self.add(Transpose, &[x, order]);
            }
            11 => {
                let all = vec![x; 1 + self.rng.below(3)];
                self.add(Concat { axis: axis as i64 }, &all);
            }
            12 if dims[axis] > 2 => {
                let (start, end) = (self.rng.below(2) as i64, dims[axis] as i64 - 1);
                let [start, end, axis] = [start, end, axis as i64].map(|v| self.ints(&[v]));
                self.add(Slice, &[x, start, end, axis]);
            }
            13 => {
                let mut pads = vec![0; 2 * rank];
                pads[axis] = self.rng.below(2) as i64;
                pads[rank + axis] = self.rng.below(3) as i64;
                let pads = self.ints(&pads);
                self.add(Pad { mode: PadMode::Constant }, &[x, pads]);
            }
            14 => {
                let depth = dims[rank - 1];
                let columns = 1 + self.rng.below(7);
                let mut inputs = vec![x, self.weights(&[depth, columns])];
                if self.rng.below(2) == 0 {
                    inputs.push(self.weights(&[columns]));
                }
                self.add(MatMul::new(), &inputs);
            }
            _ => match self.rng.below(4) {
                0 => self.add(Softmax::new(axis as i64), &[x]),
                1 => {
                    let places = [0, dims[axis] as i64 - 1, 0];
                    let places = self.ints(&places);
                    self.add(Gather { axis: axis as i64, batch_dims: 0 }, &[x, places]);
                }
                2 => self.add(Flatten { axis: 1 }, &[x]),
                _ => self.add(Identity, &[x]),
            },
        }
    }

    fn conv(&mut self, x: ValueId, dims: &[usize]) {
        let channels = dims[1];
        let kernel = 1 + self.rng.below(3);
        let depthwise = self.rng.below(3) == 0;
        let (groups, out) = match depthwise {
            true => (channels, channels),
            false => (1, 1 + self.rng.below(6)),
        };
        let pad = kernel / 2;
        let (before, after) = (vec![pad; 2], vec![pad; 2]);
        let window = Window {
            stride: vec![1 + self.rng.below(2); 2],
            padding: Padding::Explicit { before, after },
            ..Window::unit(2)
        };
        if dims[2] + 2 * pad < kernel || dims[3] + 2 * pad < kernel {
            return;
        }
        let mut inputs = vec![x, self.weights(&[out, channels / groups, kernel, kernel])];
        if self.rng.below(2) == 0 {
            inputs.push(self.weights(&[out]));
        }
        let (layout, weight_layout) = (Layout::ChannelsFirst, WeightLayout::OutInSpatial);
        let activation = Activation::None;
        self.add(Conv { window, groups, layout, weight_layout, activation }, &inputs);
        if self.rng.below(3) == 0 {
            let y = *self.values.last().expect("the convolution");
            let mut inputs = vec![y];
            inputs.extend((0..3).map(|_| self.weights(&[out])));
            let variance = self.rng.floats(out, 0.5, 2.0);
            let variance = Tensor::from_slice(&[out], &variance).unwrap();
            inputs.push(self.graph.add_constant("", variance));
            self.add(BatchNorm { epsilon: 1e-3, layout }, &inputs);
        }
    }

    fn finish(mut self) -> Graph {
        let last = *self.values.last().expect("there is the input");
        let other = self.one_of(&self.values.clone());
        let outputs = BTreeSet::from([last.index(), other.index()]);
        self.graph.outputs =
            self.values.iter().copied().filter(|v| outputs.contains(&v.index())).collect();
        self.graph.remove_unused();
        self.graph
    }
}

fn random(seed: u64, still: bool) -> Graph {
    let mut builder = Builder::new(seed, still);
    for _ in 0..3 + builder.rng.below(10) {
        builder.grow();
        // Large ones teach nothing more.
        let last = *builder.values.last().expect("there is the input");
        if builder.dims(last).iter().product::<usize>() > 4000 {
            break;
        }
    }
    builder.finish()
}

fn input(seed: u64, dims: &[usize]) -> Tensor {
    let data = Rng::new(!seed).floats(dims.iter().product(), -1.0, 1.0);
    Tensor::from_slice(dims, &data).unwrap()
}

/// That `got` are the outputs `want`, but for the rounding of sums in another order.
fn same(what: &str, got: &[Tensor], want: &[Tensor]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.dims(), want.dims(), "{what}");
        let (got, want) = (got.slice::<f32>().unwrap(), want.slice::<f32>().unwrap());
        let scale = want.iter().fold(1f32, |most, v| most.max(v.abs()));
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            assert!((a - b).abs() <= 1e-4 * scale, "{what}, element {i}: {a} for {b}");
        }
    }
}

/// Every value's sizes, as the interpreter makes them.
fn made(graph: &Graph, x: &Tensor) -> Vec<(ValueId, Vec<usize>)> {
    let mut all = graph.clone();
    all.outputs = graph.nodes().iter().flat_map(|n| n.outputs.clone()).collect();
    let tensors = interpret(&all, std::slice::from_ref(x)).unwrap();
    all.outputs.iter().copied().zip(tensors.iter().map(|t| t.dims().to_vec())).collect()
}

const SEEDS: u64 = 400;

#[test]
fn shape_rules_tell_what_the_interpreter_makes() {
    for seed in 0..SEEDS {
        let graph = random(seed, false);
        graph.verify().unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        let dims = graph.value(graph.inputs[0]).ty.shape.fixed().unwrap();
        let x = input(seed, &dims);
        for (id, found) in made(&graph, &x) {
            let told = graph.value(id).ty.shape.fixed();
            assert_eq!(told.as_deref(), Some(&found[..]), "seed {seed}, {id}\n{graph}");
        }
    }
}

#[test]
fn symbolic_sizes_hold_for_every_batch() {
    for seed in 0..SEEDS {
        let mut graph = random(seed, true);
        let dims = graph.value(graph.inputs[0]).ty.shape.fixed().unwrap();
        let open: Vec<Dim> = std::iter::once(Dim::symbol("n"))
            .chain(dims[1..].iter().map(|d| Dim::from(*d)))
            .collect();
        let computed: Vec<ValueId> = graph.nodes().iter().flat_map(|n| n.outputs.clone()).collect();
        computed.into_iter().for_each(|v| graph.value_mut(v).ty.shape = Shape::unknown());
        let x = graph.inputs[0];
        graph.value_mut(x).ty.shape = Shape::new(open);
        infer(&mut graph, Fold::Shapes).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        for batch in [BATCH, 5] {
            let bindings = Bindings::from([("n".into(), batch as i64)]);
            let mut sizes = dims.to_vec();
            sizes[0] = batch;
            for (id, found) in made(&graph, &input(seed, &sizes)) {
                let told = graph.value(id).ty.shape.bind(&bindings).fixed();
                assert_eq!(told.as_deref(), Some(&found[..]), "seed {seed}, {id}\n{graph}");
            }
        }
    }
}

#[test]
fn passes_and_plans_keep_the_result() {
    for seed in 0..SEEDS {
        let graph = random(seed, false);
        let dims = graph.value(graph.inputs[0]).ty.shape.fixed().unwrap();
        let x = [input(seed, &dims)];
        let want = interpret(&graph, &x).unwrap();
        let mut optimised = graph.clone();
        passes::optimise(&mut optimised, &mut |stage, graph| {
            let what = format!("seed {seed}, after {stage}");
            graph.verify().unwrap_or_else(|e| panic!("{what}: {e}\n{graph}"));
            same(&what, &interpret(graph, &x).unwrap(), &want);
        })
        .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        let options = PlanOptions { threads: 2, ..PlanOptions::default() };
        let mut plan = Plan::new(&graph, &options).unwrap_or_else(|e| panic!("{e}\n{graph}"));
        plan.set_input(0, &x[0].view()).unwrap();
        plan.run().unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        let got: Vec<Tensor> = (0..want.len()).map(|i| Tensor::copy_of(&plan.output(i))).collect();
        same(&format!("seed {seed}, the plan"), &got, &want);
    }
}
