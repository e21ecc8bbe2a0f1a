"""Small vocabularies and what other tokenisers make of texts with them, for `tests/vocabularies.rs`.

    python make.py STORIES.txt

It needs the `sentencepiece` and `tokenizers` packages, trains one vocabulary of each kind on the text, and
writes `sentencepiece.json.gz` and `huggingface.json.gz` beside itself.
"""

import gzip
import io
import json
import pathlib
import random
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
STORIES = pathlib.Path(sys.argv[1])

PARTS = [
    " ", "  ", "   ", "\n", "\t", "a", "the", "The", "little", "girl's", "don't", "!", "...", "1", "23", "é", "e\u0301",
    "Ａ", "ﬁ", "①", "漢字", "ひら", "한글", "🚀", "👩‍🚀", "\u00a0", "\u3000", "ß", "İ", "x" * 40, "once upon a time",
    "<s>", "</s>", "<tool>", "▁",
]


def texts():
    rng = random.Random(7)
    made = ["".join(rng.choice(PARTS) for _ in range(rng.randrange(14))) for _ in range(150)]
    lines = [line for line in STORIES.read_text().splitlines() if line][:30]
    return ["", " ", "a", "Hello world", " Hello", *lines, *made]


def train_sentencepiece(kind, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        input=str(STORIES), model_writer=model, model_type=kind, vocab_size=600, num_threads=1,
        minloglevel=2, user_defined_symbols=["<tool>"], **options,
    )
    pieces = proto.ModelProto.FromString(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    normalizer = pieces.normalizer_spec
    return {
        "tokens": [piece.piece for piece in pieces.pieces],
        "scores": [piece.score for piece in pieces.pieces],
        "kinds": [piece.type for piece in pieces.pieces],
        "charsmap": normalizer.precompiled_charsmap.hex(),
        "add_space_prefix": normalizer.add_dummy_prefix,
        "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
        "unk": processor.unk_id(),
        "cases": [{"text": text, "ids": processor.encode(text)} for text in texts() if "<tool>" not in text],
    }


def sentencepieces():
    rules = [("ﬁ", "fi"), ("Ａ", "A"), ("①", "1"), ("\u3000", " "), ("\u00a0", " "), ("e\u0301", "é")]
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        for source, target in rules:
            points = [" ".join(f"{ord(c):X}" for c in side) for side in (source, target)]
            file.write("\t".join(points) + "\n")
        file.flush()
        return {
            "bpe": train_sentencepiece(
                "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
            ),
            "unigram": train_sentencepiece("unigram", normalization_rule_tsv=file.name),
            "unigram, all spaces": train_sentencepiece(
                "unigram", normalization_rule_name="identity", remove_extra_whitespaces=False
            ),
        }


def cases(tokenizer):
    return [
        {
            "text": text,
            "ids": tokenizer.encode(text).ids,
            "plain": tokenizer.encode(text, add_special_tokens=False).ids,
            "decoded": tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids),
        }
        for text in texts()
    ]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    gpt4o = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(gpt4o), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(STORIES)], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def llama():
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    # Words end where the next starts, as SentencePiece has it.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train([str(STORIES)], trainer)
    tokenizer.pre_tokenizer = None
    # Bytes are no special tokens in real files.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(document))


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train([str(STORIES)], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train([str(STORIES)], trainer)
    return tokenizer


def write(name, document):
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    (HERE / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main():
    write("sentencepiece.json.gz", sentencepieces())
    made = {"byte level": byte_level(), "llama": llama(), "word piece": word_piece(), "unigram": unigram()}
    write(
        "huggingface.json.gz",
        {name: {"file": json.loads(made[name].to_str()), "cases": cases(made[name])} for name in made},
    )


main()
