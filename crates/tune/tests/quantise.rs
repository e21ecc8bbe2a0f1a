//! Training that is aware of quantisation: what is trained is what is stored.

use kinglet_formats::gguf::Gguf;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::rows::Linear;
use kinglet_graph::{DType, Encoding, Graph, Interpreter, Tensor, ValueId, ValueType, interpret};
use kinglet_runtime::Pool;
use kinglet_testing::{Rng, model};
use kinglet_tune::data::{Batches, Data, Encoder};
use kinglet_tune::language::{Encoded, Model, objective};
use kinglet_tune::{
    Objective, Optimiser, Range, Recipe, Scale, Trainer, Training, differentiate,
    integer_activation, integer_weight, mean_squared_error, store_as,
};
use std::sync::Arc;

const ROWS: usize = 24;
const WIDTH: usize = 32;

/// y = W x by a W of which only the target is known, and the batch that tells it.
struct Line {
    graph: Graph,
    weight: ValueId,
    y: ValueId,
    loss: ValueId,
    batch: Vec<Tensor>,
}

fn line() -> Line {
    let mut random = Rng::new(5);
    let mut graph = Graph::new("line");
    let x = graph.add_input("x", ValueType::new(DType::F32, &[ROWS, WIDTH][..]));
    let wanted = graph.add_input("wanted", ValueType::new(DType::F32, &[ROWS, 4][..]));
    let start = Tensor::from_slice(&[4, WIDTH], &random.floats(4 * WIDTH, -1.0, 1.0)).unwrap();
    let target = Tensor::from_slice(&[4, WIDTH], &random.floats(4 * WIDTH, -1.0, 1.0)).unwrap();
    let weight = graph.add_constant("w", start);
    let y = graph.apply("y", Linear::default(), &[x, weight], DType::F32);
    let loss = mean_squared_error(&mut graph, y, wanted).unwrap();
    let x = Tensor::from_slice(&[ROWS, WIDTH], &random.floats(ROWS * WIDTH, -1.0, 1.0)).unwrap();
    let mut known = Graph::new("known");
    let of = known.add_input("x", ValueType::new(DType::F32, &[ROWS, WIDTH][..]));
    let target = known.add_constant("w", target);
    let out = known.apply("y", Linear::default(), &[of, target], DType::F32);
    known.outputs = vec![out];
    let wanted = interpret(&known, std::slice::from_ref(&x)).unwrap().remove(0);
    Line { graph, weight, y, loss, batch: vec![x, wanted] }
}

/// Trains, and returns what is trained and the last evaluation.
fn train(training: &Training, batch: &[Tensor], steps: usize) -> (Vec<Tensor>, f32) {
    let mut run = Interpreter::new(&training.graph).unwrap();
    for step in 0..steps {
        let rate = 0.05 * (1.0 - step as f32 / steps as f32);
        let mut inputs = batch.to_vec();
        inputs.push(Tensor::scalar(rate));
        run.run(&training.graph, &inputs).unwrap();
    }
    let states = run.into_states();
    let trained: Vec<Tensor> =
        training.trained.iter().map(|t| states[t.state.index()].clone()).collect();
    let mut graph = training.evaluation.clone();
    for (trained, tensor) in training.trained.iter().zip(&trained) {
        graph.state_mut(trained.state).initial = Some(tensor.clone());
    }
    let loss = interpret(&graph, batch).unwrap()[0].slice::<f32>().unwrap()[0];
    (trained, loss)
}

/// The loss of a line with other weights.
fn loss_with(line: &Line, weight: Tensor) -> f32 {
    let mut graph = line.graph.clone();
    graph.set_constant(line.weight, weight);
    graph.outputs = vec![line.loss];
    interpret(&graph, &line.batch).unwrap()[0].slice::<f32>().unwrap()[0]
}

fn adam() -> Recipe {
    Recipe::new(Optimiser::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0 })
}

#[test]
fn what_is_evaluated_is_what_is_stored() {
    for encoding in [Encoding::Q4_0, Encoding::IQ4_NL] {
        let plain = line();
        let dtype = DType::Encoded(encoding);
        let store = |t: &Tensor| Tensor::encode(dtype, t.dims(), t.slice().unwrap()).unwrap();
        let mut aware = line();
        store_as(&mut aware.graph, aware.weight, dtype).unwrap();
        let training = differentiate(&aware.graph, aware.loss, &[aware.weight], &adam()).unwrap();
        let (trained, evaluated) = train(&training, &aware.batch, 250);
        let stored = loss_with(&plain, store(&trained[0]));
        assert!((stored - evaluated).abs() < 1e-6, "{encoding}: {stored} for {evaluated}");
        let before =
            loss_with(&plain, store(plain.graph.value(plain.weight).data.as_ref().unwrap()));
        assert!(stored < 0.1 * before, "{encoding}: {stored}, before {before}");
    }
}

#[test]
fn integers_are_trained_down_to_three_values() {
    for bits in [2, 3, 8] {
        let mut losses = Vec::new();
        for scale in [Scale::Largest, Scale::Learned] {
            let mut line = line();
            let learned =
                integer_weight(&mut line.graph, line.weight, bits, Some(0), scale).unwrap();
            let trained: Vec<ValueId> = [line.weight].into_iter().chain(learned).collect();
            let training = differentiate(&line.graph, line.loss, &trained, &adam()).unwrap();
            let before = train(&training, &line.batch, 0).1;
            let (tensors, after) = train(&training, &line.batch, 250);
            assert!(after < 0.6 * before, "{bits} bits, {scale:?}: {before} and then {after}");
            assert_eq!(tensors.len(), trained.len());
            assert_eq!(
                training.trained.last().unwrap().name.ends_with(".scale"),
                learned.is_some()
            );
            losses.push(after);
        }
        // Where there are but three values, the largest weight makes a bad scale.
        assert!(bits > 2 || losses[1] < losses[0], "{losses:?}");
    }
    let mut line = line();
    let error = |e: kinglet_graph::GraphError| e.to_string();
    let wide = integer_weight(&mut line.graph, line.weight, 9, None, Scale::Largest);
    assert!(error(wide.unwrap_err()).contains("2 to 8"));
    let no_axis = integer_weight(&mut line.graph, line.weight, 4, Some(2), Scale::Learned);
    assert!(error(no_axis.unwrap_err()).contains("no axis 2"));
    let computed = integer_weight(&mut line.graph, line.y, 4, None, Scale::Largest);
    assert!(error(computed.unwrap_err()).contains("is no constant"));
}

#[test]
fn activations_are_rounded_by_the_range_of_the_batch_or_a_running_one() {
    let rounded = |seen: Range, xs: &[[f32; 3]]| -> Vec<Vec<f32>> {
        let mut graph = Graph::new("activations");
        let x = graph.add_input("x", ValueType::new(DType::F32, &[3][..]));
        let one = graph.add_constant("one", Tensor::from_slice(&[3, 3], &eye()).unwrap());
        let y = graph.apply("y", MatMul::new(), &[x, one], DType::F32);
        graph.outputs = vec![y];
        integer_activation(&mut graph, y, 2, seen).unwrap();
        let mut run = Interpreter::new(&graph).unwrap();
        let tensors = xs.iter().map(|x| Tensor::from_slice(&[3], x).unwrap());
        tensors
            .map(|x| run.run(&graph, &[x]).unwrap()[0].slice::<f32>().unwrap().to_vec())
            .collect()
    };
    // Steps of 1 from -1 to 2; of 2, as the range always has 0; and any, where all are 0.
    let xs = [[-1.0, 0.4, 2.0], [1.0, 3.2, 6.0], [0.0; 3]];
    let want = [vec![-1.0, 0.0, 2.0], vec![0.0, 4.0, 6.0], vec![0.0; 3]];
    assert_eq!(rounded(Range::Batch, &xs), want);
    // From 0 to 3 at first; then half way to what the batch before had.
    let running = Range::Running { keep: 0.5, low: 0.0, high: 3.0 };
    let xs = [[0.0, 2.4, 9.0], [0.0, 2.4, 9.0]];
    assert_eq!(rounded(running, &xs), [vec![0.0, 2.0, 3.0], vec![0.0, 2.0, 6.0]]);
}

fn eye() -> [f32; 9] {
    [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
}

#[test]
fn a_running_range_is_kept_and_evaluation_leaves_it() {
    let mut line = line();
    let running = Range::Running { keep: 0.9, low: -4.0, high: 4.0 };
    integer_activation(&mut line.graph, line.y, 8, running).unwrap();
    let training = differentiate(&line.graph, line.loss, &[line.weight], &adam()).unwrap();
    let kept: Vec<&str> =
        training.kept.iter().map(|s| training.graph.state(*s).name.as_str()).collect();
    assert!(kept.contains(&"y.range.low") && kept.contains(&"y.range.high"), "{kept:?}");
    let mut run = Interpreter::new(&training.evaluation).unwrap();
    run.run(&training.evaluation, &line.batch).unwrap();
    let high = training.kept.iter().find(|s| training.graph.state(**s).name == "y.range.high");
    let states = run.into_states();
    assert_eq!(states[high.unwrap().index()].slice::<f32>().unwrap(), [4.0]);
    let before = train(&training, &line.batch, 0).1;
    assert!(train(&training, &line.batch, 100).1 < before / 4.0);
}

/// A training of the story model on its stories.
struct Stories {
    data: Data,
    batches: Batches,
    objective: Objective,
    model: Model,
}

fn stories(path: &std::path::Path, text: &std::path::Path) -> Stories {
    let model = Model::open(path).unwrap();
    let encoder = || {
        let template = model.chat_template().unwrap();
        Encoder::new(model.tokenizer.clone(), template, 64).unwrap()
    };
    let data = Data::open(&[text.to_path_buf()], encoder(), 256, 0, &mut |_, _| {}).unwrap();
    let all: Vec<u32> = (0..data.len() as u32).collect();
    let batches = Batches::new(&data, &all, 64, 4, 3);
    let objective = objective(&model, &batches).unwrap();
    Stories { data, batches, objective, model }
}

fn trainer(stories: &Stories) -> Trainer {
    let objective = &stories.objective;
    let (graph, weights) = (&objective.graph, &objective.weights);
    let training = differentiate(graph, objective.losses(), weights, &adam()).unwrap();
    Trainer::new(training, &objective.shapes, &Arc::new(Pool::new(2)), true).unwrap()
}

/// The mean loss over the first batches.
fn evaluate(trainer: &mut Trainer, stories: &Stories) -> f64 {
    let epoch = stories.batches.epoch(0);
    let (mut sum, mut counted) = (0.0, 0);
    for i in 0..4 {
        let batch = stories.batches.batch(&epoch, i, &stories.data).unwrap().remove(0);
        sum += trainer.evaluate(&batch).unwrap().loss;
        counted += batch.counted;
    }
    sum / counted as f64
}

#[test]
fn a_written_model_is_the_one_that_was_evaluated() {
    let (Some(path), Some(text)) = (model("lm/tinystories-260k-f32.gguf"), model("lm/stories.txt"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["q4_0", "q6_k", "iq4_nl"] {
        let encoded: Encoded = name.parse().unwrap();
        let mut own = stories(&path, &text);
        own.objective.quantise(encoded, &own.model).unwrap();
        let mut trained = trainer(&own);
        let epoch = own.batches.epoch(1);
        for i in 0..6 {
            let batch = own.batches.batch(&epoch, i, &own.data).unwrap();
            trained.step(&batch, 1e-3).unwrap();
        }
        let evaluated = evaluate(&mut trained, &own);
        let weights: Vec<(String, Tensor)> = trained.with_trained(|all| {
            all.iter().map(|(name, tensor)| (name.to_string(), (*tensor).clone())).collect()
        });
        let out = folder.path().join(format!("{name}.gguf"));
        own.model.write(weights.clone(), &out, encoded).unwrap();

        // The numbers that products saw are those of the file.
        let file = Gguf::open(&out).unwrap();
        let mut rounded = 0;
        for (name, master) in &weights {
            let held = file.tensors.get(name).unwrap();
            let mut found = vec![0.0; master.dims().iter().product()];
            held.view().decode(0, &mut found).unwrap();
            let mut seen = master.clone();
            if held.dtype() != DType::F32 {
                rounded += 1;
                let mut graph = Graph::new("seen");
                let w = graph.add_constant("w", master.clone());
                graph.outputs = vec![w];
                store_as(&mut graph, w, encoded.of(name, master.dims(), false)).unwrap();
                seen = interpret(&graph, &[]).unwrap().remove(0);
            }
            assert!(seen.slice::<f32>().unwrap() == found, "{name}");
        }
        assert!(rounded > 30, "{rounded} of {}", weights.len());

        // Trained on, they are f32 again, and nothing is rounded twice.
        let again = stories(&out, &text);
        let read = evaluate(&mut trainer(&again), &again);
        assert!((read - evaluated).abs() < 1e-5 * evaluated, "{name}: {read} for {evaluated}");
    }
}
