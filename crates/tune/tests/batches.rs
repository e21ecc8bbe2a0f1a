//! Examples that share a line do not see each other: the loss of a batch is that of its examples, each
//! by itself.

use kinglet_formats::lm::HfConfig;
use kinglet_lm::tokenizer::{Design, train};
use kinglet_runtime::Pool;
use kinglet_tune::data::{Batches, Data, Encoder};
use kinglet_tune::language::{ABOUT, Model, SPECIAL, TEMPLATE, objective};
use kinglet_tune::{Optimiser, Recipe, Trainer, differentiate};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    "hidden_act": "silu"}"#;

const LINES: [&str; 5] = [
    r#"{"text": "one two three"}"#,
    r#"{"say": "lamp on", "call": {"name": "lamp", "arguments": {"on": true}}}"#,
    r#"{"text": "four five"}"#,
    r#"{"say": "lamp off", "call": {"name": "lamp", "arguments": {"on": false}}}"#,
    r#"{"text": "a line that is longer than the context has room for, so that it is cut in pieces"}"#,
];

struct Fixture {
    _folder: tempfile::TempDir,
    files: Vec<PathBuf>,
    model: Model,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data.jsonl"), folder.path().join("config.json"));
    std::fs::write(&data, LINES.join("\n")).unwrap();
    std::fs::write(&config, CONFIG).unwrap();
    let texts = LINES.iter().map(|line| line.to_string());
    let design = Design { vocabulary: 280, special: SPECIAL, ..Design::default() };
    let json = train(texts, &design).unwrap();
    let config = HfConfig::open(&config).unwrap();
    let model = Model::fresh(config, (&json, ABOUT), TEMPLATE, 1).unwrap();
    Fixture { files: vec![data], model, _folder: folder }
}

impl Fixture {
    fn encoder(&self, context: usize) -> Encoder {
        let template = self.model.chat_template().unwrap();
        Encoder::new(self.model.tokenizer.clone(), template, context).unwrap()
    }

    /// The sum of the losses of examples `chosen`, in lines of `context`; and how many batches it took.
    fn loss(&self, chosen: &[u32], context: usize, lines: usize) -> (f64, usize) {
        let encoder = self.encoder(context);
        let data = Data::open(&self.files, encoder, 100, 0, &mut |_, _| {}).unwrap();
        let batches = Batches::new(&data, chosen, context, lines, 3);
        let objective = objective(&self.model, &batches).unwrap();
        let recipe = Recipe::new(Optimiser::sgd());
        let training =
            differentiate(&objective.graph, objective.loss, &objective.weights, &recipe).unwrap();
        let pool = Arc::new(Pool::new(1));
        let mut trainer = Trainer::new(training, &objective.shapes, &pool, true).unwrap();
        let epoch = batches.epoch(0);
        let sum = (0..epoch.len()).map(|i| {
            let batch = batches.batch(&epoch, i, &data).unwrap().remove(0);
            trainer.evaluate(&batch).unwrap().loss
        });
        (sum.sum(), epoch.len())
    }
}

/// A batch that runs in parts makes the step that it makes at once: each part counts by its share of
/// all targets.
#[test]
fn parts_of_a_batch_make_its_step() {
    let fixture = fixture();
    let encoder = fixture.encoder(70);
    let data = Data::open(&fixture.files, encoder, 100, 0, &mut |_, _| {}).unwrap();
    let all: Vec<u32> = (0..data.len() as u32).collect();
    let step = |parts: usize| {
        let batches = Batches::new(&data, &all, 70, 3, 5).in_parts(parts);
        let objective = objective(&fixture.model, &batches).unwrap();
        let recipe = Recipe { accumulate: parts > 1, ..Recipe::new(Optimiser::sgd()) };
        let training =
            differentiate(&objective.graph, objective.loss, &objective.weights, &recipe).unwrap();
        let pool = Arc::new(Pool::new(1));
        let mut trainer = Trainer::new(training, &objective.shapes, &pool, false).unwrap();
        let parts = batches.batch(&batches.epoch(0), 0, &data).unwrap();
        let counted: Vec<usize> = parts.iter().map(|part| part.counted).collect();
        let done = trainer.step(&parts, 0.1).unwrap();
        let weights = trainer.with_trained(|tensors| {
            let all = tensors.iter().flat_map(|(_, t)| t.slice::<f32>().unwrap().to_vec());
            all.collect::<Vec<_>>()
        });
        (done.loss, counted, weights)
    };
    let (loss, whole, weights) = step(1);
    for parts in [2, 3] {
        let (own, counted, others) = step(parts);
        assert_eq!((counted.len(), counted.iter().sum()), (parts, whole[0]));
        assert!((own - loss).abs() < 1e-6 * loss, "{own}, not {loss}");
        let off = weights.iter().zip(&others).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{off}");
    }
}

#[test]
fn examples_that_share_a_line_do_not_see_each_other() {
    let fixture = fixture();
    let (together, batches) = fixture.loss(&[0, 1, 2, 3], 96, 2);
    assert_eq!(batches, 1);
    let alone: f64 = (0..4).map(|i| fixture.loss(&[i], 96, 2).0).sum();
    assert!((together - alone).abs() < 1e-3 * alone, "{together}, not {alone}");
    // In many batches of one short line.
    let (each, batches) = fixture.loss(&[0, 1, 2, 3], 70, 1);
    assert!(batches > 1 && (each - alone).abs() < 1e-3 * alone, "{each}, not {alone}");
}

#[test]
fn every_row_comes_once_an_epoch_in_an_order_of_its_own() {
    let fixture = fixture();
    let encoder = fixture.encoder(70);
    let data = Data::open(&fixture.files, encoder, 100, 0, &mut |_, _| {}).unwrap();
    let all: Vec<u32> = (0..data.len() as u32).collect();
    let rows: u32 = data.rows().iter().sum();
    let batches = Batches::new(&data, &all, 70, 1, 5);
    let epoch = |number: u64| {
        let epoch = batches.epoch(number);
        let batch = |i| batches.batch(&epoch, i, &data).unwrap().remove(0);
        (0..epoch.len()).map(batch).collect::<Vec<_>>()
    };
    let (first, second, again) = (epoch(0), epoch(1), epoch(0));
    for of in [&first, &second] {
        assert_eq!(of.iter().map(|b| b.rows as u32).sum::<u32>(), rows);
        for batch in of {
            let input = |i: usize| batch.inputs[i].slice::<i32>().unwrap().to_vec();
            let (sequences, slots, targets) = (input(2), input(4), input(7));
            let live = sequences.iter().filter(|s| **s >= 0).count();
            let slots: BTreeSet<i32> = slots.into_iter().filter(|s| *s >= 0).collect();
            assert_eq!((live, slots.len()), (batch.rows, batch.rows));
            let counted = targets.iter().filter(|t| **t >= 0).count();
            assert!(counted == batch.counted && counted > 0);
        }
    }
    let tokens = |of: &[kinglet_tune::data::Batch]| -> Vec<i32> {
        of.iter().flat_map(|b| b.inputs[0].slice().unwrap().to_vec()).collect()
    };
    assert_eq!(tokens(&first), tokens(&again));
    assert_ne!(tokens(&first), tokens(&second));
}
