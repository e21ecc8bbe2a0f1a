//! How a model is meant to be sampled.

use serde_json::Value;

/// What `generation_config.json` says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
    /// Whether tokens are drawn, and not always the likeliest.
    pub sampled: Option<bool>,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Only so many of the likeliest.
    pub top_k: Option<usize>,
    /// Only the likeliest that make up so much.
    pub top_p: Option<f32>,
    /// Only those at least so likely as this part of the likeliest.
    pub min_p: Option<f32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
}

impl Generation {
    /// Of `generation_config.json`, or of `config.json` where it says nothing.
    pub(super) fn read(own: Option<&Value>, config: &Value) -> Generation {
        let value = |key: &str| {
            let value = own.and_then(|own| own.get(key)).or_else(|| config.get(key));
            value.filter(|v| !v.is_null())
        };
        let number = |key: &str| value(key).and_then(Value::as_f64).map(|v| v as f32);
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        let ends = match value("eos_token_id") {
            Some(Value::Array(many)) => many.iter().filter_map(id).collect(),
            one => one.and_then(id).into_iter().collect(),
        };
        Generation {
            ends,
            sampled: value("do_sample").and_then(Value::as_bool),
            temperature: number("temperature"),
            top_k: value("top_k").and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok()),
            top_p: number("top_p"),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
        }
    }
}
