"""Rows of the table about precision: what rounding costs each engine, by the same file's logits.

llama.cpp's logits of the model before its weights were encoded are what both are compared with. As
llama.cpp and `kinglet eval` do, a text is cut into chunks and the later half of each is looked at.
"""

import statistics
from dataclasses import dataclass

import numpy as np

from engines import ENGINES
from results import Line

PEER = "llama"


@dataclass(frozen=True)
class Precision:
    """`source` is the model's unencoded form: a file, or an encoding that `make-model` makes; `text`
    a file, or without one the tokens are drawn by chance. At most `chunks` of `context` are taken."""

    model: str
    encoding: str
    source: str
    text: str = ""
    context: int = 256
    chunks: int = 8

    section = "precision"

    @property
    def name(self):
        return f"{self.model} {self.encoding} precision"

    def needs(self):
        made = [] if self.text else [(self.model, self.source), (self.model, self.encoding)]
        return [ENGINES[PEER].program], made

    def measure(self, bench):
        plain, encoded = self.files(bench)
        chunks = self.tokens(bench, plain)
        peer, ours = bench.peer(PEER), [bench.program("bench_language")]
        found = {"kinglet": [], "peer": []}
        for reference, kinglet, other in zip(
            self.logits(bench, peer, plain, chunks),
            self.logits(bench, ours, encoded, chunks),
            self.logits(bench, peer, encoded, chunks),
            strict=True,
        ):
            targets, wanted = reference[0], log_softmax(reference[1])
            for name, (_, logits) in (("kinglet", kinglet), ("peer", other)):
                found[name].append(judge(wanted, log_softmax(logits), targets))
        # Means of each chunk, of surprise and divergence.
        a, b = (np.stack(found[name]).mean(axis=2) for name in ("kinglet", "peer"))
        fine = [not_worse(ours, theirs) for ours, theirs in zip(a.T, b.T, strict=True)]
        positions = sum(chunk.shape[1] for chunk in found["peer"])
        line = Line(ENGINES[PEER].title, rounds=positions, met=all(fine))
        line.precision = {
            "perplexity": [float(np.exp(x[:, 0].mean())) for x in (a, b)],
            "divergence": [float(x[:, 1].mean()) for x in (a, b)],
            "not_worse": fine,
        }
        return [line]

    def files(self, bench):
        if not self.text:
            return bench.made(self.model, self.source), bench.made(self.model, self.encoding)
        plain = bench.models / self.source
        encoded = bench.scratch / f"{self.model}-{self.encoding}.gguf"
        bench.quantize(plain, encoded, self.encoding)
        return plain, encoded

    def tokens(self, bench, model):
        if self.text:
            tokens = np.array(bench.tokenize(model, bench.models / self.text), np.uint32)
        else:
            tokens = np.random.default_rng(1).integers(0, 20_000, self.chunks * self.context)
        count = min(self.chunks, len(tokens) // self.context)
        chunks = tokens[: count * self.context].astype(np.uint32).reshape(count, self.context)
        if self.text:
            chunks[:, 0] = tokens[0]  # Each chunk begins with the token that begins a text.
        return chunks

    def logits(self, bench, program, model, chunks):
        """Of each chunk the tokens to come, and the logits before them."""
        half = self.context // 2
        asked, answer = bench.scratch / f"{model.stem}.tokens", bench.scratch / f"{model.stem}.logits"
        with bench.start(program, model, bench.threads, self.context) as worker:
            for chunk in chunks:
                chunk[:-1].tofile(asked)
                worker.ask(f"logits {asked} {half} {answer}")
                logits = np.fromfile(answer, np.float32).reshape(len(chunk) - 1 - half, -1)
                answer.unlink()
                yield chunk[half + 1 :], logits


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def judge(wanted, found, targets):
    """At each position the surprise at the token that came, and how far what was found is from what was
    wanted (the Kullback-Leibler divergence), in nats."""
    surprise = -found[np.arange(len(targets)), targets]
    return np.stack([surprise, (np.exp(wanted) * (wanted - found)).sum(axis=1)])


def not_worse(ours, theirs):
    """Whether `ours` is not above `theirs` by more than chance: two standard errors of the mean of what
    they differ by, chunk by chunk. (Positions of one chunk share a past, so they are not independent.)"""
    apart = ours - theirs
    error = statistics.stdev(apart) / len(apart) ** 0.5
    return bool(apart.mean() <= 2 * error)
