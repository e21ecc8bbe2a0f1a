"""Writes the tiny models of ../hf as GGUF files, with what llama.cpp computes with them.

    python make.py LLAMA_CPP [NAME ...]     (all models without names)

LLAMA_CPP is a folder with llama.cpp's source, whose own converter writes the files: what lies in them
and how is what lies in everybody's. Needs that, llama-cpp-python of the same version, torch and
transformers. A file's matrices have 16 bits; llama.cpp computes with the same numbers in 32, so that
nothing is rounded on the way.

Each NAME.gguf beside this file has NAME.npz: tokens, logits of all positions, a greedy continuation.
What llama.cpp does not compute as the model's own code does has none: the judge is then
../hf/NAME/expected.npz.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
HF = HERE.parent / "hf"
GREEDY = 12

# Name: what is done otherwise than to write the folder of that name in ../hf. `numbers`: what real
# folders say and those that today's transformers writes do not.
MODELS = {name: {} for name in (
    "bloom deepseek2-q exaone4-full falcon-40b gemma gpt-oss granitemoe hunyuan-dense internlm2 "
    "llama3 nemotron olmo olmo3 phi3-long smallthinker-4b starcoder2-full "
    "stablelm-heads").split()}
MODELS |= {
    "arcee": dict(fuse_qkv=True),
    # It is Llama with other names.
    "exaone": dict(source="llama", numbers=dict(
        architectures=["ExaoneForCausalLM"], activation_function="silu")),
    "falcon": dict(numbers=dict(num_kv_heads=1)),
    "gpt2": dict(numbers=dict(n_ctx=64)),
    "gptneox": dict(numbers=dict(rotary_pct=0.25)),
    "hunyuan-moe": dict(numbers=dict(moe_intermediate_size=[48, 48])),
    "qwen2moe": dict(fuse_qkv=True),
    # Some layers as the family's first files have them: one weight for queries, keys, values and gates.
    "qwen3next": dict(old_inputs=[0, 2]),
    # With a layer that predicts a token further on, which plain decoding does not run. Sections: how
    # rotation is shared between text and pictures; of a text it is all the same.
    "qwen35": dict(predictor=True, rope=dict(mrope_section=[1, 1, 0])),
    "qwen35moe": dict(
        fuse_qkv=True, fuse_gate_up_exps=True, rope=dict(mrope_section=[1, 1, 0])),
    # As the family's first files have it, with one weight for keys and values. llama.cpp asks for a
    # rank of queries but in models of 26 or 27 layers,
    "deepseek2": dict(judge="transformers", old_latents=True),
    # for windows in models of 64 layers only,
    "exaone4": dict(judge="transformers"),
    # for a feed-forward in each layer;
    "mobillama": dict(judge="transformers"),
    # it has a window of 4096 rows, whatever the file says,
    "smallthinker": dict(judge="transformers"),
    # and does not choose experts as the model does (SparseMixer).
    "phimoe": dict(judge="transformers", numbers=dict(architectures=["PhiMoEForCausalLM"]),
                   rope=dict(original_max_position_embeddings=64)),
}


def convert(folder, path, bits, numbers={}, rope={}, predictor=False, old_inputs=(),
            old_latents=False, **options):
    """Writes the model in `folder` to `path`."""
    import conversion
    import gguf
    from conversion import base
    kinds = {16: gguf.LlamaFileType.MOSTLY_F16, 32: gguf.LlamaFileType.ALL_F32}
    hparams = base.ModelBase.load_hparams(folder, False)
    hparams |= numbers
    hparams.setdefault("rope_parameters", {}).update(rope)
    architecture = base.get_model_architecture(hparams, base.ModelType.TEXT)
    # A class of its own: what is changed here is not changed for other models.
    kind = conversion.get_model_class(architecture)
    kind = type(kind.__name__, (kind,), dict(
        model_arch=kind.model_arch, set_vocab=no_tokeniser, no_mtp=not predictor))
    if old_inputs:
        names = [f"model.layers.{i}.linear_attn.in_proj_qkvz.weight" for i in old_inputs]
        kind.modify_tensors = whole(kind.modify_tensors, names, "ssm_in")
    if old_latents:
        names = [f"model.layers.{i}.self_attn.kv_b_proj.weight"
                 for i in range(hparams["num_hidden_layers"])]
        kind.modify_tensors = whole(kind.modify_tensors, names, "attn_kv_b")
        kind.set_gguf_parameters = with_heads(kind.set_gguf_parameters)
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(shutil.copytree(folder, Path(copy) / folder.name))
        tensors = rearranged(load_file(folder / "model.safetensors"), predictor)
        save_file(tensors, folder / "model.safetensors")
        with torch.inference_mode():
            kind(folder, kinds[bits], path, model_name=folder.name, hparams=hparams,
                 **options).write()


def no_tokeniser(model):
    model._set_vocab_none()
    model.gguf_writer.add_vocab_size(model.hparams["vocab_size"])


def whole(modify, names, part):
    """What leaves tensors `names` as they are, and calls them `part`."""
    def modified(model, tensor, name, layer):
        if name in names:
            yield f"blk.{layer}.{part}.weight", tensor
        else:
            yield from modify(model, tensor, name, layer)
    return modified


def with_heads(parameters):
    """What tells the sizes of heads, and not of the latent."""
    def told(model):
        parameters(model)
        numbers = model.gguf_writer.kv_data[0]
        for part in ("key", "value"):
            at = f"deepseek2.attention.{part}_length"
            numbers[at] = numbers.pop(f"{at}_mla")
        numbers["deepseek2.attention.head_count_kv"] = numbers["deepseek2.attention.head_count"]
    return told


def rearranged(tensors, predictor):
    """The tensors of a folder, as the converter can take them: it computes in the type that it finds."""
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    stacks = {}
    for name in sorted(n for n in tensors if "layernorm.norms." in n):
        # The converter loses StableLM's norms of one head each.
        stem = name.split(".norms.")[0]
        stacks.setdefault(f"{stem}.weight", []).append(tensors.pop(name))
    tensors |= {name: torch.stack(parts) for name, parts in stacks.items()}
    if predictor:
        layer = "model.layers.3."
        for name in [n for n in tensors if n.startswith(layer)]:
            tensors[f"mtp.layers.0.{name[len(layer):]}"] = tensors[name].clone()
        norm = tensors["model.norm.weight"]
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            tensors[f"mtp.{name}.weight"] = norm.clone()
        tensors["mtp.fc.weight"] = torch.ones(len(norm), 2 * len(norm))
    return tensors


class Engine:
    def __init__(self, path, embeddings=False):
        import llama_cpp
        self.api = llama_cpp
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError("llama.cpp can't load it")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.width = llama_cpp.llama_model_n_embd(self.model)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 64
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.embeddings = embeddings
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)

    def run(self, tokens, position=0):
        """Computes `tokens`, all of which are outputs."""
        batch = self.api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = int(token), position + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        failed = self.api.llama_decode(self.context, batch)
        self.api.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama.cpp fails: {failed}")

    def logits(self, tokens, position=0):
        self.run(tokens, position)
        rows = self.api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(rows, (len(tokens), self.vocabulary)).copy()

    def embedding(self, tokens):
        self.run(tokens)
        row = self.api.llama_get_embeddings_seq(self.context, 0)
        return np.ctypeslib.as_array(row, (self.width,)).copy()


def make(name):
    options = dict(MODELS[name])
    source = HF / options.pop("source", name)
    judge = options.pop("judge", "llama.cpp")
    path = HERE / f"{name}.gguf"
    convert(source, path, 16, **options)
    expected = np.load(source / "expected.npz")
    tokens = expected["tokens"]
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "model.gguf"
        convert(source, exact, 32, **options)
        try:
            engine = Engine(exact)
        except RuntimeError:
            if judge == "llama.cpp":
                raise
            return print(f"{name}: not for llama.cpp")
        logits = engine.logits(tokens)
        greedy = [int(logits[-1].argmax())]
        while len(greedy) < GREEDY:
            row = engine.logits(greedy[-1:], len(tokens) + len(greedy) - 1)
            greedy.append(int(row[-1].argmax()))
    off = np.abs(logits - expected["logits"]).max() / np.ptp(expected["logits"])
    same = "the same" if greedy == expected["greedy"].tolist() else "other"
    print(f"{name}: {off:.1e} of the spread from transformers, {same} greedy tokens")
    if judge == "llama.cpp":
        np.savez_compressed(
            path.with_suffix(".npz"), tokens=tokens, logits=logits,
            greedy=np.array(greedy, np.int32))


if __name__ == "__main__":
    source = Path(sys.argv[1])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    failed = []
    for name in sys.argv[2:] or MODELS:
        try:
            make(name)
        except Exception as error:
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}")
    sys.exit(f"failed: {failed}" if failed else 0)
