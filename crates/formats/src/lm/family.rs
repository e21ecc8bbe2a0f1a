//! What differs between families, as data: a new family that differs only in these is a line.

use kinglet_graph::ops::unary::Unary;

/// A family of language models.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// GGUF's name of the architecture.
    pub name: &'static str,
    /// Hugging Face's names of it.
    pub classes: &'static [&'static str],
    /// Its norm.
    pub norm: Norm,
    /// The feed-forward's function.
    pub activation: Unary,
    /// Which elements rotate together, in GGUF's order of the weights.
    pub rope: RopeStyle,
    /// Layers whose rows rotate.
    pub rotates: Layers,
    /// Layers that see a window only, where the file does not say.
    pub windows: Layers,
    /// Where norms stand.
    pub norms: Norms,
    /// Attention and feed-forward read the same rows and are added together.
    pub parallel: bool,
    /// Whether queries and keys are normed after they rotated.
    pub norm_after_rope: bool,
    /// Factor on embeddings.
    pub embedding: EmbeddingScale,
    /// Bounds on scores and logits count.
    pub softcaps: bool,
    /// What the logit scale does.
    pub logits: LogitScale,
    /// Whether `residual_scale` counts.
    pub residual_scale: bool,
    /// Whether `attention_scale` counts.
    pub attention_scale: bool,
    /// What the router of experts reads and does.
    pub router: Router,
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
    /// Those with a window.
    Windowed,
}

impl Layers {
    /// Whether layer `i` is one of them; `windowed`: whether it has a window.
    pub fn has(self, i: usize, windowed: bool) -> bool {
        match self {
            Layers::All => true,
            Layers::None => false,
            Layers::AllButEveryNth(n) => (i + 1) % n != 0,
            Layers::AllButFirstOf(n) => i % n != 0,
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
    /// Its function, where the file does not say: 1 softmax, 2 sigmoid, 3 softmax of the chosen.
    pub gating: u32,
}

const ROUTER: Router = Router { early: false, normalised: true, gating: 1 };

/// Llama: what all others are told apart from.
const LLAMA: Family = Family {
    name: "llama",
    classes: &["LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"],
    norm: Norm::Rms,
    activation: Unary::Silu,
    rope: RopeStyle::Interleaved,
    rotates: Layers::All,
    windows: Layers::None,
    norms: Norms::Before,
    parallel: false,
    norm_after_rope: false,
    embedding: EmbeddingScale::None,
    softcaps: false,
    logits: LogitScale::None,
    residual_scale: false,
    attention_scale: false,
    router: ROUTER,
};

/// Llama with rotation of halves.
const NEOX: Family = Family { rope: RopeStyle::Halves, classes: &[], ..LLAMA };

/// Gemma: scaled embeddings, GELU.
const GEMMA: Family = Family {
    activation: Unary::GeluTanh,
    embedding: EmbeddingScale::RootWidth,
    ..NEOX
};

/// All families.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family { name: "qwen2", classes: &["Qwen2ForCausalLM"], ..NEOX },
    Family { name: "qwen3", classes: &["Qwen3ForCausalLM"], ..NEOX },
    Family { name: "qwen3moe", classes: &["Qwen3MoeForCausalLM"], ..NEOX },
    Family { name: "gemma", classes: &["GemmaForCausalLM"], ..GEMMA },
    Family {
        name: "gemma2",
        classes: &["Gemma2ForCausalLM"],
        windows: Layers::AllButEveryNth(2),
        softcaps: true,
        attention_scale: true,
        ..GEMMA
    },
];

/// The family that GGUF calls `name`.
pub fn named(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.name == name)
}

/// The family that Hugging Face calls `class`.
pub fn of_class(class: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.classes.contains(&class))
}
