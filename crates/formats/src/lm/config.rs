//! The numbers of a language model.

use super::encoder::Pooling;
use kinglet_graph::ops::rows::Rotate;

/// The numbers of a model, as its file gives them. What a file leaves out has its usual value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The architecture's name, as GGUF has it.
    pub architecture: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Heads of the queries, in each layer; 0 where a layer has no attention.
    pub heads: Vec<usize>,
    /// Heads of keys and values, in each layer.
    pub kv_heads: Vec<usize>,
    /// Elements of a head of queries and keys.
    pub key: usize,
    /// Elements of a head of values.
    pub value: usize,
    /// ε of the norms.
    pub epsilon: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions that layers with a window see.
    pub window: Option<usize>,
    /// Which layers have the window, where the file says so.
    pub windowed: Option<Vec<bool>>,
    /// Which layers' rows rotate, where the file says so.
    pub rotates: Option<Vec<bool>>,
    /// Factor on query × key; by default 1 / √key.
    pub attention_scale: Option<f32>,
    /// Bound of the attention's scores.
    pub attention_softcap: Option<f32>,
    /// Bound of the logits.
    pub logit_softcap: Option<f32>,
    /// Factor on embeddings.
    pub embedding_scale: Option<f32>,
    /// Factor on what a sublayer adds.
    pub residual_scale: Option<f32>,
    /// What logits are multiplied by (or divided, as the family has it).
    pub logit_scale: Option<f32>,
    /// Bound of queries, keys and values.
    pub clamp_qkv: Option<f32>,
    /// Whether attention and feed-forward read one norm and are added together.
    pub parallel: bool,
    /// The largest exponent of ALiBi's slopes.
    pub alibi: Option<f32>,
    /// Whether rows see only what is before them.
    pub causal: bool,
    /// Mixture of experts.
    pub experts: Experts,
    /// State-space layers.
    pub state_space: StateSpace,
    /// Rows that a short convolution sees (LFM2).
    pub short_conv: usize,
    /// How an encoder's rows become one embedding.
    pub pooling: Pooling,
    /// How often each layer runs, one time after the other (MobileLLM); 0 means 1.
    pub repeats: usize,
    /// Rank of the latent that keys and values come from (DeepSeek-V2).
    pub kv_rank: Option<usize>,
}

/// Rotary position embedding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rope {
    /// Elements of a head that rotate.
    pub rotated: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Base in layers with a window, where it differs.
    pub local_base: Option<f32>,
    /// `linear`, `yarn`, or none.
    pub scaling: Option<String>,
    /// Factor by which positions are stretched.
    pub factor: f32,
    /// Factor on cosines and sines.
    pub attention_factor: f32,
    /// Whether the model was tuned with it, where the file says.
    pub tuned: Option<bool>,
    /// Positions before stretching.
    pub original_context: usize,
    /// YaRN's fast bound, in rotations.
    pub beta_fast: f32,
    /// YaRN's slow bound, in rotations.
    pub beta_slow: f32,
    /// Whether YaRN's bounds are whole pairs.
    pub whole_bounds: bool,
    /// YaRN's multiplier of the logarithm of the factor.
    pub log_multiplier: f32,
}

/// A mixture of experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experts {
    /// Experts; 0: the layers are dense.
    pub count: usize,
    /// Experts that a row uses.
    pub used: usize,
    /// Experts that every row uses.
    pub shared: usize,
    /// Layers before the first mixture.
    pub leading_dense: usize,
    /// Factor on the weights of the chosen.
    pub scale: Option<f32>,
    /// Whether the weights of the chosen are made to sum to 1, where the file says.
    pub normalised: Option<bool>,
    /// The router's function, where the file says: 1 softmax, 2 sigmoid, 3 softmax of the chosen.
    pub gating: Option<u32>,
}

/// State-space layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateSpace {
    /// Width of x.
    pub inner: usize,
    /// Rows that the convolution sees.
    pub conv: usize,
    /// Elements of b and c.
    pub state: usize,
    /// Rank of δ (Mamba), heads (Mamba 2).
    pub rank: usize,
    /// Groups of b and c.
    pub groups: usize,
}

impl Rope {
    /// The frequencies of the pairs that rotate, in radians a position, and the factor on cosines
    /// and sines. `local`: the base of layers with a window, where it is their own: they are not
    /// stretched; `tensor`: a float tensor of the file; `cells`: the positions that the model will be
    /// run with.
    ///
    /// Linear stretching divides all (arXiv 2306.15595); YaRN the slow ones (arXiv 2309.00071); a
    /// file may have a factor for each pair (Llama 3, Phi 3).
    pub fn frequencies(
        &self,
        local: Option<f32>,
        tensor: impl Fn(&str) -> Option<Vec<f32>>,
        cells: usize,
    ) -> (Vec<f32>, f32) {
        let base = local.unwrap_or(self.base);
        let long = cells > self.original_context && self.original_context > 0;
        let factors = tensor("rope_freqs.weight").or_else(|| {
            tensor(if long { "rope_factors_long.weight" } else { "rope_factors_short.weight" })
        });
        let pairs = self.rotated / 2;
        let factors = factors.filter(|f| f.len() == pairs && local.is_none());
        let plain = Rotate::frequencies(self.rotated, base, factors.as_deref());
        if local.is_some() {
            return (plain, 1.0);
        }
        let stretch = if self.factor > 0.0 { self.factor } else { 1.0 };
        match self.scaling.as_deref() {
            Some("yarn") if stretch != 1.0 => {
                let bound = |rotations: f32| {
                    let turns = self.original_context as f32 / (rotations * std::f32::consts::TAU);
                    pairs as f32 * turns.ln() / base.ln()
                };
                let (low, high) = (bound(self.beta_fast), bound(self.beta_slow));
                let (low, high) =
                    if self.whole_bounds { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(pairs as f32 * 2.0 - 1.0));
                let frequencies = plain.iter().enumerate().map(|(i, f)| {
                    let ramp = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    f * (1.0 - ramp) + f / stretch * ramp
                });
                let scale = (1.0 + 0.1 * stretch.ln()) * self.attention_factor;
                (frequencies.collect(), scale)
            }
            Some("linear") => (plain.iter().map(|f| f / stretch).collect(), self.attention_factor),
            _ => (plain, self.attention_factor),
        }
    }
}
