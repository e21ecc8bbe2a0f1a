//! `kinglet tune --teacher`: models that learn from others.

use crate::common::{file, folder, kinglet, model};
use serde_json::Value;
use std::fs;
use tempfile::TempDir;

const STORIES: &str = "lm/tinystories-260k-f32.gguf";

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_string()
}

/// A Llama of this width and so many layers, to be made anew.
fn config(folder: &TempDir, width: usize, layers: usize) -> String {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": {width}, "intermediate_size": 64,
        "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "tie_word_embeddings": true, "hidden_act": "silu",
        "rms_norm_eps": 1e-5}}"#
    );
    file(folder, &format!("{width}.json"), config.as_bytes())
}

fn evaluation(told: &Value, key: &str) -> f64 {
    told[key]["evaluation"].as_f64().unwrap()
}

/// A teacher of four layers, and a student of two that is narrower; and one of another vocabulary.
#[test]
fn a_small_model_learns_from_a_larger_one() {
    let folder = folder();
    let text = "A red kite flew over the quiet harbour and nobody saw it land.\n".repeat(100);
    let data = file(&folder, "kite.txt", text.as_bytes());
    let tune = |config: &str, out: &str, more: &[&str]| {
        let words = ["tune", "--config", config, "--data", &data, "-o", out, "--batch", "2"];
        let more = more.iter().chain(&["--context", "64", "--steps", "30", "--json"]);
        kinglet(words.iter().chain(more)).json()
    };
    let (large, small) = (config(&folder, 48, 4), config(&folder, 32, 2));
    let teacher = path(&folder, "teacher");
    tune(&large, &teacher, &["--vocab", "300", "--rate", "1e-2"]);
    let tokens = format!("{teacher}/tokenizer.json");
    let learn = |out: &str, more: &[&str]| {
        let words = ["--tokenizer", &tokens, "--rate", "1e-2"];
        tune(&small, &path(&folder, out), &words.iter().chain(more).copied().collect::<Vec<_>>())
    };
    let alone = learn("alone", &[]);
    // From the teacher alone: the data's own tokens are no part of the loss, and yet are what is told of
    // examples that are held out.
    let more = ["--teacher", &teacher, "--teacher-weight", "1", "--temperature", "2"];
    let soft = learn("soft", &more);
    assert!(
        evaluation(&soft, "evaluation") < 0.6 * evaluation(&soft, "evaluation_before"),
        "{soft}"
    );
    assert_eq!(evaluation(&soft, "evaluation_before"), evaluation(&alone, "evaluation_before"));
    let frozen = |told: &Value| told["memory"]["frozen"].as_u64().unwrap();
    assert!(frozen(&soft) > frozen(&alone), "{soft} {alone}");

    // Projections from 32 to 48 are trained, and are not in what is written.
    let more = ["--teacher", &teacher, "--teacher-features", "all", "--feature-weight", "0.1"];
    let told = learn("features", &more);
    assert!(
        evaluation(&told, "evaluation") < evaluation(&told, "evaluation_before") / 2.0,
        "{told}"
    );
    let weights = |told: &Value| told["memory"]["weights"].as_u64().unwrap();
    assert_eq!(weights(&told) - weights(&alone), 2 * 4 * 32 * 48);
    let size = |name: &str| {
        fs::metadata(folder.path().join(name).join("model.safetensors")).unwrap().len()
    };
    assert_eq!(size("features"), size("alone"));
    let words =
        ["eval", "perplexity", &path(&folder, "features"), &data, "--context", "64", "--json"];
    assert!(kinglet(words).json()["perplexity"].as_f64().unwrap() < 50.0);

    let refused = |more: &[&str], want: &str| {
        let out = path(&folder, "refused");
        let words = ["tune", &path(&folder, "alone"), "--data", &data, "-o", &out];
        let done = kinglet(words.iter().chain(more));
        assert_eq!(done.status, 2, "{}", done.stderr);
        assert!(done.stderr.contains(want), "{}", done.stderr);
    };
    refused(&["--teacher", &teacher, "--teacher-features", "0=9"], "the teacher 0 to 3");
    refused(&["--teacher", &teacher, "--teacher-features", "first"], "last, all");
    refused(&["--teacher", &teacher, "--optimiser", "mezo"], "mezo");
    refused(&["--teacher", "no/such.gguf"], "there is no such file");
    refused(&["--temperature", "2"], "--teacher");
    if let Some(model) = model(STORIES) {
        refused(
            &["--teacher", &model],
            "the teacher's vocabulary is not the student's (512 tokens",
        );
    }
}

/// A model in few bits learns from itself in many.
#[test]
fn a_rounded_model_learns_from_what_it_was() {
    let folder = folder();
    let (Some(model), Some(data)) = (model(STORIES), model("lm/stories.txt")) else { return };
    let out = path(&folder, "out.gguf");
    let words = ["tune", &model, "--data", &data, "-o", &out, "--context", "64", "--batch", "2"];
    let more =
        ["--quantise", "q4_0", "--teacher", &model, "--steps", "12", "--rate", "1e-4", "--json"];
    let told = kinglet(words.iter().chain(&more)).json();
    assert!(evaluation(&told, "evaluation") < evaluation(&told, "evaluation_before"), "{told}");
    // The same command goes on from what is kept, and another teacher's does not.
    let other = ["--quantise", "q4_0", "--steps", "12", "--rate", "1e-4", "--json"];
    fs::remove_file(&out).unwrap();
    let message = kinglet(words.iter().chain(&other).chain(&["--quiet"])).refusal();
    assert!(message.contains("--teacher"), "{message}");
}
