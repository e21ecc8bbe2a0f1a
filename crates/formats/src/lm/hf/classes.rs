//! Hugging Face's classes of language models, as data: which family each is, and what its tensors
//! are called.

use super::change::Change::{self, *};
use crate::lm::family::{self, Family, RopeStyle};

/// A tensor's name within a layer (or outside all) without its last part (`weight`, `bias`), GGUF's
/// name of it, and how it lies there. A `*` stands for a number: all of them are stacked.
pub type Name = (&'static str, &'static str, Change);

/// A class of models.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Its name in `architectures` of `config.json`.
    pub name: &'static str,
    /// GGUF's name of its family.
    pub family: &'static str,
    /// Names that are its own; [`COMMON`] has the others.
    pub names: &'static [Name],
    /// Whether norms' weights are held as what they are above 1.
    pub zero_centred: bool,
    /// Whether neighbours rotate together. Most have an element of each half instead.
    pub interleaved: bool,
}

impl Class {
    /// The class called `name`.
    pub fn named(name: &str) -> Option<&'static Class> {
        CLASSES.iter().find(|c| c.name == name)
    }

    /// The classes of a family.
    pub fn all_of(family: &str) -> impl Iterator<Item = &'static Class> {
        CLASSES.iter().filter(move |c| c.family == family)
    }

    /// Its family, with rotation as Hugging Face's order of the weights wants it.
    pub fn family(&self) -> Option<Family> {
        let mut family = *family::named(self.family)?;
        if family.rope != RopeStyle::None {
            family.rope = if self.interleaved { RopeStyle::Interleaved } else { RopeStyle::Halves };
        }
        // GGUF's order of the weights; Hugging Face's is by neighbours.
        family.strided_keys = false;
        Some(family)
    }

    /// GGUF's name of `part`, and how it lies there.
    pub fn part(&self, part: &str) -> Option<(&'static str, Change)> {
        let found = self.names.iter().chain(COMMON).find(|(name, ..)| *name == part);
        found.map(|(_, gguf, change)| (*gguf, *change))
    }
}

/// What stands before the names of all tensors but the output's.
pub const PREFIXES: &[&str] = &[
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "transformer.",
    "gpt_neox.",
    "backbone.",
    "bert.",
];

/// What stands before a layer's number.
pub const LAYERS: &[&str] = &["layers.", "h.", "encoder.layer."];

/// Last parts of the names of tensors that say nothing that the numbers do not: masks and frequencies
/// that old files keep.
pub const IGNORED: &[&str] = &[
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "position_ids",
];

/// Whole parts of a model that are no language model.
pub const IGNORED_PARTS: &[&str] = &[
    "vision_tower.",
    "model.vision_tower.",
    "model.visual.",
    "visual.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
    "mtp.",
    "pooler.",
    "bert.pooler.",
    "cls.",
];

/// Names that mean the same wherever they stand.
const COMMON: &[Name] = &[
    // Outside of layers.
    ("embed_tokens", "token_embd", Keep),
    ("tok_embeddings", "token_embd", Keep),
    ("token_embeddings", "token_embd", Keep),
    ("wte", "token_embd", Keep),
    ("word_embeddings", "token_embd", Keep),
    ("embed_in", "token_embd", Keep),
    ("embeddings", "token_embd", Keep),
    ("embedding", "token_embd", Keep),
    ("wpe", "position_embd", Keep),
    ("word_embeddings_layernorm", "token_embd_norm", Keep),
    ("embedding_norm", "token_embd_norm", Keep),
    ("norm", "output_norm", Keep),
    ("norm_f", "output_norm", Keep),
    ("ln_f", "output_norm", Keep),
    ("final_layernorm", "output_norm", Keep),
    ("final_layer_norm", "output_norm", Keep),
    ("lm_head", "output", Keep),
    ("embed_out", "output", Keep),
    ("output", "output", Keep),
    // Norms.
    ("input_layernorm", "attn_norm", Keep),
    ("post_attention_layernorm", "ffn_norm", Keep),
    ("ln_1", "attn_norm", Keep),
    ("ln_2", "ffn_norm", Keep),
    ("attention_norm", "attn_norm", Keep),
    ("attn_norm", "attn_norm", Keep),
    ("operator_norm", "attn_norm", Keep),
    ("ffn_norm", "ffn_norm", Keep),
    ("ln_attn", "attn_norm_2", Keep),
    ("ln_mlp", "attn_norm", Keep),
    // Attention.
    ("self_attn.q_proj", "attn_q", Keep),
    ("self_attn.k_proj", "attn_k", Keep),
    ("self_attn.v_proj", "attn_v", Keep),
    ("self_attn.o_proj", "attn_output", Keep),
    ("self_attn.dense", "attn_output", Keep),
    ("self_attn.out_proj", "attn_output", Keep),
    ("self_attn.qkv_proj", "attn_qkv", Keep),
    ("self_attn.q_norm", "attn_q_norm", Keep),
    ("self_attn.k_norm", "attn_k_norm", Keep),
    ("self_attn.q_layernorm", "attn_q_norm", Keep),
    ("self_attn.k_layernorm", "attn_k_norm", Keep),
    ("self_attn.q_layernorm.norms.*", "attn_q_norm", Keep),
    ("self_attn.k_layernorm.norms.*", "attn_k_norm", Keep),
    ("self_attn.query_layernorm", "attn_q_norm", Keep),
    ("self_attn.key_layernorm", "attn_k_norm", Keep),
    ("self_attn.sinks", "attn_sinks.weight", Keep),
    ("self_attn.q_a_proj", "attn_q_a", Keep),
    ("self_attn.q_a_layernorm", "attn_q_a_norm", Keep),
    ("self_attn.q_b_proj", "attn_q_b", Keep),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", Keep),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm", Keep),
    ("self_attn.kv_b_proj", "attn_kv_b", LatentParts),
    ("attn.qkv_proj", "attn_qkv", Keep),
    ("attn.out_proj", "attn_output", Keep),
    ("attn.q_norm", "attn_q_norm", Keep),
    ("attn.k_norm", "attn_k_norm", Keep),
    ("attention.wqkv", "attn_qkv", Grouped),
    ("attention.wo", "attn_output", Keep),
    ("attention.query_key_value", "attn_qkv", Grouped),
    ("attention.dense", "attn_output", Keep),
    ("self_attention.query_key_value", "attn_qkv", Grouped),
    ("self_attention.dense", "attn_output", Keep),
    // Dense feed-forward.
    ("mlp.gate_proj", "ffn_gate", Keep),
    ("mlp.up_proj", "ffn_up", Keep),
    ("mlp.down_proj", "ffn_down", Keep),
    ("mlp.gate_up_proj", "ffn_up", Keep),
    ("mlp.fc1", "ffn_up", Keep),
    ("mlp.fc2", "ffn_down", Keep),
    ("mlp.c_fc", "ffn_up", Keep),
    ("mlp.c_proj", "ffn_down", Keep),
    ("mlp.dense_h_to_4h", "ffn_up", Keep),
    ("mlp.dense_4h_to_h", "ffn_down", Keep),
    ("feed_forward.w1", "ffn_gate", Keep),
    ("feed_forward.w2", "ffn_down", Keep),
    ("feed_forward.w3", "ffn_up", Keep),
    ("ffn.proj_1", "ffn_up", Keep),
    ("ffn.proj_2", "ffn_down", Keep),
    // Experts.
    ("mlp.gate", "ffn_gate_inp", Keep),
    ("mlp.gate.wg", "ffn_gate_inp", Keep),
    ("mlp.router", "ffn_gate_inp", Keep),
    ("block_sparse_moe.gate", "ffn_gate_inp", Keep),
    ("block_sparse_moe.primary_router", "ffn_gate_inp", Keep),
    ("block_sparse_moe.router.layer", "ffn_gate_inp", Keep),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Keep),
    ("mlp.experts.*.gate_proj", "ffn_gate_exps", Keep),
    ("mlp.experts.*.up_proj", "ffn_up_exps", Keep),
    ("mlp.experts.*.down_proj", "ffn_down_exps", Keep),
    ("mlp.experts.gate_up_proj", "ffn_gate_exps.weight", Halves("ffn_up_exps.weight")),
    ("mlp.experts.down_proj", "ffn_down_exps.weight", Keep),
    ("block_sparse_moe.experts.*.w1", "ffn_gate_exps", Keep),
    ("block_sparse_moe.experts.*.w2", "ffn_down_exps", Keep),
    ("block_sparse_moe.experts.*.w3", "ffn_up_exps", Keep),
    ("block_sparse_moe.experts.*.gate", "ffn_gate_exps", Keep),
    ("block_sparse_moe.experts.*.down", "ffn_down_exps", Keep),
    ("block_sparse_moe.experts.*.up", "ffn_up_exps", Keep),
    ("block_sparse_moe.input_linear", "ffn_gate_exps", Halves("ffn_up_exps")),
    ("block_sparse_moe.output_linear", "ffn_down_exps", Keep),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp", Keep),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp", Keep),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp", Keep),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp", Keep),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp", Keep),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp", Keep),
    ("mlp.shared_mlp.gate_proj", "ffn_gate_shexp", Keep),
    ("mlp.shared_mlp.up_proj", "ffn_up_shexp", Keep),
    ("mlp.shared_mlp.down_proj", "ffn_down_shexp", Keep),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp", Keep),
    // Recurrent layers.
    ("mixer.in_proj", "ssm_in", Keep),
    ("mixer.conv1d", "ssm_conv1d", Channels),
    ("mixer.x_proj", "ssm_x", Keep),
    ("mixer.dt_proj", "ssm_dt", Keep),
    ("mixer.dt_bias", "ssm_dt.bias", Keep),
    ("mixer.A_log", "ssm_a", Decay),
    ("mixer.D", "ssm_d", Keep),
    ("mixer.norm", "ssm_norm", Keep),
    ("mixer.out_proj", "ssm_out", Keep),
    ("conv.in_proj", "shortconv.in_proj", Keep),
    ("conv.conv", "shortconv.conv", Channels),
    ("conv.out_proj", "shortconv.out_proj", Keep),
    ("linear_attn.in_proj_qkvz", "attn_qkv", DeltaInputs),
    ("linear_attn.in_proj_ba", "ssm_beta", DeltaGates),
    ("linear_attn.in_proj_qkv", "attn_qkv", Keep),
    ("linear_attn.in_proj_z", "attn_gate", Keep),
    ("linear_attn.in_proj_b", "ssm_beta", Keep),
    ("linear_attn.in_proj_a", "ssm_alpha", Keep),
    ("linear_attn.conv1d", "ssm_conv1d", Channels),
    ("linear_attn.dt_bias", "ssm_dt.bias", Keep),
    ("linear_attn.A_log", "ssm_a", Decay),
    ("linear_attn.norm", "ssm_norm", Uncentred),
    ("linear_attn.out_proj", "ssm_out", Keep),
];

/// Norms after each sublayer, besides those before (Gemma 2 and 3).
const AROUND: &[Name] = &[
    ("post_attention_layernorm", "post_attention_norm", Keep),
    ("pre_feedforward_layernorm", "ffn_norm", Keep),
    ("post_feedforward_layernorm", "post_ffw_norm", Keep),
];

/// GPT-2's matrices are inputs × outputs.
const GPT2: &[Name] = &[
    ("attn.c_attn", "attn_qkv", Transposed),
    ("attn.c_proj", "attn_output", Transposed),
    ("mlp.c_fc", "ffn_up", Transposed),
    ("mlp.c_proj", "ffn_down", Transposed),
];

/// Mamba's one norm a layer.
const MAMBA: &[Name] = &[("norm", "attn_norm", Keep)];

/// gpt-oss: experts' gate and up in turns; matrices inputs × outputs, or in blocks of MXFP4.
const GPT_OSS: &[Name] = &[
    ("post_attention_layernorm", "post_attention_norm", Keep),
    ("mlp.experts.gate_up_proj", "ffn_gate_exps.weight", TurnsTransposed("ffn_up_exps.weight")),
    ("mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias", Turns("ffn_up_exps.bias")),
    ("mlp.experts.gate_up_proj_blocks", "ffn_gate_exps.weight", MxTurns("ffn_up_exps.weight")),
    ("mlp.experts.down_proj", "ffn_down_exps.weight", Transposed),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias", Keep),
    ("mlp.experts.down_proj_blocks", "ffn_down_exps.weight", Mx),
];

/// Qwen's hybrids call the norm before the feed-forward as they do in GGUF.
const HYBRID: &[Name] = &[("post_attention_layernorm", "post_attention_norm", Keep)];

/// BERT.
const BERT: &[Name] = &[
    ("embeddings.word_embeddings", "token_embd", Keep),
    ("embeddings.position_embeddings", "position_embd", Keep),
    ("embeddings.token_type_embeddings", "token_types", Keep),
    ("embeddings.LayerNorm", "token_embd_norm", Keep),
    ("attention.self.query", "attn_q", Keep),
    ("attention.self.key", "attn_k", Keep),
    ("attention.self.value", "attn_v", Keep),
    ("attention.output.dense", "attn_output", Keep),
    ("attention.output.LayerNorm", "attn_output_norm", Keep),
    ("intermediate.dense", "ffn_up", Keep),
    ("output.dense", "ffn_down", Keep),
    ("output.LayerNorm", "layer_output_norm", Keep),
];

const fn class(name: &'static str, family: &'static str) -> Class {
    Class { name, family, names: &[], zero_centred: false, interleaved: false }
}

/// All classes.
pub const CLASSES: &[Class] = &[
    class("LlamaForCausalLM", "llama"),
    class("MistralForCausalLM", "llama"),
    class("MixtralForCausalLM", "llama"),
    class("MobileLLMForCausalLM", "llama"),
    class("PhoneLMForCausalLM", "llama"),
    class("SmolLM3ForCausalLM", "smollm3"),
    class("InternLM2ForCausalLM", "internlm2"),
    class("ArceeForCausalLM", "arcee"),
    class("OlmoForCausalLM", "olmo"),
    class("GraniteForCausalLM", "granite"),
    class("GraniteMoeForCausalLM", "granitemoe"),
    class("MiniCPMForCausalLM", "minicpm"),
    class("Qwen2ForCausalLM", "qwen2"),
    class("Qwen3ForCausalLM", "qwen3"),
    class("Qwen2MoeForCausalLM", "qwen2moe"),
    class("Qwen3MoeForCausalLM", "qwen3moe"),
    class("OlmoeForCausalLM", "olmoe"),
    class("Phi3ForCausalLM", "phi3"),
    class("PhimoeForCausalLM", "phimoe"),
    class("PhiMoEForCausalLM", "phimoe"),
    class("OpenELMForCausalLM", "openelm"),
    class("HunYuanDenseV1ForCausalLM", "hunyuan-dense"),
    class("HunYuanMoEV1ForCausalLM", "hunyuan-moe"),
    class("SmallThinkerForCausalLM", "smallthinker"),
    Class { names: AROUND, ..class("Olmo2ForCausalLM", "olmo2") },
    Class { names: AROUND, ..class("Olmo3ForCausalLM", "olmo2") },
    Class { names: AROUND, ..class("Exaone4ForCausalLM", "exaone4") },
    Class { zero_centred: true, ..class("GemmaForCausalLM", "gemma") },
    Class { names: AROUND, zero_centred: true, ..class("Gemma2ForCausalLM", "gemma2") },
    Class { names: AROUND, zero_centred: true, ..class("Gemma3ForCausalLM", "gemma3") },
    Class {
        names: AROUND,
        zero_centred: true,
        ..class("Gemma3ForConditionalGeneration", "gemma3")
    },
    class("BloomForCausalLM", "bloom"),
    Class { names: GPT2, ..class("GPT2LMHeadModel", "gpt2") },
    class("GPTNeoXForCausalLM", "gptneox"),
    class("FalconForCausalLM", "falcon"),
    class("PhiForCausalLM", "phi2"),
    class("Starcoder2ForCausalLM", "starcoder2"),
    class("StableLmForCausalLM", "stablelm"),
    Class { zero_centred: true, ..class("NemotronForCausalLM", "nemotron") },
    Class { names: MAMBA, ..class("MambaForCausalLM", "mamba") },
    Class { names: MAMBA, ..class("Mamba2ForCausalLM", "mamba2") },
    class("Lfm2ForCausalLM", "lfm2"),
    Class { names: BERT, ..class("BertModel", "bert") },
    Class { names: BERT, ..class("BertForMaskedLM", "bert") },
    Class { names: GPT_OSS, ..class("GptOssForCausalLM", "gpt-oss") },
    Class { interleaved: true, ..class("DeepseekV2ForCausalLM", "deepseek2") },
    Class { names: HYBRID, zero_centred: true, ..class("Qwen3NextForCausalLM", "qwen3next") },
    Class { names: HYBRID, zero_centred: true, ..class("Qwen3_5ForCausalLM", "qwen35") },
    Class {
        names: HYBRID,
        zero_centred: true,
        ..class("Qwen3_5ForConditionalGeneration", "qwen35")
    },
    Class { names: HYBRID, zero_centred: true, ..class("Qwen3_5MoeForCausalLM", "qwen35moe") },
    Class {
        names: HYBRID,
        zero_centred: true,
        ..class("Qwen3_5MoeForConditionalGeneration", "qwen35moe")
    },
];
