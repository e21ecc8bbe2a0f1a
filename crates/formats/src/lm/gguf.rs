//! The numbers of a language model, from GGUF's metadata.

use super::builder::Weights;
use super::config::{Config, Experts, Rope, StateSpace};
use super::encoder::Pooling;
use super::family::{self, Family, Layers};
use crate::gguf::{Gguf, Metadata, Value};
use kinglet_graph::{GraphError, Tensor};

impl Weights for Gguf {
    fn tensor(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).cloned()
    }
}

/// The numbers and the family of a GGUF file. Fails where the architecture is unknown or a number
/// that it needs is missing.
pub fn from_gguf(file: &Gguf) -> Result<(Config, &'static Family), GraphError> {
    let metadata = &file.metadata;
    let name = metadata.get("general.architecture").and_then(Value::as_str);
    let name = name.ok_or_else(|| {
        GraphError::new("metadata 'general.architecture'", "is missing: is it a language model?")
    })?;
    let family = family::named(name).ok_or_else(|| {
        let known: Vec<_> = family::FAMILIES.iter().map(|f| f.name).collect();
        let m = format!("'{name}' is not among the families known: {}", known.join(", "));
        GraphError::new("metadata 'general.architecture'", m)
    })?;
    let read = Read { metadata, prefix: name };
    Ok((read.config(file, family)?, family))
}

/// No size of a model is larger; products of two stay far from overflow.
const MOST: usize = 1 << 24;

/// Reads keys that start with the architecture's name.
struct Read<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl Read<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", self.prefix))
    }

    fn usize(&self, key: &str) -> Option<usize> {
        self.value(key)?.as_u64().and_then(|v| usize::try_from(v).ok())
    }

    fn f32(&self, key: &str) -> Option<f32> {
        self.value(key)?.as_f32()
    }

    /// A float that 0 stands for the absence of.
    fn nonzero(&self, key: &str) -> Option<f32> {
        self.f32(key).filter(|v| *v != 0.0)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.value(key)?.as_bool()
    }

    fn required(&self, key: &str) -> Result<usize, GraphError> {
        self.usize(key).ok_or_else(|| {
            GraphError::new(format!("metadata '{}.{key}'", self.prefix), "is missing or no number")
        })
    }

    /// A number for each layer: an array, or one for all.
    fn each(&self, key: &str, layers: usize) -> Option<Vec<usize>> {
        if let Some(one) = self.usize(key) {
            return Some(vec![one; layers]);
        }
        let many = self.value(key)?.array_of_i32()?;
        let many: Option<Vec<usize>> = many.iter().map(|v| usize::try_from(*v).ok()).collect();
        many.filter(|m| m.len() >= layers)
    }

    /// A flag for each layer, as truth values or as numbers.
    fn flags(&self, key: &str, layers: usize) -> Option<Vec<bool>> {
        let told = self.value(key).and_then(Value::array_of_bool).filter(|m| m.len() >= layers);
        told.or_else(|| Some(self.each(key, layers)?.iter().map(|v| *v != 0).collect()))
    }

    /// Which layers have a window: a flag for each, or n: all but one of each n.
    fn windowed(&self, family: &Family, layers: usize) -> Option<Vec<bool>> {
        let key = "attention.sliding_window_pattern";
        let Some(n) = self.usize(key) else { return self.flags(key, layers) };
        let some = match (n, family.windows) {
            (0, _) => Layers::All,
            (n, Layers::AllButFirstOf(_)) => Layers::AllButFirstOf(n),
            (n, _) => Layers::AllButEveryNth(n),
        };
        Some((0..layers).map(|i| some.has(i, false)).collect())
    }

    fn config(&self, file: &Gguf, family: &Family) -> Result<Config, GraphError> {
        let blocks = self.required("block_count")?;
        // The last ones may predict tokens further on, which decoding one by one does not need.
        let layers = blocks.saturating_sub(self.usize("nextn_predict_layers").unwrap_or(0));
        if layers == 0 && blocks > 0 {
            let m = format!("says that all {blocks} blocks predict further tokens");
            return Err(self.error("nextn_predict_layers", m));
        }
        // Every layer has tensors.
        if layers > file.tensors.len() {
            let m = format!("says {layers}, but the file has {} tensors", file.tensors.len());
            return Err(self.error("block_count", m));
        }
        let width = self.required("embedding_length")?;
        let heads = self.each("attention.head_count", layers).unwrap_or_else(|| vec![0; layers]);
        let kv_heads =
            self.each("attention.head_count_kv", layers).unwrap_or_else(|| heads.clone());
        let most = heads.iter().copied().max().unwrap_or(0);
        let key = self.usize("attention.key_length").filter(|n| *n > 0);
        let key = key.unwrap_or(width.checked_div(most).unwrap_or(0));
        let value = self.usize("attention.value_length").filter(|n| *n > 0).unwrap_or(key);
        let vocabulary =
            file.tensors.get("token_embd.weight").and_then(|t| t.dims().first().copied());
        let vocabulary = vocabulary.or_else(|| self.usize("vocab_size")).unwrap_or(0);
        let epsilon = self
            .nonzero("attention.layer_norm_rms_epsilon")
            .or_else(|| self.nonzero("attention.layer_norm_epsilon"));
        // Where keys come from a latent, these are of a head by itself.
        let key = self.usize("attention.key_length_mla").filter(|n| *n > 0).unwrap_or(key);
        let value = self.usize("attention.value_length_mla").filter(|n| *n > 0).unwrap_or(value);
        let kv_rank = self.usize("attention.kv_lora_rank").filter(|v| *v > 0);
        let mut rope = self.rope(key);
        let mut attention_scale = self.nonzero("attention.scale");
        if family.scores_by_width == Some(layers) && most > 0 {
            attention_scale = attention_scale.or(Some((most as f32 / width as f32).sqrt()));
        }
        if kv_rank.is_some() && rope.scaling.as_deref() == Some("yarn") {
            // The scores grow, and not the cosines.
            let logarithm = rope.factor.max(1.0).ln();
            let grown = rope.attention_factor * (1.0 + rope.log_multiplier * logarithm);
            attention_scale = Some(grown * grown / (key as f32).sqrt());
            rope.attention_factor = 1.0 / (1.0 + 0.1 * logarithm);
        }
        let config = Config {
            architecture: self.prefix.to_string(),
            layers,
            width,
            vocabulary,
            context: self.usize("context_length").unwrap_or(2048),
            kv_heads,
            heads,
            key,
            value,
            epsilon: epsilon.unwrap_or(family.epsilon),
            rope,
            window: self.usize("attention.sliding_window").filter(|w| *w > 0),
            windowed: self.windowed(family, layers),
            rotates: None,
            attention_scale,
            attention_softcap: self.nonzero("attn_logit_softcapping"),
            logit_softcap: self.nonzero("final_logit_softcapping"),
            embedding_scale: self.nonzero("embedding_scale"),
            residual_scale: self.nonzero("residual_scale"),
            logit_scale: self.nonzero("logit_scale"),
            clamp_qkv: self.nonzero("attention.clamp_kqv"),
            parallel: self.flag("use_parallel_residual").unwrap_or(false),
            alibi: self.nonzero("attention.max_alibi_bias"),
            causal: self.flag("attention.causal").unwrap_or(true),
            experts: Experts {
                count: self.usize("expert_count").unwrap_or(0),
                used: self.usize("expert_used_count").unwrap_or(0),
                shared: self.usize("expert_shared_count").unwrap_or(0),
                leading_dense: self.usize("leading_dense_block_count").unwrap_or(0),
                scale: self.nonzero("expert_weights_scale"),
                normalised: self.flag("expert_weights_norm").filter(|_| family.router.told),
                gating: self.usize("expert_gating_func").map(|v| v as u32).filter(|v| *v > 0),
            },
            state_space: StateSpace {
                inner: self.usize("ssm.inner_size").unwrap_or(0),
                conv: self.usize("ssm.conv_kernel").unwrap_or(0),
                state: self.usize("ssm.state_size").unwrap_or(0),
                rank: self.usize("ssm.time_step_rank").unwrap_or(0),
                groups: self.usize("ssm.group_count").unwrap_or(0),
            },
            short_conv: self.usize("shortconv.l_cache").unwrap_or(0),
            kv_rank,
            repeats: 1,
            pooling: match self.usize("pooling_type") {
                Some(2) => Pooling::First,
                Some(3) => Pooling::Last,
                _ => Pooling::Mean,
            },
        };
        self.check(&config, file)?;
        Ok(config)
    }

    fn error(&self, key: &str, message: String) -> GraphError {
        GraphError::new(format!("metadata '{}.{key}'", self.prefix), message)
    }

    /// Checks that the numbers can be those of a model, before anything is made of them. What the
    /// tensors' sizes say too is checked where they are used.
    fn check(&self, config: &Config, file: &Gguf) -> Result<(), GraphError> {
        let table = file.tensors.get("token_embd.weight").map(|t| t.dims());
        if let Some(&[_, width]) = table
            && width != config.width
        {
            let m = format!("says {}, but embeddings have {width} elements", config.width);
            return Err(self.error("embedding_length", m));
        }
        let most = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
        let space = &config.state_space;
        let sizes = [
            ("attention.head_count", most(&config.heads)),
            ("attention.head_count_kv", most(&config.kv_heads)),
            ("attention.key_length", config.key),
            ("attention.value_length", config.value),
            ("expert_count", config.experts.count),
            ("ssm.inner_size", space.inner),
            ("ssm.conv_kernel", space.conv),
            ("ssm.state_size", space.state),
            ("ssm.time_step_rank", space.rank),
            ("ssm.group_count", space.groups),
            ("shortconv.l_cache", config.short_conv),
        ];
        for (key, size) in sizes {
            if size > MOST {
                return Err(self.error(key, format!("says {size}; at most {MOST} can be")));
            }
        }
        if config.rope.rotated > config.key.max(2) {
            let (rotated, key) = (config.rope.rotated, config.key);
            let m = format!("says {rotated}, but heads have {key} elements");
            return Err(self.error("rope.dimension_count", m));
        }
        if config.experts.used > config.experts.count {
            let (used, count) = (config.experts.used, config.experts.count);
            let m = format!("says {used}, but there are {count} experts");
            return Err(self.error("expert_used_count", m));
        }
        let grouped = self.usize("expert_group_count").unwrap_or(1);
        if self.usize("expert_group_used_count").is_some_and(|used| used < grouped) {
            let m = format!("says {grouped}: choosing groups of experts first is not supported");
            return Err(self.error("expert_group_count", m));
        }
        let groups = space.groups.max(1);
        let heads = if space.rank.is_multiple_of(groups) { space.rank } else { space.inner };
        if !heads.is_multiple_of(groups) || !space.inner.is_multiple_of(groups) {
            let m = format!("says {groups}, which do not share {} elements", space.inner);
            return Err(self.error("ssm.group_count", m));
        }
        let rope = &config.rope;
        let numbers = [
            ("attention.layer_norm_rms_epsilon", Some(config.epsilon)),
            ("attention.scale", config.attention_scale),
            ("attn_logit_softcapping", config.attention_softcap),
            ("final_logit_softcapping", config.logit_softcap),
            ("embedding_scale", config.embedding_scale),
            ("residual_scale", config.residual_scale),
            ("logit_scale", config.logit_scale),
            ("attention.clamp_kqv", config.clamp_qkv),
            ("attention.max_alibi_bias", config.alibi),
            ("expert_weights_scale", config.experts.scale),
            ("rope.freq_base", Some(rope.base)),
            ("rope.freq_base_swa", rope.local_base),
            ("rope.scaling.factor", Some(rope.factor)),
            ("rope.scaling.attn_factor", Some(rope.attention_factor)),
            ("rope.scaling.yarn_beta_fast", Some(rope.beta_fast)),
            ("rope.scaling.yarn_beta_slow", Some(rope.beta_slow)),
            ("rope.scaling.yarn_log_multiplier", Some(rope.log_multiplier)),
        ];
        for (key, number) in numbers {
            if let Some(number) = number.filter(|n| !n.is_finite()) {
                return Err(self.error(key, format!("is {number}: must be a number")));
            }
        }
        let not_negative = [
            ("attention.layer_norm_rms_epsilon", config.epsilon),
            ("rope.freq_base", rope.base),
            ("attention.clamp_kqv", config.clamp_qkv.unwrap_or(0.0)),
        ];
        match not_negative.into_iter().find(|(_, n)| *n < 0.0) {
            Some((key, n)) => Err(self.error(key, format!("is {n}: must not be below 0"))),
            None => Ok(()),
        }
    }

    fn rope(&self, key: usize) -> Rope {
        let scaling = self.value("rope.scaling.type").and_then(Value::as_str);
        Rope {
            rotated: self.usize("rope.dimension_count").filter(|n| *n > 0).unwrap_or(key),
            base: self.nonzero("rope.freq_base").unwrap_or(10_000.0),
            local_base: self.nonzero("rope.freq_base_swa"),
            scaling: scaling.filter(|s| *s != "none").map(str::to_string),
            factor: self.nonzero("rope.scaling.factor").unwrap_or(1.0),
            attention_factor: self.nonzero("rope.scaling.attn_factor").unwrap_or(1.0),
            tuned: self.flag("rope.scaling.finetuned"),
            original_context: self.usize("rope.scaling.original_context_length").unwrap_or(0),
            beta_fast: self.nonzero("rope.scaling.yarn_beta_fast").unwrap_or(32.0),
            beta_slow: self.nonzero("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
            whole_bounds: true,
            log_multiplier: self.nonzero("rope.scaling.yarn_log_multiplier").unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Tensors};

    /// What is read of a file with these numbers, and as many tensors as layers are needed for.
    fn read(name: &str, numbers: &[(&str, Value)]) -> Result<Config, GraphError> {
        let mut metadata = Metadata::default();
        metadata.insert("general.architecture", Value::String(name.into()));
        for (key, value) in [
            ("embedding_length", Value::U32(24)),
            ("attention.head_count", Value::U32(2)),
            ("attention.key_length", Value::U32(8)),
        ] {
            metadata.insert(format!("{name}.{key}"), value);
        }
        for (key, value) in numbers {
            metadata.insert(format!("{name}.{key}"), value.clone());
        }
        let mut tensors = Tensors::default();
        (0..64).for_each(|i| {
            tensors.insert(format!("{i}"), Tensor::scalar(0.0f32));
        });
        from_gguf(&Gguf { metadata, tensors }).map(|(config, _)| config)
    }

    #[test]
    fn a_pattern_of_windows_is_flags_or_one_number() {
        let windowed = |name: &str, pattern: Value| {
            let numbers =
                [("block_count", Value::U32(6)), ("attention.sliding_window_pattern", pattern)];
            let windowed = read(name, &numbers).unwrap().windowed.unwrap();
            windowed.iter().map(|w| if *w { '#' } else { '.' }).collect::<String>()
        };
        assert_eq!(windowed("gpt-oss", Value::U32(2)), "#.#.#.");
        assert_eq!(windowed("gemma3", Value::U32(3)), "##.##.");
        assert_eq!(windowed("smallthinker", Value::U32(3)), ".##.##");
        assert_eq!(windowed("gemma3", Value::U32(1)), "......");
        assert_eq!(windowed("gemma3", Value::U32(0)), "######");
        let flags = [true, true, false, false, false, true];
        assert_eq!(windowed("olmo2", Value::Array(Array::of_bools(&flags))), "##...#");
    }

    #[test]
    fn one_gemma_of_each_kind_scales_scores_by_its_width() {
        let scale = |name, layers| {
            read(name, &[("block_count", Value::U32(layers))]).unwrap().attention_scale
        };
        let by_width = Some((2.0f32 / 24.0).sqrt());
        assert_eq!([scale("gemma2", 26), scale("gemma2", 46)], [None, by_width]);
        assert_eq!([scale("gemma3", 34), scale("gemma3", 62)], [None, by_width]);
    }

    #[test]
    fn blocks_that_predict_further_tokens_are_no_layers() {
        let layers = |predict| {
            let numbers =
                [("block_count", Value::U32(5)), ("nextn_predict_layers", Value::U32(predict))];
            read("qwen35", &numbers).map(|c| c.layers)
        };
        assert_eq!([layers(0).unwrap(), layers(1).unwrap()], [5, 4]);
        let error = layers(5).unwrap_err().to_string();
        assert!(error.contains("nextn_predict_layers"), "{error}");
    }
}
