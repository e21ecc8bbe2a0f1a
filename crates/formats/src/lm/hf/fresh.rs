//! The tensors that a new model of a class has, as data: what training from nothing starts from.

use super::classes::Class;
use super::config;
use kinglet_graph::GraphError;
use serde_json::Value;

/// A tensor that a new model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Its name.
    pub name: String,
    /// Its sizes, outermost first.
    pub dims: Vec<usize>,
    /// What it starts as.
    pub start: Start,
}

/// What a tensor of a new model starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Normally distributed numbers.
    Random,
    /// The same, less spread the more layers add to one stream: what a layer's last product is by
    /// (Radford et al. 2019).
    Residual,
    /// Ones: a norm's scale.
    Ones,
    /// Zeros: a bias, or a norm's scale in a class that holds what it is above 1.
    Zeros,
}

/// A size, by what it is of.
#[derive(Clone, Copy)]
enum Size {
    Width,
    Vocabulary,
    Context,
    /// All heads of queries.
    Queries,
    /// All heads of keys, or of values.
    Keys,
    /// Queries, keys and values.
    Fused,
    /// One head.
    Head,
    /// The feed-forward's.
    Inner,
    TwiceInner,
}
use Size::*;

/// Whether a product has a bias.
#[derive(Clone, Copy)]
enum Bias {
    No,
    Yes,
    /// Where this key of `config.json` says so; the second: where it is not there.
    If(&'static str, bool),
}
use Bias::{If, No, Yes};

/// A tensor with its bias: name without its last part, sizes of the weights.
type Part = (&'static str, &'static [Size], Bias, Start);

/// The tensors of a class.
struct Shape {
    classes: &'static [&'static str],
    /// Before the names of all but the output.
    prefix: &'static str,
    /// Before a layer's number.
    layers: &'static str,
    outside: &'static [Part],
    layer: &'static [&'static [Part]],
    /// The output, with its whole name, where it is not the embeddings.
    output: Part,
    /// Whether the output is the embeddings where `config.json` does not say.
    tied: bool,
}

const fn norm(name: &'static str) -> Part {
    (name, &[Width], No, Start::Ones)
}

const fn layer_norm(name: &'static str) -> Part {
    (name, &[Width], Yes, Start::Ones)
}

const fn product(name: &'static str, dims: &'static [Size], bias: Bias) -> Part {
    (name, dims, bias, Start::Random)
}

const fn last(name: &'static str, dims: &'static [Size], bias: Bias) -> Part {
    (name, dims, bias, Start::Residual)
}

const EMBEDDINGS: Part = product("embed_tokens", &[Vocabulary, Width], No);
const OUTPUT: Part = product("lm_head", &[Vocabulary, Width], No);

const ATTENTION_BIAS: Bias = If("attention_bias", false);
const MLP_BIAS: Bias = If("mlp_bias", false);
const USE_BIAS: Bias = If("use_bias", true);

const fn attention(bias: Bias, output: Bias) -> [Part; 4] {
    [
        product("self_attn.q_proj", &[Queries, Width], bias),
        product("self_attn.k_proj", &[Keys, Width], bias),
        product("self_attn.v_proj", &[Keys, Width], bias),
        last("self_attn.o_proj", &[Width, Queries], output),
    ]
}

const PLAIN_ATTENTION: &[Part] = &attention(ATTENTION_BIAS, ATTENTION_BIAS);
const GATED: &[Part] = &[
    product("mlp.gate_proj", &[Inner, Width], MLP_BIAS),
    product("mlp.up_proj", &[Inner, Width], MLP_BIAS),
    last("mlp.down_proj", &[Width, Inner], MLP_BIAS),
];
const UNGATED: &[Part] = &[
    product("mlp.up_proj", &[Inner, Width], MLP_BIAS),
    last("mlp.down_proj", &[Width, Inner], MLP_BIAS),
];
const BEFORE: &[Part] = &[norm("input_layernorm"), norm("post_attention_layernorm")];
const BEFORE_LAYER: &[Part] =
    &[layer_norm("input_layernorm"), layer_norm("post_attention_layernorm")];
const AFTER: &[Part] = &[norm("post_attention_layernorm"), norm("post_feedforward_layernorm")];
const AROUND: &[Part] = &[norm("input_layernorm"), norm("pre_feedforward_layernorm")];
const HEAD_NORMS: &[Part] = &[
    ("self_attn.q_norm", &[Head], No, Start::Ones),
    ("self_attn.k_norm", &[Head], No, Start::Ones),
];
const ROW_NORMS: &[Part] = &[
    ("self_attn.q_norm", &[Queries], No, Start::Ones),
    ("self_attn.k_norm", &[Keys], No, Start::Ones),
];

/// Llama, which most others differ little from.
const LLAMA: Shape = Shape {
    classes: &[
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MobileLLMForCausalLM",
        "PhoneLMForCausalLM",
        "GraniteForCausalLM",
        "MiniCPMForCausalLM",
    ],
    prefix: "model.",
    layers: "layers.",
    outside: &[EMBEDDINGS, norm("norm")],
    layer: &[BEFORE, PLAIN_ATTENTION, GATED],
    output: OUTPUT,
    tied: false,
};

const SHAPES: &[Shape] = &[
    LLAMA,
    Shape { classes: &["SmolLM3ForCausalLM", "GemmaForCausalLM"], tied: true, ..LLAMA },
    Shape { classes: &["Qwen2ForCausalLM"], layer: &[BEFORE, &attention(Yes, No), GATED], ..LLAMA },
    Shape {
        classes: &["Qwen3ForCausalLM"],
        layer: &[BEFORE, PLAIN_ATTENTION, HEAD_NORMS, GATED],
        ..LLAMA
    },
    Shape {
        classes: &["HunYuanDenseV1ForCausalLM"],
        layer: &[
            BEFORE,
            PLAIN_ATTENTION,
            &[
                ("self_attn.query_layernorm", &[Head], No, Start::Ones),
                ("self_attn.key_layernorm", &[Head], No, Start::Ones),
            ],
            GATED,
        ],
        ..LLAMA
    },
    Shape {
        classes: &["OlmoForCausalLM"],
        outside: &[EMBEDDINGS],
        layer: &[PLAIN_ATTENTION, GATED],
        ..LLAMA
    },
    Shape {
        classes: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
        layer: &[AFTER, PLAIN_ATTENTION, ROW_NORMS, GATED],
        ..LLAMA
    },
    Shape {
        classes: &["Exaone4ForCausalLM"],
        layer: &[AFTER, PLAIN_ATTENTION, HEAD_NORMS, GATED],
        ..LLAMA
    },
    Shape {
        classes: &["Gemma2ForCausalLM"],
        layer: &[AROUND, AFTER, PLAIN_ATTENTION, GATED],
        tied: true,
        ..LLAMA
    },
    Shape {
        classes: &["Gemma3ForCausalLM"],
        layer: &[AROUND, AFTER, PLAIN_ATTENTION, HEAD_NORMS, GATED],
        tied: true,
        ..LLAMA
    },
    Shape { classes: &["ArceeForCausalLM"], layer: &[BEFORE, PLAIN_ATTENTION, UNGATED], ..LLAMA },
    Shape {
        classes: &["NemotronForCausalLM"],
        outside: &[EMBEDDINGS, layer_norm("norm")],
        layer: &[BEFORE_LAYER, PLAIN_ATTENTION, UNGATED],
        ..LLAMA
    },
    Shape {
        classes: &["StableLmForCausalLM"],
        outside: &[EMBEDDINGS, layer_norm("norm")],
        layer: &[BEFORE_LAYER, &attention(If("use_qkv_bias", false), No), GATED],
        ..LLAMA
    },
    Shape {
        classes: &["Starcoder2ForCausalLM"],
        outside: &[EMBEDDINGS, layer_norm("norm")],
        layer: &[
            BEFORE_LAYER,
            &attention(USE_BIAS, USE_BIAS),
            &[
                product("mlp.c_fc", &[Inner, Width], USE_BIAS),
                last("mlp.c_proj", &[Width, Inner], USE_BIAS),
            ],
        ],
        tied: true,
        ..LLAMA
    },
    Shape {
        classes: &["Phi3ForCausalLM"],
        layer: &[
            BEFORE,
            &[
                product("self_attn.qkv_proj", &[Fused, Width], No),
                last("self_attn.o_proj", &[Width, Queries], No),
                product("mlp.gate_up_proj", &[TwiceInner, Width], No),
                last("mlp.down_proj", &[Width, Inner], No),
            ],
        ],
        ..LLAMA
    },
    Shape {
        classes: &["PhiForCausalLM"],
        outside: &[EMBEDDINGS, layer_norm("final_layernorm")],
        layer: &[&[
            layer_norm("input_layernorm"),
            product("self_attn.q_proj", &[Queries, Width], Yes),
            product("self_attn.k_proj", &[Keys, Width], Yes),
            product("self_attn.v_proj", &[Keys, Width], Yes),
            last("self_attn.dense", &[Width, Queries], Yes),
            product("mlp.fc1", &[Inner, Width], Yes),
            last("mlp.fc2", &[Width, Inner], Yes),
        ]],
        output: product("lm_head", &[Vocabulary, Width], Yes),
        ..LLAMA
    },
    Shape {
        classes: &["InternLM2ForCausalLM"],
        outside: &[product("tok_embeddings", &[Vocabulary, Width], No), norm("norm")],
        layer: &[&[
            norm("attention_norm"),
            norm("ffn_norm"),
            product("attention.wqkv", &[Fused, Width], No),
            last("attention.wo", &[Width, Queries], No),
            product("feed_forward.w1", &[Inner, Width], No),
            last("feed_forward.w2", &[Width, Inner], No),
            product("feed_forward.w3", &[Inner, Width], No),
        ]],
        output: product("output", &[Vocabulary, Width], No),
        ..LLAMA
    },
    Shape {
        classes: &["GPT2LMHeadModel"],
        prefix: "transformer.",
        layers: "h.",
        outside: &[
            product("wte", &[Vocabulary, Width], No),
            product("wpe", &[Context, Width], No),
            layer_norm("ln_f"),
        ],
        layer: &[&[
            layer_norm("ln_1"),
            layer_norm("ln_2"),
            product("attn.c_attn", &[Width, Fused], Yes),
            last("attn.c_proj", &[Queries, Width], Yes),
            product("mlp.c_fc", &[Width, Inner], Yes),
            last("mlp.c_proj", &[Inner, Width], Yes),
        ]],
        tied: true,
        ..LLAMA
    },
    Shape {
        classes: &["GPTNeoXForCausalLM"],
        prefix: "gpt_neox.",
        outside: &[product("embed_in", &[Vocabulary, Width], No), layer_norm("final_layer_norm")],
        layer: &[
            BEFORE_LAYER,
            &[
                product("attention.query_key_value", &[Fused, Width], If("attention_bias", true)),
                last("attention.dense", &[Width, Queries], If("attention_bias", true)),
                product("mlp.dense_h_to_4h", &[Inner, Width], Yes),
                last("mlp.dense_4h_to_h", &[Width, Inner], Yes),
            ],
        ],
        output: product("embed_out", &[Vocabulary, Width], No),
        ..LLAMA
    },
    Shape {
        classes: &["BloomForCausalLM"],
        prefix: "transformer.",
        layers: "h.",
        outside: &[
            product("word_embeddings", &[Vocabulary, Width], No),
            layer_norm("word_embeddings_layernorm"),
            layer_norm("ln_f"),
        ],
        layer: &[
            BEFORE_LAYER,
            &[
                product("self_attention.query_key_value", &[Fused, Width], Yes),
                last("self_attention.dense", &[Width, Queries], Yes),
                product("mlp.dense_h_to_4h", &[Inner, Width], Yes),
                last("mlp.dense_4h_to_h", &[Width, Inner], Yes),
            ],
        ],
        tied: true,
        ..LLAMA
    },
];

/// The classes that new models can be of.
pub fn classes() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().flat_map(|shape| shape.classes).copied()
}

/// The tensors of a new model of `class` for which `config.json` says `told`.
pub fn fresh(told: &Value, class: &'static Class) -> Result<Vec<Fresh>, GraphError> {
    let shape = SHAPES.iter().find(|s| s.classes.contains(&class.name)).ok_or_else(|| {
        let known: Vec<_> = classes().collect();
        let m = format!("a new {} can't be made; these can: {}", class.name, known.join(", "));
        GraphError::new("architectures", m)
    })?;
    let flag = |key: &str| told.get(key).and_then(Value::as_bool);
    if flag("qk_layernorm") == Some(true) {
        return Err(GraphError::new("qk_layernorm", "a new model can't be made with it"));
    }
    let (config, ..) = config::read(told, class)?;
    let (heads, kv_heads) = (config.heads[0], config.kv_heads[0]);
    if heads == 0 || config.key == 0 {
        return Err(GraphError::new("num_attention_heads", "is missing or 0"));
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let m = format!("{kv_heads} heads of keys do not share {heads} of queries");
        return Err(GraphError::new("num_key_value_heads", m));
    }
    if config.vocabulary == 0 {
        return Err(GraphError::new("vocab_size", "is missing or 0"));
    }
    let inner = config::inner(told)?.unwrap_or(4 * config.width);
    let (queries, keys) = (heads * config.key, kv_heads * config.key);
    let size = |size: &Size| match size {
        Width => config.width,
        Vocabulary => config.vocabulary,
        Context => config.context,
        Queries => queries,
        Keys => keys,
        Fused => queries + 2 * keys,
        Head => config.key,
        Inner => inner,
        TwiceInner => 2 * inner,
    };
    let mut all = Vec::new();
    let mut add = |stem: String, (_, dims, bias, start): Part| {
        let dims: Vec<usize> = dims.iter().map(size).collect();
        // Matrices of GPT-2 are inputs × outputs.
        let transposed = shape.classes == ["GPT2LMHeadModel"];
        let out = if transposed { dims.last() } else { dims.first() };
        let out = vec![out.copied().unwrap_or(0)];
        let centred = class.zero_centred && start == Start::Ones;
        let start = if centred { Start::Zeros } else { start };
        all.push(Fresh { name: format!("{stem}.weight"), dims, start });
        let has_bias = match bias {
            No => false,
            Yes => true,
            If(key, usual) => flag(key).unwrap_or(usual),
        };
        if has_bias {
            all.push(Fresh { name: format!("{stem}.bias"), dims: out, start: Start::Zeros });
        }
    };
    for part in shape.outside {
        add(format!("{}{}", shape.prefix, part.0), *part);
    }
    for layer in 0..config.layers {
        for part in shape.layer.iter().copied().flatten() {
            add(format!("{}{}{layer}.{}", shape.prefix, shape.layers, part.0), *part);
        }
    }
    let tied = flag("share_embedding").or(flag("tie_word_embeddings")).unwrap_or(shape.tied);
    if !tied {
        add(shape.output.0.to_string(), shape.output);
    }
    Ok(all)
}
