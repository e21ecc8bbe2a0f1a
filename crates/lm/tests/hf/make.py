"""Writes one tiny random model of each class as a Hugging Face folder, with what transformers
computes with it.

    python make.py [NAME ...]     (needs torch and transformers; all classes without names)

Each folder beside this file gets config.json, model.safetensors (16 bits) and expected.npz: tokens,
logits of all positions, and a greedy continuation. Weights are scaled so that every layer matters.
Classes that transformers does not have are written as one that it has which computes the same, or are
computed by own.py.
"""

import json
import math
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import own
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
TOKENS, GREEDY = 24, 12

SIZES = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
LLAMA = SIZES | HEADS
EXPERTS = LLAMA | dict(moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2)
FOUR = dict(num_hidden_layers=4)
HYBRID = EXPERTS | FOUR | dict(
    head_dim=16, linear_conv_kernel_dim=4, linear_key_head_dim=8, linear_value_head_dim=8,
    linear_num_key_heads=2, linear_num_value_heads=4, shared_expert_intermediate_size=24,
    full_attention_interval=4,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25))

THINKER = dict(
    vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, moe_ffn_hidden_size=24, moe_num_primary_experts=4, moe_num_active_primary_experts=2,
    moe_primary_router_apply_softmax=False, norm_topk_prob=True, sliding_window_size=8,
    rope_theta=10000.0, rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=False)


def rope(**numbers):
    return dict(rope_parameters=dict(rope_theta=10000.0) | numbers)


# Name: the class that computes, its numbers, and what is done to the saved folder.
MODELS = {
    "llama": ("Llama", LLAMA),
    "llama3": ("Llama", LLAMA | FOUR | dict(head_dim=16) | rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16)),
    "llama-yarn": ("Llama", LLAMA | dict(max_position_embeddings=64) | rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama-linear": ("Llama", LLAMA | rope(rope_type="linear", factor=2.0)),
    "llama-bias": ("Llama", LLAMA | dict(attention_bias=True, mlp_bias=True)),
    "mistral": ("Mistral", LLAMA | dict(sliding_window=8)),
    "mixtral": ("Mixtral", LLAMA | dict(num_local_experts=4, num_experts_per_tok=2)),
    "smollm3": ("SmolLM3", LLAMA | FOUR | dict(pad_token_id=0)),
    "qwen2": ("Qwen2", LLAMA | dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=16)),
    "qwen2moe": ("Qwen2Moe", EXPERTS | dict(shared_expert_intermediate_size=40)),
    "qwen3moe": ("Qwen3Moe", EXPERTS | dict(head_dim=16, norm_topk_prob=True)),
    "gemma": ("Gemma", LLAMA | dict(head_dim=16)),
    "gemma2": ("Gemma2", LLAMA | FOUR | dict(
        head_dim=16, sliding_window=8, query_pre_attn_scalar=24, attn_logit_softcapping=4.0,
        final_logit_softcapping=5.0)),
    "gemma3": ("Gemma3", LLAMA | dict(
        num_hidden_layers=6, head_dim=16, sliding_window=8, query_pre_attn_scalar=24)),
    "phi2": ("Phi", LLAMA | dict(partial_rotary_factor=0.5)),
    "phi3": ("Phi3", LLAMA | dict(pad_token_id=0)),
    "phi3-long": ("Phi3", LLAMA | dict(
        pad_token_id=0, max_position_embeddings=64, original_max_position_embeddings=16) | rope(
        rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7],
        long_factor=[1.0, 2.0, 4.0, 8.0], original_max_position_embeddings=16)),
    "phimoe": ("Phimoe", LLAMA | dict(
        num_local_experts=4, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True)),
    "stablelm": ("StableLm", LLAMA | dict(partial_rotary_factor=0.5)),
    "stablelm-heads": ("StableLm", LLAMA | dict(
        partial_rotary_factor=0.5, qk_layernorm=True, use_parallel_residual=True)),
    "granite": ("Granite", LLAMA | dict(
        embedding_multiplier=2.0, residual_multiplier=0.7, logits_scaling=3.0,
        attention_multiplier=0.2)),
    "granitemoe": ("GraniteMoe", LLAMA | dict(
        num_local_experts=4, num_experts_per_tok=2, embedding_multiplier=2.0,
        residual_multiplier=0.7, logits_scaling=3.0, attention_multiplier=0.2)),
    "olmo": ("Olmo", LLAMA | dict(clip_qkv=1.5)),
    "olmo2": ("Olmo2", LLAMA),
    "olmo3": ("Olmo3", LLAMA | dict(
        sliding_window=8, layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=10000.0),
            full_attention=dict(
                rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0,
                original_max_position_embeddings=16)))),
    "olmoe": ("Olmoe", EXPERTS | dict(intermediate_size=24)),
    "exaone4": ("Exaone4", LLAMA | FOUR | dict(sliding_window=8, sliding_window_pattern=4)),
    "exaone4-full": ("Exaone4", LLAMA | dict(
        sliding_window=None, layer_types=2 * ["full_attention"])),
    "starcoder2": ("Starcoder2", LLAMA | dict(sliding_window=8)),
    "starcoder2-full": ("Starcoder2", LLAMA | dict(sliding_window=None)),
    "gpt2": ("GPT2LMHead", dict(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "falcon": ("Falcon", SIZES | dict(num_attention_heads=4)),
    "falcon-40b": ("Falcon", SIZES | dict(
        num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True)),
    "falcon-11b": ("Falcon", SIZES | dict(
        num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True,
        num_ln_in_parallel_attn=1)),
    "gptneox": ("GPTNeoX", LLAMA),
    "bloom": ("Bloom", dict(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)),
    "nemotron": ("Nemotron", LLAMA | dict(head_dim=8)),
    "hunyuan-dense": ("HunYuanDenseV1", LLAMA | dict(head_dim=8)),
    "hunyuan-moe": ("HunYuanMoEV1", LLAMA | dict(
        head_dim=8, num_experts=4, moe_topk=[2, 2], num_shared_expert=[1, 1],
        use_mixed_mlp_moe=True)),
    "arcee": ("Arcee", LLAMA),
    "gpt-oss": ("GptOss", LLAMA | dict(
        head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8) | rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
        beta_slow=1.0, truncate=False)),
    "deepseek2": ("DeepseekV2", EXPERTS | dict(
        n_routed_experts=4, n_shared_experts=2, first_k_dense_replace=1, kv_lora_rank=16,
        q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12,
        num_key_value_heads=4, routed_scaling_factor=1.5, num_hidden_layers=3)),
    "deepseek2-q": ("DeepseekV2", EXPERTS | dict(
        n_routed_experts=4, n_shared_experts=2, first_k_dense_replace=0, kv_lora_rank=16,
        q_lora_rank=20, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        num_key_value_heads=4) | rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
        beta_slow=1.0, mscale=0.707, mscale_all_dim=0.707)),
    "mamba": ("Mamba", dict(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8, expand=2)),
    "mamba2": ("Mamba2", dict(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8, expand=2, num_heads=4,
        head_dim=16, n_groups=1, chunk_size=8)),
    "lfm2": ("Lfm2", LLAMA | dict(
        num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"],
        block_auto_adjust_ff_dim=False)),
    "qwen3next": ("Qwen3Next", HYBRID | dict(norm_topk_prob=True)),
    "qwen35": ("Qwen3_5", HYBRID),
    "qwen35moe": ("Qwen3_5Moe", HYBRID),
    "minicpm": ("Granite", LLAMA | dict(
        embedding_multiplier=12.0, residual_multiplier=1.4 / math.sqrt(2), logits_scaling=2.0,
        attention_multiplier=1 / math.sqrt(8))),
    "internlm2": ("Llama", LLAMA),
    "phonelm": ("Llama", LLAMA | dict(hidden_act="relu")),
    "mobilellm": ("Llama", LLAMA | FOUR | dict(tie_word_embeddings=True)),
    "mobillama": ("Llama", LLAMA),
    "smallthinker": ("SmallThinker", THINKER | dict(
        rope_layout=[0, 1], sliding_window_layout=[0, 1])),
    "smallthinker-4b": ("SmallThinker", THINKER | dict(
        rope_layout=[1, 1], sliding_window_layout=[0, 0], tie_word_embeddings=True,
        moe_primary_router_apply_softmax=True)),
    "openelm": ("OpenELM", dict(
        vocab_size=96, model_dim=32, num_transformer_layers=2, head_dim=8, num_query_heads=[2, 4],
        num_kv_heads=[1, 2], ffn_multipliers=[0.8, 1.5], ffn_dim_divisor=16, ffn_with_glu=True,
        activation_fn_name="swish", normalization_layer_name="rms_norm", rope_freq_constant=10000,
        max_context_length=64, normalize_qk_projections=True, share_input_output_layers=True)),
}
# Classes of own.py.
OWN = {"SmallThinker": own.SmallThinker, "OpenELM": own.OpenELM}


def tie(name, model):
    """Makes layers of `model` share what they share in the class called `name`."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    if name == "mobilellm":
        for i in (0, 2):
            layers[i + 1].load_state_dict(layers[i].state_dict())
    if name == "mobillama":
        layers[1].mlp.load_state_dict(layers[0].mlp.state_dict())


def rewrite(name, config, tensors):
    """Turns a saved folder into one of the class called `name`."""
    if name == "minicpm":
        config["architectures"] = ["MiniCPMForCausalLM"]
        for key in ["embedding_multiplier", "residual_multiplier", "logits_scaling",
                    "attention_multiplier"]:
            del config[key]
        config |= dict(scale_emb=12, scale_depth=1.4, dim_model_base=16)
    elif name == "internlm2":
        config["architectures"] = ["InternLM2ForCausalLM"]
        names = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
                 "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
                 "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
                 "embed_tokens": "tok_embeddings", "lm_head": "output"}
        for i in range(2):
            at = f"model.layers.{i}.self_attn."
            q, k, v = (tensors.pop(f"{at}{p}_proj.weight") for p in "qkv")
            q, k, v = q.view(2, 2, 8, 32), k.view(2, 1, 8, 32), v.view(2, 1, 8, 32)
            fused = torch.cat([q, k, v], 1).reshape(-1, 32).contiguous()
            tensors[f"model.layers.{i}.attention.wqkv.weight"] = fused
        for old in list(tensors):
            new = old
            for a, b in names.items():
                new = new.replace(a, b)
            tensors[new] = tensors.pop(old)
    elif name == "phonelm":
        config["architectures"] = ["PhoneLMForCausalLM"]
    elif name == "mobilellm":
        config["architectures"] = ["MobileLLMForCausalLM"]
        config |= dict(num_hidden_layers=2, layer_sharing=True, share_embedding=True)
        for old in list(tensors):
            if ".layers." in old:
                i = int(old.split(".")[2])
                tensor = tensors.pop(old)
                if i % 2 == 0:
                    tensors[old.replace(f"layers.{i}.", f"layers.{i // 2}.")] = tensor
    elif name == "mobillama":
        for old in list(tensors):
            if "layers.1.mlp" in old:
                del tensors[old]


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda p: torch.randn(p.shape, generator=generator)
    embeddings = model.get_input_embeddings().weight
    for name, p in sorted(model.named_parameters()):
        last = name.split(".")[-1]
        if p is embeddings:
            # Where they also give the logits, a token must not only find itself.
            new = draw(p) * (0.3 if model.config.tie_word_embeddings else 1.0)
        elif last in ("A_log", "dt_bias", "D"):
            new = p.data.float() + 0.2 * draw(p)
        elif "sinks" in last:
            new = draw(p)
        elif p.dim() == 1 or last.endswith("bias"):
            centre = 1.0 if (p.data == 1).all() else 0.0
            new = centre + 0.3 * draw(p)
        else:
            # Experts of gpt-oss are inputs x outputs.
            fan_in = p.shape[-1] if p.dim() != 3 or "conv" in name else min(p.shape[1:])
            if "conv1d" in name or "conv.conv" in name:
                fan_in = p.shape[-1]
            new = 1.5 * draw(p) / math.sqrt(fan_in)
        p.data = new.half().float()


def built(kind, numbers):
    """A model of class `kind`, and what writes it to a folder."""
    if kind in OWN:
        model = OWN[kind](numbers)
        config = numbers | dict(architectures=[f"{kind}ForCausalLM"], model_type=kind.lower())

        def save(folder):
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            save_file(model.half().state_dict(), folder / "model.safetensors")
        return model.eval(), save
    stem = kind.removesuffix("LMHead")
    config_class = getattr(transformers, f"{stem}TextConfig", None) or getattr(
        transformers, f"{stem}Config")
    model_class = getattr(
        transformers, f"{kind}Model" if kind.endswith("Head") else f"{kind}ForCausalLM")
    config = config_class(**numbers, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    return model, lambda folder: model.half().save_pretrained(folder)


@torch.no_grad()
def make(name):
    model, save = built(*MODELS[name])
    randomise(model, zlib.crc32(name.encode()))
    tie(name, model)

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    tokens = rng.integers(3, 96, TOKENS)
    logits = lambda ids: model(torch.tensor(ids)[None], use_cache=False).logits[0].float()
    expected = logits(tokens).numpy()
    ids = list(tokens)
    for _ in range(GREEDY):
        ids.append(int(logits(ids)[-1].argmax()))
    top = np.sort(expected, -1)
    print(f"{name}: spread {np.ptp(expected):.2f}, deviation {expected.std():.2f}, "
          f"closest {np.min(top[:, -1] - top[:, -2]):.1e}")

    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    save(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    told = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    rewrite(name, told, tensors)
    (folder / "config.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    save_file(tensors, folder / "model.safetensors")
    np.savez_compressed(
        folder / "expected.npz", tokens=tokens.astype(np.int32), logits=expected,
        greedy=np.array(ids[TOKENS:], np.int32))


if __name__ == "__main__":
    failed = []
    for name in sys.argv[1:] or MODELS:
        try:
            make(name)
        except Exception as error:
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}")
    sys.exit(f"failed: {failed}" if failed else 0)
