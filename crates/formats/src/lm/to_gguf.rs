//! The numbers and weights of a model as a GGUF file holds them.

use super::config::Config;
use super::family::{self, Family, Norm, RopeStyle};
use super::gguf::from_gguf;
use crate::Named;
use crate::gguf::{Array, Gguf, Metadata, Value};
use kinglet_graph::{AlignedBytes, Bytes, GraphError, Tensor};
use std::sync::Arc;

/// The metadata, without a tokeniser, and the tensors of a model that was read from a folder. `family`
/// is its family, with rotation as `weights`, which have GGUF's names, want it.
///
/// # Errors
/// If a number of it can't be said in such files: what is made is read again and compared.
pub fn to_gguf(
    config: &Config,
    family: &Family,
    mut weights: Named<Tensor>,
) -> Result<Gguf, GraphError> {
    let fail = |m: String| GraphError::new("GGUF", m);
    let own = family::named(family.name)
        .ok_or_else(|| fail(format!("'{}' is no family of GGUF files", family.name)))?;
    turn(config, &mut weights, family.rope, own.rope)?;
    let mut metadata = Metadata::default();
    let arch = config.architecture.as_str();
    metadata.insert("general.architecture", arch.into());
    let mut put = |key: &str, value: Value| metadata.insert(format!("{arch}.{key}"), value);
    let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let each = |all: &[usize]| match all.iter().all(|n| Some(n) == all.first()) {
        true => count(all.first().copied().unwrap_or(0)),
        false => {
            let all: Vec<i32> = all.iter().map(|n| i32::try_from(*n).unwrap_or(i32::MAX)).collect();
            Value::from(&all[..])
        }
    };
    put("block_count", count(config.layers));
    put("context_length", count(config.context));
    put("embedding_length", count(config.width));
    let feed = ["ffn_down", "ffn_up"].map(|part| weights.get(&format!("blk.0.{part}.weight")));
    if let Some(inner) = feed[0].and_then(|t| t.dims().last()) {
        put("feed_forward_length", count(*inner));
    }
    put("attention.head_count", each(&config.heads));
    put("attention.head_count_kv", each(&config.kv_heads));
    put("attention.key_length", count(config.key));
    put("attention.value_length", count(config.value));
    put("vocab_size", count(config.vocabulary));
    let epsilon = match family.norm {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    let rope = &config.rope;
    if family.rope != RopeStyle::None {
        put("rope.dimension_count", count(rope.rotated));
    }
    put("rope.scaling.original_context_length", count(rope.original_context));
    if let Some(kind) = &rope.scaling {
        put("rope.scaling.type", kind.as_str().into());
    }
    if let Some(window) = config.window {
        put("attention.sliding_window", count(window));
        if let Some(windowed) = &config.windowed {
            put("attention.sliding_window_pattern", Value::Array(Array::of_bools(windowed)));
        }
    }
    if config.parallel {
        put("use_parallel_residual", true.into());
    }
    for (key, number) in [
        (epsilon, Some(config.epsilon)),
        ("rope.freq_base", Some(rope.base)),
        ("rope.freq_base_swa", rope.local_base),
        ("rope.scaling.factor", Some(rope.factor)),
        ("rope.scaling.attn_factor", Some(rope.attention_factor)),
        ("rope.scaling.yarn_beta_fast", Some(rope.beta_fast)),
        ("rope.scaling.yarn_beta_slow", Some(rope.beta_slow)),
        ("rope.scaling.yarn_log_multiplier", Some(rope.log_multiplier)),
        ("attention.scale", config.attention_scale),
        ("attn_logit_softcapping", config.attention_softcap),
        ("final_logit_softcapping", config.logit_softcap),
        ("embedding_scale", config.embedding_scale),
        ("residual_scale", config.residual_scale),
        ("logit_scale", config.logit_scale),
        ("attention.clamp_kqv", config.clamp_qkv),
        ("attention.max_alibi_bias", config.alibi),
    ] {
        if let Some(number) = number {
            put(key, number.into());
        }
    }
    let file = Gguf { metadata, tensors: weights };
    let (read, read_family) = from_gguf(&file)?;
    let (found, want) = (comparable(&read, &file), comparable(config, &file));
    if let Some((found, want)) = differing(&found, &want) {
        return Err(fail(format!("such files can't say that {want}: it would be read as {found}")));
    }
    if read_family.activation != family.activation {
        let m = format!(
            "its function is {:?}, and such files mean {:?}",
            family.activation, own.activation
        );
        return Err(fail(m));
    }
    Ok(file)
}

/// A model's numbers without those that nothing of it looks at.
fn comparable(config: &Config, file: &Gguf) -> Config {
    let mut config = config.clone();
    if config.window.is_none() {
        config.windowed = None;
    }
    let has = |part: &str| file.tensors.iter().any(|(name, _)| name.contains(part));
    if !has("ffn_gate_inp") {
        config.experts = Default::default();
    }
    if !has("ssm_") {
        config.state_space = Default::default();
    }
    config.repeats = config.repeats.max(1);
    config
}

/// The first field in which two differ, as text.
fn differing(a: &Config, b: &Config) -> Option<(String, String)> {
    if a == b {
        return None;
    }
    let [a, b] = [a, b].map(|c| format!("{c:#?}"));
    let mut lines = a.lines().zip(b.lines()).filter(|(a, b)| a != b);
    let (a, b) = lines.next().unwrap_or((&a, &b));
    Some((a.trim().to_string(), b.trim().to_string()))
}

/// Puts rows of queries and keys that rotate together, which lie as `from` says, where `to` has them: an
/// element of each half of a head, or side by side.
pub(super) fn turn(
    config: &Config,
    weights: &mut Named<Tensor>,
    from: RopeStyle,
    to: RopeStyle,
) -> Result<(), GraphError> {
    let apart = match (from, to) {
        (RopeStyle::Halves, RopeStyle::Interleaved) => false,
        (RopeStyle::Interleaved, RopeStyle::Halves) => true,
        _ if from == to => return Ok(()),
        _ => {
            let m = "its rows rotate in an order that such files do not have";
            return Err(GraphError::new("rotation", m));
        }
    };
    let (key, rotated) = (config.key, config.rope.rotated);
    for layer in 0..config.layers {
        for part in ["attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"] {
            let name = format!("blk.{layer}.{part}");
            let Some(tensor) = weights.get(&name) else { continue };
            let fail = |m: String| GraphError::new(format!("tensor '{name}'"), m);
            let rows = tensor.dims()[0];
            let (raw, row) = (tensor.raw(), tensor.raw().len() / rows.max(1));
            if !rows.is_multiple_of(key.max(1)) || rotated > key || rotated % 2 != 0 {
                return Err(fail(format!(
                    "has {rows} rows for heads of {key}, of which {rotated} rotate in pairs"
                )));
            }
            let mut bytes = Vec::with_capacity(raw.len());
            for place in 0..rows {
                let (head, within) = (place / key * key, place % key);
                let half = (rotated / 2).max(1);
                let from = match (within < rotated, apart) {
                    (true, false) => within / 2 + within % 2 * half,
                    (true, true) => within % half * 2 + within / half,
                    (false, _) => within,
                };
                bytes.extend_from_slice(&raw[(head + from) * row..][..row]);
            }
            let bytes = Bytes::new(Arc::new(AlignedBytes::copy_of(&bytes)));
            let turned = Tensor::from_bytes(tensor.dtype(), tensor.dims(), bytes)
                .map_err(|e| fail(e.to_string()))?;
            weights.insert(name, turned);
        }
        let norm = format!("blk.{layer}.attn_q_norm.weight");
        if weights.contains(&norm) || weights.contains(&format!("blk.{layer}.attn_qkv.weight")) {
            let m = "its queries can't be put in the order of such files";
            return Err(GraphError::new(format!("layer {layer}"), m));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of which a part rotates: halves side by side, and back.
    #[test]
    fn rows_are_turned_there_and_back() {
        let mut config = Config { layers: 1, key: 8, ..Config::default() };
        config.rope.rotated = 6;
        let numbers: Vec<f32> = (0..16).map(|row| row as f32).collect();
        let mut weights = Named::default();
        weights.insert("blk.0.attn_q.weight", Tensor::from_slice(&[16, 1], &numbers).unwrap());
        weights.insert("blk.0.attn_v.weight", Tensor::from_slice(&[16, 1], &numbers).unwrap());
        let rows = |weights: &Named<Tensor>, part: &str| {
            weights[format!("blk.0.{part}.weight").as_str()].slice::<f32>().unwrap().to_vec()
        };
        turn(&config, &mut weights, RopeStyle::Halves, RopeStyle::Interleaved).unwrap();
        let head = [0., 3., 1., 4., 2., 5., 6., 7.];
        let want: Vec<f32> = head.iter().copied().chain(head.iter().map(|row| row + 8.0)).collect();
        assert_eq!(rows(&weights, "attn_q"), want);
        assert_eq!(rows(&weights, "attn_v"), numbers);
        turn(&config, &mut weights, RopeStyle::Interleaved, RopeStyle::Halves).unwrap();
        assert_eq!(rows(&weights, "attn_q"), numbers);
        config.rope.rotated = 5;
        let error = turn(&config, &mut weights, RopeStyle::Halves, RopeStyle::Interleaved);
        assert!(error.unwrap_err().to_string().contains("rotate in pairs"));
    }
}
