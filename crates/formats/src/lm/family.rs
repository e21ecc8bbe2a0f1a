//! What differs between families, as data: a new family that differs only in these is a line.

use kinglet_graph::ops::unary::Unary::{self, Gelu, GeluTanh, Relu, Silu};

/// A family of language models.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// GGUF's name of the architecture.
    pub name: &'static str,
    /// Whether it embeds texts, and writes none.
    pub encoder: bool,
    /// Its norm.
    pub norm: Norm,
    /// The feed-forward's function.
    pub activation: Function,
    /// Which elements rotate together, in GGUF's order of the weights.
    pub rope: RopeStyle,
    /// Layers whose rows rotate.
    pub rotates: Layers,
    /// Layers that see a window only, where the file does not say.
    pub windows: Layers,
    /// Where norms stand.
    pub norms: Norms,
    /// What the norm before the feed-forward is called.
    pub feed_norm: &'static str,
    /// ε of the norms, where the file does not say.
    pub epsilon: f32,
    /// Attention and feed-forward read the same rows and are added together, also where the file
    /// does not say so.
    pub parallel: bool,
    /// Base of the frequencies in layers with a window, where the file does not say.
    pub local_base: Option<f32>,
    /// Whether stretched positions are for layers without a window only.
    pub plain_windows: bool,
    /// Rows rotate only where the file says that the model was tuned with it (Granite).
    pub rotates_if_tuned: bool,
    /// The largest exponent of ALiBi's slopes, where the file does not say.
    pub alibi: Option<f32>,
    /// Whether queries and keys are normed after they rotated.
    pub norm_after_rope: bool,
    /// Factor on embeddings.
    pub embedding: EmbeddingScale,
    /// Whether the bound on attention's scores counts.
    pub score_softcap: bool,
    /// Whether the bound on logits counts.
    pub logit_softcap: bool,
    /// What the logit scale does.
    pub logits: LogitScale,
    /// Whether `residual_scale` counts.
    pub residual_scale: bool,
    /// Whether `attention_scale` counts.
    pub attention_scale: bool,
    /// Layers of the one model of the family whose scores are divided by √(width / heads), whatever a
    /// head's own width; its GGUF files do not say so.
    pub scores_by_width: Option<usize>,
    /// Whether the scales that a file may have beside weights count in the feed-forward. They always
    /// do in attention, but not beside one weight for queries, keys and values.
    pub feed_forward_scales: bool,
    /// What the router of experts reads and does.
    pub router: Router,
    /// Whether a head of the delta rule takes keys by its number modulo their heads, and not those of
    /// its block of neighbours.
    pub strided_keys: bool,
}

/// The function of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// A function of one number.
    Of(Unary),
    /// The square of what is above 0 (Primer, arXiv 2109.08668).
    ReluSquared,
    /// Of gate g, at most `limit`, and up u, within ± `limit`: (u + 1) g σ(α g) (gpt-oss).
    ClampedSwiglu {
        /// α.
        alpha: f32,
        /// The bound.
        limit: f32,
    },
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance.
    Layer,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// None: positions come otherwise, or not at all.
    None,
    /// Neighbours.
    Interleaved,
    /// An element of each half.
    Halves,
}

/// Some layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Every one.
    All,
    /// Not one.
    None,
    /// All but every n-th: those with (i + 1) mod n = 0.
    AllButEveryNth(usize),
    /// All but the first of each n: those with i mod n = 0.
    AllButFirstOf(usize),
    /// Those with a window, or every one where none has one.
    Windowed,
}

impl Layers {
    /// Whether layer `i` is one of them; `windowed`: whether it has a window.
    pub fn has(self, i: usize, windowed: bool) -> bool {
        match self {
            Layers::All => true,
            Layers::None => false,
            Layers::AllButEveryNth(n) => !(i + 1).is_multiple_of(n),
            Layers::AllButFirstOf(n) => !i.is_multiple_of(n),
            Layers::Windowed => windowed,
        }
    }
}

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Before each sublayer; also after it, where the file has weights for that.
    Before,
    /// After each sublayer only.
    After,
}

/// The factor on embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// None.
    None,
    /// √width.
    RootWidth,
    /// The file's.
    Config,
}

/// What a file's logit scale does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScale {
    /// Nothing.
    None,
    /// Multiplies.
    Multiply,
    /// Divides.
    Divide,
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    /// Whether it reads the rows before attention, un-normed (SmallThinker).
    pub early: bool,
    /// Whether the weights of the chosen are made to sum to 1.
    pub normalised: bool,
    /// Whether a GGUF file of the family may say otherwise; llama.cpp does not ask others.
    pub told: bool,
    /// Its function, where the file does not say: 1 softmax, 2 sigmoid, 3 softmax of the chosen, 4
    /// SparseMixer.
    pub gating: u32,
}

const ROUTER: Router = Router { early: false, normalised: true, told: false, gating: 1 };

/// Llama: what all others are told apart from.
const LLAMA: Family = Family {
    name: "llama",
    encoder: false,
    norm: Norm::Rms,
    activation: Function::Of(Silu),
    rope: RopeStyle::Interleaved,
    rotates: Layers::All,
    windows: Layers::None,
    norms: Norms::Before,
    feed_norm: "ffn_norm",
    epsilon: 1e-5,
    parallel: false,
    local_base: None,
    plain_windows: false,
    rotates_if_tuned: false,
    alibi: None,
    norm_after_rope: false,
    embedding: EmbeddingScale::None,
    score_softcap: false,
    logit_softcap: false,
    logits: LogitScale::None,
    residual_scale: false,
    attention_scale: false,
    scores_by_width: None,
    feed_forward_scales: true,
    router: ROUTER,
    strided_keys: false,
};

/// Llama without scales in the feed-forward.
const PLAIN: Family = Family { feed_forward_scales: false, ..LLAMA };

/// Llama with rotation of halves.
const NEOX: Family = Family { rope: RopeStyle::Halves, ..PLAIN };

/// Gemma: scaled embeddings, GELU.
const GEMMA: Family =
    Family { activation: Function::Of(GeluTanh), embedding: EmbeddingScale::RootWidth, ..NEOX };

/// GPT-2 and its kin: norms with mean and bias, GELU without a gate.
const GPT: Family = Family { norm: Norm::Layer, activation: Function::Of(GeluTanh), ..NEOX };

/// Granite: everything is scaled.
const GRANITE: Family = Family {
    embedding: EmbeddingScale::Config,
    logits: LogitScale::Divide,
    residual_scale: true,
    attention_scale: true,
    rotates_if_tuned: true,
    ..PLAIN
};

/// Norms after the sublayers only.
const AFTER: Family = Family { norms: Norms::After, ..NEOX };

/// Qwen's hybrids of the delta rule and attention, as their GGUF files order heads.
const HYBRID: Family = Family { feed_norm: "post_attention_norm", strided_keys: true, ..NEOX };

/// Experts whose weights stay as the router gave them.
const UNNORMALISED: Router = Router { normalised: false, ..ROUTER };

/// All families.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family { name: "smollm3", rotates: Layers::AllButEveryNth(4), ..PLAIN },
    Family { name: "internlm2", ..PLAIN },
    Family { name: "arcee", activation: Function::ReluSquared, ..PLAIN },
    Family { name: "olmo", norm: Norm::Layer, ..PLAIN },
    Family { name: "granite", ..GRANITE },
    Family { name: "granitemoe", ..GRANITE },
    Family { name: "minicpm", ..GRANITE },
    Family { name: "qwen2", ..NEOX },
    Family { name: "qwen3", feed_forward_scales: true, ..NEOX },
    Family { name: "qwen2moe", router: UNNORMALISED, ..NEOX },
    Family { name: "qwen3moe", feed_forward_scales: true, ..NEOX },
    Family { name: "olmoe", router: UNNORMALISED, ..NEOX },
    Family { name: "phi3", ..NEOX },
    Family {
        name: "phimoe",
        norm: Norm::Layer,
        router: Router { gating: 4, ..UNNORMALISED },
        ..NEOX
    },
    Family { name: "openelm", epsilon: 1e-6, ..NEOX },
    Family { name: "exaone", ..NEOX },
    Family { name: "hunyuan-dense", norm_after_rope: true, ..NEOX },
    Family { name: "hunyuan-moe", norm_after_rope: true, ..NEOX },
    Family {
        name: "smallthinker",
        activation: Function::Of(Relu),
        rotates: Layers::Windowed,
        windows: Layers::AllButFirstOf(4),
        router: Router { early: true, gating: 2, ..ROUTER },
        ..NEOX
    },
    Family { name: "olmo2", plain_windows: true, ..AFTER },
    Family {
        name: "exaone4",
        rotates: Layers::Windowed,
        windows: Layers::AllButEveryNth(4),
        ..AFTER
    },
    Family { name: "gemma", ..GEMMA },
    Family {
        name: "gemma2",
        windows: Layers::AllButEveryNth(2),
        score_softcap: true,
        logit_softcap: true,
        attention_scale: true,
        scores_by_width: Some(46),
        ..GEMMA
    },
    Family {
        name: "gemma3",
        windows: Layers::AllButEveryNth(6),
        local_base: Some(10_000.0),
        logit_softcap: true,
        attention_scale: true,
        scores_by_width: Some(62),
        ..GEMMA
    },
    Family { name: "gpt2", rope: RopeStyle::None, ..GPT },
    Family { name: "bloom", rope: RopeStyle::None, alibi: Some(8.0), ..GPT },
    Family { name: "gptneox", activation: Function::Of(Gelu), ..GPT },
    Family { name: "falcon", activation: Function::Of(Gelu), parallel: true, ..GPT },
    Family { name: "phi2", parallel: true, ..GPT },
    Family { name: "starcoder2", ..GPT },
    Family { name: "stablelm", activation: Function::Of(Silu), ..GPT },
    Family { name: "nemotron", activation: Function::ReluSquared, ..GPT },
    Family { name: "mamba", rope: RopeStyle::None, ..NEOX },
    Family { name: "mamba2", rope: RopeStyle::None, ..NEOX },
    Family { name: "lfm2", ..NEOX },
    Family {
        name: "gpt-oss",
        activation: Function::ClampedSwiglu { alpha: 1.702, limit: 7.0 },
        windows: Layers::AllButEveryNth(2),
        feed_norm: "post_attention_norm",
        router: Router { gating: 3, ..ROUTER },
        ..NEOX
    },
    Family {
        name: "deepseek2",
        attention_scale: true,
        router: Router { told: true, ..UNNORMALISED },
        ..PLAIN
    },
    Family { name: "qwen3next", feed_norm: "post_attention_norm", ..NEOX },
    Family {
        name: "bert",
        encoder: true,
        activation: Function::Of(Gelu),
        rope: RopeStyle::None,
        epsilon: 1e-12,
        ..GPT
    },
    Family { name: "qwen35", ..HYBRID },
    Family { name: "qwen35moe", ..HYBRID },
];

/// The family that GGUF calls `name`.
pub fn named(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.name == name)
}
