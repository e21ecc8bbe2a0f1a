//! Activations that are computed again: the same gradients to the last bit, in less memory.

use kinglet_formats::Named;
use kinglet_formats::lm::{Build, HfModel, Weights, build};
use kinglet_formats::onnx;
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{DType, Dim, Dims, Encoding, Graph, Tensor, ValueId, ValueType};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_tune::{Optimiser, Recipe, Training, cross_entropy, differentiate};
use std::path::{Path, PathBuf};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A model with its loss, what is trained, and a batch.
struct Model {
    graph: Graph,
    loss: ValueId,
    trained: Vec<ValueId>,
    batch: Vec<Tensor>,
}

impl Model {
    fn training(&self, recompute: bool) -> Training {
        let recipe = Recipe { recompute, clip: Some(1.0), ..Recipe::new(Optimiser::sgd()) };
        differentiate(&self.graph, self.loss, &self.trained, &recipe).unwrap()
    }

    fn plan(&self, recompute: bool) -> Plan {
        let scalar = std::iter::once(Dims::new());
        let shapes = self.batch.iter().map(|t| t.dims().into()).chain(scalar).collect();
        let options =
            PlanOptions { input_shapes: Some(shapes), threads: 2, ..PlanOptions::default() };
        Plan::new(&self.training(recompute).graph, &options).unwrap()
    }

    /// The losses and norms of three steps, and the state after them.
    fn steps(&self, recompute: bool) -> (Vec<Tensor>, Vec<Tensor>) {
        let mut plan = self.plan(recompute);
        let rate = Tensor::scalar(0.01f32);
        let mut told = Vec::new();
        for _ in 0..3 {
            for (i, tensor) in self.batch.iter().chain([&rate]).enumerate() {
                plan.set_input(i, &tensor.view()).unwrap();
            }
            plan.run().unwrap();
            told.extend((0..2).map(|i| Tensor::copy_of(&plan.output(i))));
        }
        (told, plan.shared().with_states(|states| states.to_vec()))
    }
}

fn constants(graph: &Graph, wanted: impl Fn(&str) -> bool) -> Vec<ValueId> {
    let all = graph.values_with_ids().filter(|(_, v)| v.data.is_some() && wanted(&v.name));
    all.map(|(id, _)| id).collect()
}

/// A model's weights as those of one that has more layers, matrices of layers as `dtype`.
struct Repeated {
    weights: Named<Tensor>,
    layers: usize,
    dtype: DType,
}

impl Weights for Repeated {
    fn tensor(&self, name: &str) -> Option<Tensor> {
        let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')) else {
            return self.weights.tensor(name);
        };
        let layer = layer.parse::<usize>().ok()? % self.layers;
        let tensor = self.weights.tensor(&format!("blk.{layer}.{rest}"))?;
        let mut values = vec![0.0; tensor.dims().iter().product()];
        tensor.view().decode(0, &mut values).ok()?;
        // A width that is no multiple of a block stays in floats.
        let of = |dtype| Tensor::encode(dtype, tensor.dims(), &values).ok();
        of(if tensor.dims().len() == 2 { self.dtype } else { DType::F32 }).or(of(DType::F32))
    }
}

/// `lines` lines of `context` rows through a Llama of `layers` layers, of which `wanted` are trained.
fn llama(
    layers: usize,
    dtype: DType,
    (lines, context): (usize, usize),
    wanted: impl Fn(&str) -> bool,
) -> Model {
    let mut model = HfModel::open(&here().join("../../lm/tests/hf/llama")).unwrap();
    let weights = Repeated { weights: model.weights, layers: model.config.layers, dtype };
    model.config.layers = layers;
    for heads in [&mut model.config.heads, &mut model.config.kv_heads] {
        heads.resize(layers, heads[0]);
    }
    let pages_of_line = context.div_ceil(PAGE);
    let sizes = Build { pages: lines * pages_of_line, sequences: lines, cache: DType::F32 };
    let mut graph = build(&model.config, &model.family, &weights, sizes).unwrap();
    let logits = graph.outputs[0];
    let targets =
        graph.add_input("targets", ValueType::new(DType::I32, vec![Dim::symbol("wanted")]));
    let n = lines * context;
    let ints = |dims: &[usize], f: &dyn Fn(usize) -> usize| {
        let all: Vec<i32> = (0..dims.iter().product()).map(|i| f(i) as i32).collect();
        Tensor::from_slice(dims, &all).unwrap()
    };
    let batch = vec![
        ints(&[n], &|i| i * 7 % 50),
        ints(&[n], &|i| i % context),
        ints(&[n], &|i| i / context),
        ints(&[n], &|i| if i % context == 0 { usize::MAX } else { i - 1 }),
        ints(&[n], &|i| i / context * pages_of_line * PAGE + i % context),
        ints(&[lines, lines * pages_of_line], &|_| usize::MAX),
        ints(&[n], &|i| i),
        ints(&[n], &|i| (i + 1) * 7 % 50),
    ];
    let shapes: Vec<Dims> = batch.iter().map(|t| t.dims().into()).collect();
    kinglet_graph::set_input_shapes(&mut graph, &shapes).unwrap();
    let loss = cross_entropy(&mut graph, logits, targets, Some(-100)).unwrap();
    let trained = constants(&graph, |name| wanted(name) && weights.tensor(name).is_some());
    Model { graph, loss, trained, batch }
}

fn mobilenet() -> Model {
    let mut graph = onnx::load(&here().join("pytorch/mobilenet.onnx")).unwrap();
    let dims = graph.value(graph.inputs[0]).ty.shape.fixed().unwrap();
    let n = dims[0];
    let targets = graph.add_input("targets", ValueType::new(DType::I64, &[n][..]));
    let logits = graph.outputs[0];
    let loss = cross_entropy(&mut graph, logits, targets, None).unwrap();
    let expected = kinglet_testing::npz(&here().join("pytorch/mobilenet.npz"));
    let names: Vec<String> = expected.into_iter().map(|(name, _)| name).collect();
    let trained = constants(&graph, |name| names.contains(&format!("gradient/{name}")));
    let pixels: Vec<f32> =
        (0..dims.iter().product()).map(|i: usize| (0.37 * i as f32).sin()).collect();
    let classes: Vec<i64> = (0..n as i64).collect();
    let batch = vec![
        Tensor::from_slice(&dims, &pixels).unwrap(),
        Tensor::from_slice(&[n], &classes).unwrap(),
    ];
    Model { graph, loss, trained, batch }
}

fn check_same(model: &Model) {
    let ((told, held), (again, recomputed)) = (model.steps(false), model.steps(true));
    let bytes = |tensors: &[Tensor]| tensors.iter().map(|t| t.raw().to_vec()).collect::<Vec<_>>();
    assert_eq!(bytes(&told), bytes(&again));
    assert!(bytes(&held) == bytes(&recomputed), "other weights");
    let copies = |recompute| model.training(recompute).graph.nodes().len();
    assert!(copies(true) > copies(false));
}

#[test]
fn a_llama_learns_the_same() {
    check_same(&llama(4, DType::F32, (2, 24), |_| true));
}

/// Products by constants that are there twice must not be joined to one.
#[test]
fn a_llama_of_constants_learns_the_same() {
    for dtype in [DType::F32, DType::Encoded(Encoding::Q8_0)] {
        let model = llama(6, dtype, (2, 24), |name| name.ends_with("norm.weight"));
        check_same(&model);
        // Without the kernels' scratch, which is more than the activations of so few rows.
        let values = |recompute| model.plan(recompute).memory().lower_bound;
        assert!(2 * values(true) < values(false), "{} of {}", values(true), values(false));
    }
}

#[test]
fn a_mobilenet_learns_the_same() {
    check_same(&mobilenet());
}

#[test]
fn memory_falls() {
    let all = llama(12, DType::F32, (4, 64), |name| name.starts_with("blk."));
    for (model, share) in [(all, 0.4), (mobilenet(), 0.55)] {
        let planned = |recompute| model.plan(recompute).memory().planned;
        let (held, again) = (planned(false), planned(true));
        assert!((again as f64) < share * held as f64, "{again} of {held}");
    }
}
