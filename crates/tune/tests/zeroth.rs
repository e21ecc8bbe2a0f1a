//! Training without gradients (MeZO): it learns, in the memory of inference, and goes on from what was
//! kept as if it had not been interrupted.

use kinglet_formats::Named;
use kinglet_formats::lm::HfConfig;
use kinglet_graph::Tensor;
use kinglet_lm::tokenizer::{Design, train};
use kinglet_runtime::Pool;
use kinglet_tune::data::{Batch, Batches, Data, Encoder};
use kinglet_tune::language::{ABOUT, Model, SPECIAL, TEMPLATE, objective};
use kinglet_tune::{Optimiser, Recipe, Trainer, ZerothOrder, differentiate};
use std::sync::Arc;

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.1,
    "hidden_act": "silu", "tie_word_embeddings": true}"#;

const LINE: &str = r#"{"text": "on and on and on and on and on and on"}"#;

/// A trainer of a small model, and its batch. `zeroth`: without gradients.
fn trainer(zeroth: Option<ZerothOrder>) -> (Trainer, Batch) {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("data.jsonl"), folder.path().join("config.json"));
    std::fs::write(&file, LINE).unwrap();
    std::fs::write(&config, CONFIG).unwrap();
    let design = Design { vocabulary: 270, special: SPECIAL, ..Design::default() };
    let json = train([LINE.to_string()].into_iter(), &design).unwrap();
    let config = HfConfig::open(&config).unwrap();
    let model = Model::fresh(config, (&json, ABOUT), TEMPLATE, 1).unwrap();
    let template = model.chat_template().unwrap();
    let encoder = Encoder::new(model.tokenizer.clone(), template, 64).unwrap();
    let data = Data::open(&[file], encoder, 100, 0, &mut |_, _| {}).unwrap();
    let batches = Batches::new(&data, &[0], 64, 1, 3);
    let objective = objective(&model, &batches).unwrap();
    let (graph, loss, weights) = (&objective.graph, objective.loss, &objective.weights);
    let training = match zeroth {
        Some(zeroth) => zeroth.training(graph, loss, weights),
        None => differentiate(graph, loss, weights, &Recipe::new(Optimiser::adam_w())),
    };
    let trainer =
        Trainer::new(training.unwrap(), &objective.shapes, &Arc::new(Pool::new(1)), true).unwrap();
    let batch = batches.batch(&batches.epoch(0), 0, &data).unwrap().remove(0);
    (trainer, batch)
}

const MEZO: ZerothOrder = ZerothOrder { epsilon: 1e-3, seed: 5 };

fn kept(trainer: &Trainer) -> Named<Tensor> {
    trainer.with_kept(|kept| {
        let mut named = Named::default();
        for (name, tensor) in kept {
            named.insert(*name, (*tensor).clone());
        }
        named
    })
}

fn weights(trainer: &Trainer) -> Vec<f32> {
    trainer.with_trained(|all| {
        all.iter().flat_map(|(_, t)| t.slice::<f32>().unwrap().to_vec()).collect()
    })
}

#[test]
fn it_learns() {
    let (mut trainer, batch) = trainer(Some(MEZO));
    let before = trainer.evaluate(&batch).unwrap().loss / batch.counted as f64;
    for _ in 0..600 {
        trainer.step(std::slice::from_ref(&batch), 2e-4).unwrap();
    }
    let after = trainer.evaluate(&batch).unwrap().loss / batch.counted as f64;
    assert!(after < before - 0.5, "{before} {after}");
}

/// Over many directions the mean of slope times direction is the gradient: a step of plain descent,
/// taken many times from the same weights, moves them as it does.
#[test]
fn its_mean_step_is_down_the_gradient() {
    let (zeroth, batch) = trainer(Some(MEZO));
    let mut zeroth = zeroth;
    let start = kept(&zeroth);
    let from = weights(&zeroth);
    let mut sum = vec![0f64; from.len()];
    let directions = 400;
    for number in 0..directions {
        let mut again = start.clone();
        again.insert("zeroth_order.steps", Tensor::scalar(number as i64));
        zeroth.restore(true, &again).unwrap();
        zeroth.step(std::slice::from_ref(&batch), 1e-2).unwrap();
        for (sum, (to, from)) in sum.iter_mut().zip(weights(&zeroth).iter().zip(&from)) {
            *sum += f64::from(to - from) / f64::from(directions);
        }
    }
    // Against what plain descent does at the same rate.
    zeroth.restore(true, &start).unwrap();
    let before = zeroth.evaluate(&batch).unwrap().loss;
    let step: Vec<f32> = from.iter().zip(&sum).map(|(w, s)| w + *s as f32).collect();
    let mut moved = start.clone();
    let mut at = 0;
    for (name, tensor) in start.iter().filter(|(name, _)| !name.starts_with("zeroth")) {
        let count = tensor.dims().iter().product::<usize>();
        let own = Tensor::from_slice(tensor.dims(), &step[at..at + count]).unwrap();
        moved.insert(name, own);
        at += count;
    }
    zeroth.restore(true, &moved).unwrap();
    let after = zeroth.evaluate(&batch).unwrap().loss;
    assert!(after < before, "{before} {after}");
}

#[test]
fn it_takes_the_memory_of_inference() {
    let (mezo, _) = trainer(Some(MEZO));
    let (adam, _) = trainer(None);
    assert_eq!(mezo.memory().optimiser, 8, "the count of steps");
    assert_eq!(mezo.memory().weights, adam.memory().weights);
    let [mezo, adam] = [mezo, adam].map(|trainer| trainer.memory().activations);
    assert!(mezo * 3 < adam, "{mezo} {adam}");
}

#[test]
fn it_goes_on_as_if_not_interrupted() {
    let (mut whole, batch) = trainer(Some(MEZO));
    let parts = std::slice::from_ref(&batch);
    for _ in 0..3 {
        whole.step(parts, 1e-3).unwrap();
    }
    let (mut again, _) = trainer(Some(MEZO));
    again.restore(true, &kept(&whole)).unwrap();
    for trainer in [&mut whole, &mut again] {
        for _ in 0..3 {
            trainer.step(parts, 1e-3).unwrap();
        }
    }
    assert_eq!(weights(&whole), weights(&again));
}

#[test]
fn a_step_of_no_length_leaves_the_weights() {
    let (mut trainer, batch) = trainer(Some(MEZO));
    let before = weights(&trainer);
    trainer.step(&[batch], 0.0).unwrap();
    let off = weights(&trainer).iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-6, "{off}");
}
