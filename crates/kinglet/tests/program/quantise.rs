//! `kinglet tune --quantise`: models that are trained as they are written.

use crate::common::{file, folder, kinglet, model};
use kinglet::Tensor;
use kinglet::parts::formats::gguf::{Gguf, Value, Writer};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const STORIES: &str = "lm/tinystories-260k-f32.gguf";

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_string()
}

/// The story model in rows of 256, for encodings whose blocks are so long: with zeros beside its weights,
/// and heads that see nothing beside its own, it computes the same.
fn widened(model: &str, out: &str) {
    const WIDE: usize = 256;
    let Gguf { mut metadata, tensors, .. } = Gguf::open(Path::new(model)).unwrap();
    for (key, value) in [
        ("embedding_length", WIDE as u32),
        ("feed_forward_length", WIDE as u32),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 16),
    ] {
        metadata.insert(format!("llama.{key}"), Value::from(value));
    }
    // The mean of squares is over four times as many, of which the others are 0.
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    metadata.insert(epsilon, Value::from(1e-5f32 / 4.0));
    let mut writer = Writer::new(metadata);
    for (name, tensor) in tensors.iter() {
        let values = tensor.slice::<f32>().unwrap();
        let (rows, columns, factor) = match *tensor.dims() {
            [columns] => (1, columns, 0.5),
            [rows, columns] => (rows, columns, 1.0),
            _ => panic!("{name}"),
        };
        let keys = name.contains("attn_k") || name.contains("attn_v");
        let wide_rows = match name {
            _ if tensor.dims().len() == 1 => 1,
            "token_embd.weight" | "output.weight" => rows,
            _ if keys => WIDE / 2,
            _ => WIDE,
        };
        let mut wide = vec![0f32; wide_rows * WIDE];
        for (to, from) in wide.chunks_mut(WIDE).zip(values.chunks(columns)).take(rows) {
            to.iter_mut().zip(from).for_each(|(to, v)| *to = v * factor);
        }
        let dims = [wide_rows, WIDE];
        let dims = if tensor.dims().len() == 1 { &dims[1..] } else { &dims[..] };
        writer.tensor(name, &Tensor::from_slice(dims, &wide).unwrap()).unwrap();
    }
    writer.write(Path::new(out)).unwrap();
}

fn perplexity(model: &str, text: &str) -> f64 {
    let words = ["eval", "perplexity", model, text, "--context", "64", "--json"];
    kinglet(words).json()["perplexity"].as_f64().unwrap()
}

/// Of every encoding: what rounding takes from a trained model, training that sees it gives back.
#[test]
fn low_bits_are_trained() {
    let folder = folder();
    let (Some(small), Some(text)) = (model(STORIES), model("lm/stories.txt")) else { return };
    let text = fs::read_to_string(text).unwrap();
    let middle = text.len() * 4 / 5 + text[text.len() * 4 / 5..].find('\n').unwrap();
    let data = file(&folder, "train.txt", &text.as_bytes()[..middle]);
    let unseen = file(&folder, "unseen.txt", &text.as_bytes()[middle..]);
    let wide = path(&folder, "wide.gguf");
    widened(&small, &wide);
    let (before, same) = (perplexity(&small, &unseen), perplexity(&wide, &unseen));
    assert!((same / before - 1.0).abs() < 1e-3, "{same} for {before}");
    for (model, encoding, rate, share) in LOW_BITS {
        let model = if model == "small" { &small } else { &wide };
        let tune = |out: &str, more: &[&str]| {
            let out = path(&folder, &format!("{encoding}-{out}.gguf"));
            let words =
                ["tune", model, "--data", &data, "-o", &out, "--context", "128", "--batch", "4"];
            let told = kinglet(words.iter().chain(more).chain(&["--json"])).json();
            (told, perplexity(&out, &unseen))
        };
        let (_, rounded) = tune("after", &["--encoding", encoding, "--steps", "1", "--rate", "0"]);
        let more = ["--quantise", encoding, "--steps", "40", "--rate", rate];
        let (told, trained) = tune("aware", &more);
        // Of what rounding loses, this share is left.
        let left = (trained / before).ln() / (rounded / before).ln();
        assert!(left < share, "{encoding}: {before}, rounded {rounded}, trained {trained}: {left}");
        let loss = |key: &str| told[key]["evaluation"].as_f64().unwrap();
        assert!(loss("evaluation") < loss("evaluation_before"), "{told}");
    }
}

/// Models, encodings, learning rates, and the share of the loss by rounding that may be left.
const LOW_BITS: [(&str, &str, &str, f64); 3] = [
    ("small", "q4_0", "3e-4", 0.95),
    ("wide", "q2_k", "1e-3", 0.6),
    ("wide", "tq2_0", "2e-3", 0.6),
];

#[test]
fn types_that_do_not_go_together_are_refused() {
    let folder = folder();
    let Some(model) = model(STORIES) else { return };
    let data = file(&folder, "data.txt", b"Once upon a time there was a fox.\n");
    let out = path(&folder, "out.gguf");
    let refused = |more: &[&str], want: &str| {
        let words = ["tune", &model, "--data", &data, "-o", &out];
        let done = kinglet(words.iter().chain(more));
        assert_eq!(done.status, 2, "{}", done.stderr);
        assert!(done.stderr.contains(want), "{}", done.stderr);
    };
    refused(&["--quantise", "tq2_0", "--encoding", "q4_0"], "leave --encoding out");
    refused(&["--quantise", "f16"], "tq2_0");
    refused(&["--encoding", "q3"], "q3_k");
    refused(&["--quantise", "q4_0", "--lora", "4"], "--lora");
    let llama = concat!(env!("CARGO_MANIFEST_DIR"), "/../lm/tests/hf/llama");
    let config = format!("{llama}/config.json");
    let out = path(&folder, "folder");
    let words = ["tune", "--config", &config, "--vocab", "300", "--data", &data, "-o", &out];
    let message = kinglet(words.iter().chain(&["--quantise", "q4_0"])).refusal();
    assert!(message.contains("q4_0 is for GGUF files"), "{message}");
}
