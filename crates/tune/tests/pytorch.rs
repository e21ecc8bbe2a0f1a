//! Whole models against PyTorch: all gradients, and what twenty steps make of the weights
//! (`pytorch/make.py` has written what PyTorch computes). A Llama in single precision, by the
//! interpreter and by a plan, and in mixed precision, near to it; a MobileNetV2 in double, as batch normalisation and the steps of AdamW
//! make twenty steps in single precision depend on the order of sums.

use kinglet_formats::lm::{Build, HfModel, build};
use kinglet_formats::onnx;
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{DType, Dim, Graph, Interpreter, Tensor, ValueId, ValueType, interpret};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_testing::{Array, npz};
use kinglet_tune::{
    Optimiser, Precision, Recipe, Training, cross_entropy, differentiate, gradients,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How far a weight may be off.
const BOUND: f32 = 1e-4;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch")
}

type Expected = BTreeMap<String, Array>;

fn expected(name: &str) -> Expected {
    npz(&here().join(name)).into_iter().collect()
}

fn ints(dims: &[usize], data: &[i32]) -> Tensor {
    Tensor::from_slice(dims, data).unwrap()
}

/// A model with its loss, what is trained, and a batch for its inputs.
struct Model {
    graph: Graph,
    loss: ValueId,
    trained: Vec<ValueId>,
    batch: Vec<Tensor>,
}

impl Model {
    fn names(&self) -> Vec<String> {
        self.trained.iter().map(|v| self.graph.value(*v).name.clone()).collect()
    }
}

/// The constants of these names, of which `wanted` tells.
fn constants(graph: &Graph, wanted: impl Fn(&str) -> bool) -> Vec<ValueId> {
    let all = graph.values_with_ids().filter(|(_, v)| v.data.is_some() && wanted(&v.name));
    all.map(|(id, _)| id).collect()
}

fn llama(expected: &Expected) -> Model {
    let model =
        HfModel::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/hf/llama")).unwrap();
    let sizes = Build { pages: 2, sequences: 2, cache: DType::F32 };
    let mut graph = build(&model.config, &model.family, &model.weights, sizes).unwrap();
    let logits = graph.outputs[0];
    let dims = vec![Dim::symbol("wanted")];
    let targets = graph.add_input("targets", ValueType::new(DType::I32, dims));
    let loss = cross_entropy(&mut graph, logits, targets, Some(-100)).unwrap();
    let trained = constants(&graph, |name| expected.contains_key(&format!("gradient/{name}")));

    let numbers = |name: &str| expected[name].to_vec::<i32>().unwrap();
    let (tokens, lengths) = (numbers("tokens"), numbers("lengths"));
    let n = tokens.len();
    let mut rows: [Vec<i32>; 4] = Default::default();
    for (sequence, length) in lengths.iter().enumerate() {
        for position in 0..*length {
            let row = rows[0].len() as i32;
            let parent = if position == 0 { -1 } else { row - 1 };
            let slot = (sequence * PAGE) as i32 + position;
            for (to, v) in rows.iter_mut().zip([position, sequence as i32, parent, slot]) {
                to.push(v);
            }
        }
    }
    let all: Vec<i32> = (0..n as i32).collect();
    let mut batch = vec![ints(&[n], &tokens)];
    batch.extend(rows.iter().map(|row| ints(&[n], row)));
    // Pages 0 and 1; the table has room for as many pages as there are in all.
    batch.extend([ints(&[2, 2], &[0, -1, 1, -1]), ints(&[n], &all)]);
    batch.push(ints(&[n], &numbers("targets")));
    Model { graph, loss, trained, batch }
}

/// The graph with f64 in place of f32.
fn doubled(mut graph: Graph) -> Graph {
    let singles = graph.values_with_ids().filter(|(_, v)| v.ty.dtype == DType::F32);
    for v in singles.map(|(id, _)| id).collect::<Vec<_>>() {
        graph.value_mut(v).ty.dtype = DType::F64;
        if let Some(data) = graph.value(v).data.clone() {
            graph.set_constant(v, wide(&data));
        }
    }
    graph
}

fn wide(tensor: &Tensor) -> Tensor {
    let numbers: Vec<f64> = tensor.slice::<f32>().unwrap().iter().map(|v| f64::from(*v)).collect();
    Tensor::from_slice(tensor.dims(), &numbers).unwrap()
}

fn mobilenet(expected: &Expected) -> Model {
    let mut graph = doubled(onnx::load(&here().join("mobilenet.onnx")).unwrap());
    let logits = graph.outputs[0];
    let targets: Vec<i64> = expected["targets"].to_vec().unwrap();
    let n = targets.len();
    let ty = ValueType::new(DType::I64, &[n][..]);
    let input = graph.add_input("targets", ty);
    let loss = cross_entropy(&mut graph, logits, input, None).unwrap();
    let trained = constants(&graph, |name| expected.contains_key(&format!("gradient/{name}")));
    let x = &expected["x"];
    let x = Tensor::from_slice(&x.shape, &x.to_vec::<f32>().unwrap()).unwrap();
    let batch = vec![wide(&x), Tensor::from_slice(&[n], &targets).unwrap()];
    Model { graph, loss, trained, batch }
}

/// The elements, f32 or f64.
fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.dtype() {
        DType::F64 => tensor.slice::<f64>().unwrap().iter().map(|v| *v as f32).collect(),
        _ => tensor.slice().unwrap().to_vec(),
    }
}

/// The largest difference between `found` and `expected`.
fn off(found: &Tensor, expected: &[f32]) -> f32 {
    let found = floats(found);
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // NaN must not hide.
    worst.fold(0.0, |m, d| if d <= m { m } else { d })
}

fn check_gradients(model: &Model, expected: &Expected) {
    let names = model.names();
    let all = expected.keys().filter(|k| k.starts_with("gradient/")).count();
    assert_eq!(names.len(), all, "{names:?}");
    let graph = gradients(&model.graph, model.loss, &model.trained).unwrap();
    let found = interpret(&graph, &model.batch).unwrap();
    for (name, found) in names.iter().zip(&found[1..]) {
        let array = &expected[&format!("gradient/{name}")];
        assert_eq!(found.dims(), array.shape, "{name}");
        let want: Vec<f32> = array.to_vec().unwrap();
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = off(found, &want);
        assert!(off <= BOUND * largest.max(0.1), "{name}: off by {off} of {largest}");
    }
}

/// Trains and compares the loss of every step, and in the end all weights.
fn check_steps(model: &Model, expected: &Expected, recipe: Recipe, rate: f32, planned: bool) {
    let training = differentiate(&model.graph, model.loss, &model.trained, &recipe).unwrap();
    let mut run = Run::new(&training, &model.batch, planned);
    let losses: Vec<f32> = expected["loss"].to_vec().unwrap();
    for (step, want) in losses.iter().enumerate() {
        let found = run.step(&model.batch, rate)[0];
        assert!((found - want).abs() <= BOUND * want.max(1.0), "step {step}: {found}, not {want}");
    }
    let states = run.states();
    for trained in &training.trained {
        let want: Vec<f32> = expected[&format!("trained/{}", trained.name)].to_vec().unwrap();
        let off = off(&states[trained.state.index()], &want);
        assert!(off <= BOUND, "{}: off by {off}", trained.name);
    }
}

/// The interpreter or a plan.
enum Run<'a> {
    Interpreted(&'a Graph, Interpreter),
    Planned(Box<Plan>),
}

impl<'a> Run<'a> {
    fn new(training: &'a Training, batch: &[Tensor], planned: bool) -> Run<'a> {
        let graph = &training.graph;
        if !planned {
            return Run::Interpreted(graph, Interpreter::new(graph).unwrap());
        }
        let mut shapes: Vec<_> = batch.iter().map(|t| t.dims().into()).collect();
        shapes.push(Default::default());
        let options =
            PlanOptions { input_shapes: Some(shapes), threads: 2, ..PlanOptions::default() };
        Run::Planned(Box::new(Plan::new(graph, &options).unwrap()))
    }

    /// The scalars that a step gives.
    fn step(&mut self, batch: &[Tensor], rate: f32) -> Vec<f32> {
        let inputs: Vec<Tensor> = batch.iter().cloned().chain([Tensor::scalar(rate)]).collect();
        match self {
            Run::Interpreted(graph, run) => {
                let outputs = run.run(graph, &inputs).unwrap();
                outputs.iter().map(|t| floats(t)[0]).collect()
            }
            Run::Planned(plan) => {
                for (i, tensor) in inputs.iter().enumerate() {
                    plan.set_input(i, &tensor.view()).unwrap();
                }
                plan.run().unwrap();
                let outputs = 0..plan.outputs().len();
                outputs.map(|i| floats(&Tensor::copy_of(&plan.output(i)))[0]).collect()
            }
        }
    }

    fn states(self) -> Vec<Tensor> {
        match self {
            Run::Interpreted(_, run) => run.into_states(),
            Run::Planned(plan) => plan.shared().with_states(|states| states.to_vec()),
        }
    }
}

fn adam_w(weight_decay: f64) -> Recipe {
    let Optimiser::AdamW { beta1, beta2, epsilon, .. } = Optimiser::adam_w() else {
        unreachable!("it is AdamW")
    };
    Recipe::new(Optimiser::AdamW { beta1, beta2, epsilon, weight_decay })
}

#[test]
fn gradients_of_a_llama() {
    let expected = expected("llama.npz");
    check_gradients(&llama(&expected), &expected);
}

#[test]
fn twenty_steps_of_a_llama() {
    let expected = expected("llama.npz");
    let model = llama(&expected);
    for planned in [false, true] {
        check_steps(&model, &expected, adam_w(0.1), 2e-3, planned);
    }
}

/// A factor of bf16 is off by 2⁻⁹ of it at most, which this model of chance amplifies: the gradient of the
/// embeddings is off by 8 %, and by as much where PyTorch computes with factors that are rounded so.
#[test]
fn gradients_of_a_llama_in_bf16() {
    const MOST: f32 = 0.12;
    let expected = expected("llama.npz");
    let model = llama(&expected);
    let sgd = Optimiser::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let recipe = Recipe { precision: Precision::Bf16, ..Recipe::new(sgd) };
    let training = differentiate(&model.graph, model.loss, &model.trained, &recipe).unwrap();
    for planned in [false, true] {
        // A step by all of the gradient, which it so tells.
        let mut run = Run::new(&training, &model.batch, planned);
        run.step(&model.batch, 1.0);
        let states = run.states();
        for trained in &training.trained {
            let before = training.graph.state(trained.state).initial.as_ref().unwrap();
            let after = floats(&states[trained.state.index()]);
            let found = floats(before).into_iter().zip(after).map(|(before, after)| before - after);
            let name = &trained.name;
            let want: Vec<f32> = expected[&format!("gradient/{name}")].to_vec().unwrap();
            let length =
                |all: &mut dyn Iterator<Item = f32>| all.map(|x| x * x).sum::<f32>().sqrt();
            let off = length(&mut found.zip(&want).map(|(found, want)| found - want));
            let share = off / length(&mut want.iter().copied());
            // Products of f32 would be off by less.
            assert!(share > 1e-4 && share < MOST, "{name}: off by {share} of it");
        }
    }
}

#[test]
fn twenty_steps_of_a_llama_in_bf16() {
    let expected = expected("llama.npz");
    let model = llama(&expected);
    let recipe = Recipe { precision: Precision::Bf16, ..adam_w(0.1) };
    let training = differentiate(&model.graph, model.loss, &model.trained, &recipe).unwrap();
    let losses: Vec<f32> = expected["loss"].to_vec().unwrap();
    for planned in [false, true] {
        let mut run = Run::new(&training, &model.batch, planned);
        for (step, want) in losses.iter().enumerate() {
            let found = run.step(&model.batch, 2e-3)[0];
            let off = (found - want).abs();
            assert!(off <= 0.03 * want, "step {step}: {found}, not {want}");
        }
    }
    assert!(losses[19] < 0.9 * losses[0], "{losses:?}");
}

#[test]
fn gradients_of_a_mobilenet() {
    let expected = expected("mobilenet.npz");
    check_gradients(&mobilenet(&expected), &expected);
}

#[test]
fn twenty_steps_of_a_mobilenet() {
    let expected = expected("mobilenet.npz");
    let model = mobilenet(&expected);
    check_steps(&model, &expected, adam_w(0.01), 1.0 / 1024.0, false);
}
