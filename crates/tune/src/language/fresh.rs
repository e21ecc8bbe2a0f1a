//! New models: weights of chance, and how their conversations are written.

use crate::TuneError;
use crate::random::Random;
use kinglet_formats::Named;
use kinglet_formats::lm::{HfConfig, Start};
use kinglet_graph::Tensor;

/// The tokens of new tokenisers that are no text: what ends a text, who speaks, and what ends what is
/// said.
pub const SPECIAL: &[&str] =
    &["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"];

/// What the `tokenizer_config.json` of a new tokeniser says: what ends a text.
pub const ABOUT: &str = "{\n  \"eos_token\": \"<|endoftext|>\"\n}\n";

/// The chat template of new models: each message between two tokens, so that a short one stays short.
pub const TEMPLATE: &str = "\
{%- for message in messages -%}
    {{- '<|' + message.role + '|>' + (message.content or '') + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}";

/// The spread of weights where `config.json` says none.
const SPREAD: f64 = 0.02;

/// The tensors of a new model of `config`, of chance that `seed` repeats.
///
/// # Errors
/// If no new model of its class can be made.
pub fn tensors(config: &HfConfig, seed: u64) -> Result<Named<Tensor>, TuneError> {
    let spread = config.get("initializer_range").and_then(|v| v.as_f64()).unwrap_or(SPREAD);
    let fresh = config.fresh().map_err(|e| TuneError::Input(e.to_string()))?;
    // Two products of each layer go into one stream.
    let sums = fresh.iter().filter(|f| f.start == Start::Residual).count().max(1);
    let mut tensors = Named::default();
    for (i, f) in fresh.into_iter().enumerate() {
        let count: usize = f.dims.iter().product();
        // Each tensor has a chance of its own: what comes before it does not matter.
        let mut random = Random::new(seed, i as u64);
        let mut of_chance = |spread: f64| -> Vec<f32> {
            (0..count).map(|_| (spread * random.normal()) as f32).collect()
        };
        let values = match f.start {
            Start::Random => of_chance(spread),
            Start::Residual => of_chance(spread / (sums as f64).sqrt()),
            Start::Ones => vec![1.0; count],
            Start::Zeros => vec![0.0; count],
        };
        tensors.insert(f.name, Tensor::from_slice(&f.dims, &values)?);
    }
    Ok(tensors)
}
