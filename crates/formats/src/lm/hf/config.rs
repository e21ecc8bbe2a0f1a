//! The numbers of a model, from `config.json`. Each has as many names as there are families; the
//! tables here say which.

use super::classes::Class;
use crate::Named;
use crate::lm::config::{Config, Experts, Rope, StateSpace};
use crate::lm::encoder::Pooling;
use crate::lm::family::{EmbeddingScale, Family, Function, Layers};
use kinglet_graph::ops::rows::Rotate;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{GraphError, OpError, Tensor};
use serde_json::Value;

/// More of anything than any model has: what a damaged file says is refused before it is built.
const MOST: usize = 1 << 24;
const MOST_LAYERS: usize = 1 << 12;

/// The names of `config.json` for one number.
type Names = &'static [&'static str];

const LAYERS: Names =
    &["num_hidden_layers", "n_layer", "num_layers", "num_transformer_layers", "n_layers"];
const WIDTH: Names = &["hidden_size", "n_embd", "d_model", "model_dim"];
const HEADS: Names = &["num_attention_heads", "n_head", "num_query_heads"];
const KV_HEADS: Names = &["num_key_value_heads", "num_kv_heads", "n_head_kv"];
const CONTEXT: Names = &[
    "max_position_embeddings",
    "n_positions",
    "max_context_length",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
];
const EPSILON: Names = &[
    "rms_norm_eps",
    "layer_norm_epsilon",
    "layer_norm_eps",
    "norm_eps",
    "norm_epsilon",
    "layernorm_epsilon",
];
const ACTIVATION: Names = &[
    "hidden_activation",
    "hidden_act",
    "activation_function",
    "activation",
    "mlp_hidden_act",
    "activation_fn_name",
];
const ROTATED: Names = &["partial_rotary_factor", "rotary_pct", "rope_pct"];
const BASE: Names = &["rope_theta", "rotary_emb_base", "rope_freq_constant"];
const EXPERTS: Names =
    &["num_local_experts", "n_routed_experts", "num_experts", "moe_num_primary_experts"];
const USED: Names =
    &["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_num_active_primary_experts"];
const INNER: Names = &["intermediate_size", "d_inner"];
const FEED_FORWARD: Names = &["intermediate_size", "n_inner", "ffn_hidden_size"];
const STATE: Names = &["state_size", "ssm_state_size"];
const CONV: Names = &["conv_kernel", "linear_conv_kernel_dim"];

/// Names of functions.
const FUNCTIONS: &[(&str, Function)] = &[
    ("silu", Function::Of(Unary::Silu)),
    ("swish", Function::Of(Unary::Silu)),
    ("gelu", Function::Of(Unary::Gelu)),
    ("gelu_new", Function::Of(Unary::GeluTanh)),
    ("gelu_fast", Function::Of(Unary::GeluTanh)),
    ("gelu_pytorch_tanh", Function::Of(Unary::GeluTanh)),
    ("relu", Function::Of(Unary::Relu)),
    ("relu2", Function::ReluSquared),
];

/// Reads the values of one object.
#[derive(Clone, Copy)]
struct Read<'a>(&'a Value);

impl<'a> Read<'a> {
    fn value(&self, names: &[&str]) -> Option<&'a Value> {
        names.iter().find_map(|name| self.0.get(name)).filter(|v| !v.is_null())
    }

    fn inner(&self, name: &str) -> Option<Read<'a>> {
        self.value(&[name]).filter(|v| v.is_object()).map(Read)
    }

    fn f32(&self, names: &[&str]) -> Option<f32> {
        names.iter().find_map(|name| self.value(&[name])?.as_f64()).map(|v| v as f32)
    }

    fn usize(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.value(&[name])?.as_u64()).map(|v| v.min(1 << 40) as usize)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.value(&[name])?.as_bool()
    }

    fn text(&self, names: &[&str]) -> Option<&'a str> {
        names.iter().find_map(|name| self.value(&[name])?.as_str())
    }

    /// One for all layers, or one for each.
    fn each(&self, names: &[&str], layers: usize) -> Option<Vec<usize>> {
        if let Some(one) = self.usize(names) {
            return Some(vec![one; layers]);
        }
        let many = names.iter().find_map(|name| self.value(&[name])?.as_array())?;
        let many: Option<Vec<usize>> =
            many.iter().map(|v| v.as_u64().map(|v| v.min(1 << 40) as usize)).collect();
        many.filter(|m| m.len() >= layers)
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let many = self.value(&[name])?.as_array()?;
        many.iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
    }

    fn required(&self, names: &[&str], most: usize) -> Result<usize, GraphError> {
        let place = names[0];
        let found = self.usize(names);
        let found = found.ok_or_else(|| GraphError::new(place, "is missing or no number"))?;
        match found {
            0 => Err(GraphError::new(place, "is 0")),
            n if n > most => Err(GraphError::new(place, format!("{n} is more than any model has"))),
            n => Ok(n),
        }
    }
}

/// The numbers, the family, and tensors that follow from numbers.
pub fn read(told: &Value, class: &Class) -> Result<(Config, Family, Named<Tensor>), GraphError> {
    // A model that sees or hears keeps the language model's numbers apart.
    let r = Read(told).inner("text_config").unwrap_or(Read(told));
    let mut family = class
        .family()
        .ok_or_else(|| GraphError::new("architectures", format!("{} has no family", class.name)))?;
    if let Some(name) = r.text(ACTIVATION) {
        // Gemma's files say gelu and mean its tanh form.
        let meant = if class.name == "GemmaForCausalLM" { "gelu_pytorch_tanh" } else { name };
        let found = FUNCTIONS.iter().find(|(known, _)| *known == meant);
        let (_, function) = found.ok_or_else(|| {
            GraphError::new("hidden_act", format!("the function '{name}' is not known"))
        })?;
        family.activation = match family.activation {
            Function::ClampedSwiglu { alpha, limit } => Function::ClampedSwiglu {
                alpha: r.f32(&["swiglu_alpha"]).unwrap_or(alpha),
                limit: r.f32(&["swiglu_limit"]).unwrap_or(limit),
            },
            _ => *function,
        };
    }
    if r.flag("alibi") == Some(true) {
        return Err(GraphError::new("alibi", "is supported for BLOOM only"));
    }
    for (key, only) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if r.flag(key).is_some_and(|value| value != only) {
            return Err(GraphError::new(key, format!("is {}: only {only} is supported", !only)));
        }
    }
    if r.flag("parallel_attn") == Some(false) && r.flag("new_decoder_architecture") != Some(true) {
        family.parallel = false;
    }
    let layers = r.required(LAYERS, MOST_LAYERS)?;
    let width = r.required(WIDTH, MOST)?;
    let heads = r.each(HEADS, layers).unwrap_or_else(|| vec![0; layers]);
    let mut kv_heads = r.each(KV_HEADS, layers).unwrap_or_else(|| heads.clone());
    if r.flag("new_decoder_architecture") == Some(false) {
        // Falcon 7B.
        kv_heads = match r.flag("multi_query") {
            Some(false) => heads.clone(),
            _ => vec![1; layers],
        };
    }
    if class.family == "gptneox" {
        // Its files may name a number that its code does not look at.
        kv_heads.clone_from(&heads);
    }
    let most = heads.iter().copied().max().unwrap_or(0);
    if most > MOST || kv_heads.iter().any(|h| *h > MOST) {
        return Err(GraphError::new(HEADS[0], "is more than any model has"));
    }
    let mut key = r.usize(&["head_dim"]).unwrap_or(width.checked_div(most).unwrap_or(0));
    let kv_rank = r.usize(&["kv_lora_rank"]).filter(|n| *n > 0);
    let mut value = key;
    let mut rotated = (key as f32 * r.rotated()) as usize;
    if let (Some(_), Some(rope)) = (kv_rank, r.usize(&["qk_rope_head_dim"])) {
        key = r.required(&["qk_nope_head_dim"], MOST)? + rope;
        value = r.required(&["v_head_dim"], MOST)?;
        rotated = rope;
    }
    if key > MOST || value > MOST {
        return Err(GraphError::new("head_dim", format!("{key} is more than any model has")));
    }
    let mut tensors = Named::default();
    let context = r.usize(CONTEXT).unwrap_or(2048);
    let rope = r.rope(rotated & !1, context, &mut tensors)?;
    let windowed = r.windowed(&mut family, layers);
    let window = r.usize(&["sliding_window", "sliding_window_size"]).filter(|w| *w > 0);
    let window = window.filter(|_| r.flag("use_sliding_window") != Some(false));
    let experts = Experts {
        count: r.usize(EXPERTS).unwrap_or(0),
        used: r.each(USED, 1).map_or(0, |u| u[0]),
        shared: r.usize(&["n_shared_experts"]).unwrap_or(0),
        leading_dense: r.usize(&["first_k_dense_replace"]).unwrap_or(0),
        scale: r.f32(&["routed_scaling_factor"]),
        normalised: r.flag("norm_topk_prob"),
        gating: r.flag("moe_primary_router_apply_softmax").filter(|softmax| *softmax).map(|_| 1),
    };
    if r.text(&["topk_method"]).is_some_and(|m| m != "greedy") && r.usize(&["n_group"]) > Some(1) {
        return Err(GraphError::new("topk_method", "only 'greedy' is supported"));
    }
    let mut state_space = StateSpace {
        inner: r.usize(INNER).unwrap_or(0),
        conv: r.usize(CONV).unwrap_or(0),
        state: r.usize(STATE).unwrap_or(0),
        rank: r.usize(&["time_step_rank", "num_heads"]).unwrap_or(width.div_ceil(16)),
        groups: r.usize(&["n_groups"]).unwrap_or(0),
    };
    if let (Some(heads), Some(size)) = (r.usize(&["num_heads"]), r.usize(&["head_dim"])) {
        // Mamba 2.
        state_space.rank = heads;
        state_space.inner = heads.saturating_mul(size);
    }
    if let Some(values) = r.usize(&["linear_num_value_heads"]) {
        state_space.rank = values;
        state_space.groups = r.required(&["linear_num_key_heads"], MOST)?;
        state_space.state = r.required(&["linear_key_head_dim"], MOST)?;
        let size = r.required(&["linear_value_head_dim"], MOST)?;
        state_space.inner = values.saturating_mul(size);
    }
    if [state_space.inner, state_space.state, state_space.rank, state_space.groups]
        .iter()
        .any(|n| *n > MOST)
    {
        return Err(GraphError::new("intermediate_size", "is more than any model has"));
    }
    let embedding_scale = r.f32(&["embedding_multiplier", "scale_emb"]);
    if family.embedding == EmbeddingScale::None && embedding_scale.is_some_and(|s| s != 1.0) {
        return Err(GraphError::new("embedding_multiplier", "is not one of this family's"));
    }
    let query_scale = r.f32(&["query_pre_attn_scalar"]).map(|s| 1.0 / s.sqrt());
    let depth = r.f32(&["scale_depth"]).map(|s| s / (layers as f32).sqrt());
    let base_width = r.f32(&["dim_model_base"]).map(|base| width as f32 / base);
    let mut attention_scale = r.f32(&["attention_multiplier"]).or(query_scale);
    if kv_rank.is_some() {
        // arXiv 2309.00071, as DeepSeek-V2 has it: the scores grow with the logarithm as well.
        let all = r.scaling().and_then(|s| s.f32(&["mscale_all_dim"])).filter(|m| *m != 0.0);
        let grown = all.map_or(1.0, |m| 1.0 + 0.1 * m * rope.factor.max(1.0).ln());
        attention_scale = Some(grown * grown / (key as f32).sqrt());
    }
    let config = Config {
        architecture: class.family.to_string(),
        layers,
        width,
        vocabulary: r.usize(&["vocab_size"]).unwrap_or(0),
        context,
        heads,
        kv_heads,
        key,
        value,
        epsilon: r.f32(EPSILON).unwrap_or(family.epsilon),
        rope,
        window,
        windowed,
        // Both have a 1 where rows rotate.
        rotates: r
            .each(&["rope_layout", "no_rope_layers"], layers)
            .map(|flags| flags.iter().map(|f| *f != 0).collect()),
        attention_scale,
        attention_softcap: r.f32(&["attn_logit_softcapping"]),
        logit_softcap: r.f32(&["final_logit_softcapping"]),
        embedding_scale,
        residual_scale: r.f32(&["residual_multiplier"]).or(depth),
        logit_scale: r.f32(&["logits_scaling"]).or(base_width),
        clamp_qkv: r.f32(&["clip_qkv"]),
        parallel: r.flag("use_parallel_residual").unwrap_or(class.family == "gptneox"),
        alibi: None,
        causal: true,
        experts,
        state_space,
        short_conv: r.usize(&["conv_L_cache"]).unwrap_or(0),
        kv_rank,
        pooling: Pooling::Mean,
        repeats: if r.flag("layer_sharing") == Some(true) { 2 } else { 1 },
    };
    Ok((config, family, tensors))
}

/// The width of a dense feed-forward, where `told` says it.
pub fn inner(told: &Value) -> Result<Option<usize>, GraphError> {
    let r = Read(told).inner("text_config").unwrap_or(Read(told));
    match r.usize(FEED_FORWARD) {
        Some(n) if n == 0 || n > MOST => {
            Err(GraphError::new(FEED_FORWARD[0], format!("{n} can't be")))
        }
        found => Ok(found),
    }
}

impl<'a> Read<'a> {
    /// What is said about rotation beyond its base: `rope_scaling`, or all of it in one object.
    fn scaling(&self) -> Option<Read<'a>> {
        let both = self.inner("rope_scaling").or_else(|| self.inner("rope_parameters"))?;
        // Gemma 3 has one object for each kind of layers.
        both.inner("full_attention").or(Some(both))
    }

    fn rotated(&self) -> f32 {
        let inside = self.inner("rope_parameters").and_then(|r| r.f32(ROTATED));
        inside.or_else(|| self.f32(ROTATED)).unwrap_or(1.0).clamp(0.0, 1.0)
    }

    /// Which layers have a window. The family's own layers where nothing is said, and all where it
    /// has none of its own.
    fn windowed(&self, family: &mut Family, layers: usize) -> Option<Vec<bool>> {
        if let Some(types) = self.value(&["layer_types"]).and_then(Value::as_array)
            && types.len() >= layers
        {
            let flags = types.iter().map(|t| t.as_str() == Some("sliding_attention"));
            return Some(flags.collect());
        }
        if let Some(flags) = self.each(&["sliding_window_layout"], layers) {
            return Some(flags.iter().map(|f| *f != 0).collect());
        }
        if let Some(n) = self.usize(&["sliding_window_pattern"]).filter(|n| *n > 0) {
            family.windows = Layers::AllButEveryNth(n);
        }
        match family.windows {
            Layers::None => Some(vec![true; layers]),
            _ => None,
        }
    }

    fn rope(
        &self,
        rotated: usize,
        context: usize,
        tensors: &mut Named<Tensor>,
    ) -> Result<Rope, GraphError> {
        let scaling = self.scaling();
        let number = |names: &[&str]| scaling.and_then(|s| s.f32(names));
        let base = number(BASE).or_else(|| self.f32(BASE)).unwrap_or(10_000.0);
        let of_windows = self
            .inner("rope_parameters")
            .and_then(|r| r.inner("sliding_attention"))
            .and_then(|r| r.f32(BASE));
        let kind = scaling.and_then(|s| s.text(&["rope_type", "type"])).unwrap_or("default");
        let kind = if scaling.is_some_and(|s| s.0.get("long_factor").is_some()) {
            "longrope"
        } else {
            kind
        };
        let factor = number(&["factor"]).unwrap_or(1.0);
        let original = scaling.and_then(|s| s.usize(&["original_max_position_embeddings"]));
        let original = original.or_else(|| self.usize(&["original_max_position_embeddings"]));
        let mut rope = Rope {
            rotated,
            base,
            local_base: self.f32(&["rope_local_base_freq"]).or(of_windows),
            scaling: None,
            factor,
            attention_factor: 1.0,
            tuned: None,
            original_context: original.unwrap_or(context),
            beta_fast: number(&["beta_fast"]).unwrap_or(32.0),
            beta_slow: number(&["beta_slow"]).unwrap_or(1.0),
            log_multiplier: 0.0,
            whole_bounds: scaling.and_then(|s| s.flag("truncate")).unwrap_or(true),
        };
        let bad = |e: OpError| GraphError::new("rope_scaling", e.to_string());
        let mut factors = |name: &str, values: &[f32]| -> Result<(), GraphError> {
            let tensor = Tensor::from_slice(&[values.len()], values).map_err(bad)?;
            tensors.insert(name, tensor);
            Ok(())
        };
        match kind {
            "default" => {}
            // Frequencies stay as they are up to the context that the model was made for.
            "dynamic" => {
                let alpha = number(&["alpha"]).unwrap_or(1.0);
                let rotated = rotated as f32;
                rope.base *= alpha.powf(rotated / (rotated - 2.0));
                rope.factor = 1.0;
            }
            "linear" => rope.scaling = Some("linear".into()),
            "yarn" => {
                rope.scaling = Some("yarn".into());
                let grown = |m: f32| 1.0 + 0.1 * m * factor.max(1.0).ln();
                let both = number(&["mscale"]).zip(number(&["mscale_all_dim"]));
                let both = both.filter(|(a, b)| *a != 0.0 && *b != 0.0);
                let wanted = number(&["attention_factor"])
                    .unwrap_or_else(|| both.map_or(grown(1.0), |(a, b)| grown(a) / grown(b)));
                rope.attention_factor = wanted / grown(1.0);
            }
            "llama3" => {
                let low = number(&["low_freq_factor"]).unwrap_or(1.0);
                let high = number(&["high_freq_factor"]).unwrap_or(4.0);
                let before = rope.original_context as f32;
                let plain = Rotate::frequencies(rotated, rope.base, None);
                let each: Vec<f32> = plain
                    .iter()
                    .map(|f| {
                        let wave = std::f32::consts::TAU / f;
                        let smooth = ((before / wave - low) / (high - low)).clamp(0.0, 1.0);
                        1.0 / (smooth + (1.0 - smooth) / factor)
                    })
                    .collect();
                factors("rope_freqs.weight", &each)?;
                rope.factor = 1.0;
            }
            "longrope" | "su" => {
                for (key, name) in [
                    ("short_factor", "rope_factors_short.weight"),
                    ("long_factor", "rope_factors_long.weight"),
                ] {
                    let values = scaling.and_then(|s| s.floats(key)).ok_or_else(|| {
                        GraphError::new(format!("rope_scaling.{key}"), "is missing")
                    })?;
                    factors(name, &values)?;
                }
                let before = rope.original_context.max(1) as f32;
                let stretch = number(&["factor"]).unwrap_or(context as f32 / before);
                rope.attention_factor = number(&["attention_factor"]).unwrap_or(match stretch {
                    s if s <= 1.0 => 1.0,
                    s => (1.0 + s.ln() / before.ln()).sqrt(),
                });
                rope.factor = 1.0;
            }
            other => {
                let m = format!("'{other}' is not known");
                return Err(GraphError::new("rope_scaling.rope_type", m));
            }
        }
        Ok(rope)
    }
}
