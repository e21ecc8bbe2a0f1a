"""Writes adapters as PEFT makes them for the models in ../hf, with what PEFT computes with them.

    python make.py        (needs torch, transformers and peft)

Each folder beside this file is an adapter; its expected.npz has tokens and the logits of all positions.
`both.npz` has those of the two for llama together, the first counted half.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Name: the base, and what PEFT is told.
ADAPTERS = {
    "llama-all": ("llama", dict(r=4, lora_alpha=12, target_modules=ALL)),
    "llama-style": ("llama", dict(
        r=3, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "v_proj"],
        rank_pattern={"layers.1.self_attn.v_proj": 5}, alpha_pattern={"layers.1.self_attn.v_proj": 9})),
    "llama-head": ("llama", dict(r=3, lora_alpha=6, target_modules=["lm_head", "down_proj"])),
    "qwen2-queries": ("qwen2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"])),
    # Queries, keys and values in one matrix; gates and what they gate in one.
    "phi3-fused": ("phi3", dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj", "down_proj"])),
    # Matrices that lie inputs by outputs.
    "gpt2-turned": ("gpt2", dict(
        r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)),
    # Queries, keys and values by turns.
    "gptneox-turns": ("gptneox", dict(r=4, lora_alpha=8, target_modules=["query_key_value"])),
}


def base(name):
    folder = HERE.parent / "hf" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), torch.tensor(np.load(folder / "expected.npz")["tokens"]).long().reshape(1, -1)


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits[0].float().numpy()


def save(path, tokens, values):
    np.savez_compressed(path, tokens=tokens[0].numpy().astype(np.int32), logits=values)


for seed, (name, (of, told)) in enumerate(ADAPTERS.items()):
    torch.manual_seed(seed)
    model, tokens = base(of)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **told)).eval()
    for key, values in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(values, std=0.3 if "lora_B" in key else 0.2)
    shutil.rmtree(HERE / name, ignore_errors=True)
    model.base_model.peft_config["default"].base_model_name_or_path = of
    model.save_pretrained(HERE / name, save_embedding_layers=False)
    (HERE / name / "README.md").unlink(missing_ok=True)
    save(HERE / name / "expected.npz", tokens, logits(model, tokens))
    plain = logits(model.unload(), tokens)
    print(name, float(np.abs(plain - np.load(HERE / name / "expected.npz")["logits"]).max()))

model, tokens = base("llama")
model = PeftModel.from_pretrained(model, HERE / "llama-all", adapter_name="all").eval()
model.load_adapter(HERE / "llama-style", adapter_name="style")
model.base_model.set_adapter(["all", "style"])
for module in model.modules():
    if isinstance(getattr(module, "scaling", None), dict):
        module.scaling["all"] *= 0.5
save(HERE / "both.npz", tokens, logits(model, tokens))
