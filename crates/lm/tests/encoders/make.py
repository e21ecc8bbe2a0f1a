"""Writes tiny random encoders of the BERT family as Hugging Face folders and as GGUF files, with what
transformers and llama.cpp make of some texts.

    python make.py LLAMA_CPP     (needs what ../gguf/make.py does)

NAME: how rows become one embedding. NAME.npz has the texts, their tokens (as many of each row as there
are before the first -1), and the embeddings, of length 1.
"""

import importlib.util
import json
import shutil
import string
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
TEXTS = ["a", "A bird sings.", "birds sing, and the cat listens!", "no such word as xylophone",
         "the the the the the the the the the the the the the the the the"]
WORDS = ("bird sing the and cat listen no such word as").split()
ENDS = ["##s", "##ing", "##en"]


def beside(name):
    """The script that makes the models of folder `name`."""
    spec = importlib.util.spec_from_file_location(name, HERE.parent / name / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vocabulary():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list(string.ascii_lowercase + ".,!")
    return special + letters + [f"##{c}" for c in string.ascii_lowercase] + ENDS + WORDS


@torch.no_grad()
def write(folder, pooling):
    """Writes the encoder to `folder`; the texts' tokens and embeddings."""
    words = vocabulary()
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=32, pad_token_id=0)
    torch.manual_seed(0)
    model = transformers.BertModel(config, add_pooling_layer=False).float().eval()
    beside("hf").randomise(model, 1 + len(pooling))
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder)
    model.float()
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    told = {f"pooling_mode_{p}": p == pooling for p in ("cls_token", "mean_tokens", "max_tokens")}
    write_json(folder / "1_Pooling/config.json", dict(word_embedding_dimension=32) | told)
    write_json(folder / "modules.json", [
        dict(idx=0, name="0", path="", type="sentence_transformers.models.Transformer"),
        dict(idx=1, name="1", path="1_Pooling", type="sentence_transformers.models.Pooling")])
    tokens, embeddings = [], []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        rows = model(torch.tensor(ids)[None]).last_hidden_state[0]
        row = rows[0] if pooling == "cls_token" else rows.mean(0)
        tokens.append(ids)
        embeddings.append((row / row.norm()).numpy())
    return tokens, np.array(embeddings)


def write_json(path, told):
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def convert(folder, path, bits):
    """Writes the encoder in `folder` as GGUF."""
    import gguf
    from conversion.bert import BertModel
    kinds = {16: gguf.LlamaFileType.MOSTLY_F16, 32: gguf.LlamaFileType.ALL_F32}

    class Bert(BertModel):
        model_arch = BertModel.model_arch

        def get_vocab_base_pre(self, tokenizer):
            return "bert-bge"  # It knows vocabularies by their hashes.

    with tempfile.TemporaryDirectory() as copy, torch.inference_mode():
        copy = Path(shutil.copytree(folder, Path(copy) / folder.name))
        tensors = load_file(copy / "model.safetensors")
        save_file({n: t.float() for n, t in tensors.items()}, copy / "model.safetensors")
        Bert(copy, kinds[bits], path, model_name=folder.name).write()


def make(name, pooling):
    tokens, wanted = write(HERE / name, pooling)
    convert(HERE / name, HERE / f"{name}.gguf", 16)
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "model.gguf"
        convert(HERE / name, exact, 32)
        engine = beside("gguf").Engine(exact, embeddings=True)
        found = np.array([engine.embedding(ids) for ids in tokens])
        found /= np.linalg.norm(found, axis=-1, keepdims=True)
    print(f"{name}: llama.cpp {np.abs(found - wanted).max():.1e} from transformers")
    padded = np.full((len(tokens), max(map(len, tokens))), -1, np.int32)
    for row, ids in zip(padded, tokens):
        row[:len(ids)] = ids
    texts = np.frombuffer("\n".join(TEXTS).encode(), np.uint8)
    np.savez_compressed(
        HERE / f"{name}.npz", texts=texts, tokens=padded, transformers=wanted, llama_cpp=found)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    make("first", "cls_token")
    make("mean", "mean_tokens")
