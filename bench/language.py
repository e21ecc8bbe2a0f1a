"""Rows of the table about language models, in GGUF files with random weights.

Each engine holds the model in a process of its own. The file is in the page cache."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

from engines import ENGINES
from interleave import Spread, interleave
from results import Line
from worker import Failed

# A context that holds what `decode` needs.
CONTEXT = 512
# A process that does nothing else than take the time of one core.
SPIN = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


@dataclass(frozen=True)
class Language:
    """What the rows share. `peers`: how many times as fast as each Kinglet is to be, or None."""

    model: str
    encoding: str
    peers: dict = field(default_factory=lambda: {"llama": None})
    rounds: int = 5
    suffix: str = ""

    section = "language"

    @property
    def name(self):
        return f"{self.model} {self.encoding} {self.what}{self.suffix}"

    def needs(self):
        return [ENGINES[peer].program for peer in self.peers], [(self.model, self.encoding)]

    def measure(self, bench):
        lines = []
        for peer, goal in self.peers.items():
            try:
                lines.append(self.against(bench, peer, goal))
            except Failed as failed:
                lines.append(Line(ENGINES[peer].title, reason=str(failed)))
        return lines

    def start(self, bench, peer, context=CONTEXT):
        model = bench.made(self.model, self.encoding)
        program = bench.peer(peer) if peer else [bench.program("bench_language")]
        return bench.start(program, model, bench.threads, context)


@dataclass(frozen=True)
class Prompt(Language):
    """Tokens at once, to a fresh conversation, until the logits of the last are there."""

    tokens: int = 512

    @property
    def what(self):
        return f"prompt {self.tokens}"

    def against(self, bench, peer, goal):
        context = max(CONTEXT, self.tokens)
        with self.start(bench, None, context) as ours, self.start(bench, peer, context) as theirs:
            for worker in (ours, theirs):
                worker.seconds(f"prompt {min(self.tokens, CONTEXT)}")
            turns = [lambda w=w: w.seconds(f"prompt {self.tokens}")[0] for w in (ours, theirs)]
            values = interleave(turns, bench.rounds(self.rounds))
        return Line.of(ENGINES[peer].title, "tok/s", self.tokens, *values, goal)


@dataclass(frozen=True)
class Decode(Language):
    """Tokens one after the other, the likeliest each time, after 256."""

    tokens: int = 32
    # What share of the memory's speed is to be used.
    share: float | None = None
    # Whether each weight is read once for each token.
    dense: bool = True

    what = "decode"

    def against(self, bench, peer, goal):
        title = ENGINES[peer].title
        with (
            self.start(bench, None) as ours,
            self.start(bench, peer) as theirs,
            bench.bandwidth() as memory,
        ):
            turns = [lambda w=w: w.seconds(f"decode {self.tokens}")[0] for w in (ours, theirs)]
            warm_up(turns)
            turns.append(lambda: float(memory.ask("")))
            *times, bandwidth = interleave(turns, bench.rounds(self.rounds))
            chosen = [worker.ask("tokens").strip("[]").split(", ") for worker in (ours, theirs)]
            peaks = [int(worker.ask("memory")) / 2**20 for worker in (ours, theirs)]
        same = sum(a == b for a, b in zip(*chosen, strict=True))
        remark = (
            f"{same} of {self.tokens} tokens the same; "
            f"peak memory {peaks[0]:.0f} MiB, {title} {peaks[1]:.0f}"
        )
        line = Line.of(title, "tok/s", self.tokens, *times, goal, remark)
        if self.dense:
            size = bench.weights(bench.made(self.model, self.encoding))
            line.traffic = {
                "bytes": size,
                "bandwidth": Spread.of(bandwidth).middle,
                "share": share_of(size, self.tokens, times[0], bandwidth),
                "peer_share": share_of(size, self.tokens, times[1], bandwidth),
                "goal": self.share,
            }
        return line


@dataclass(frozen=True)
class FirstToken(Language):
    """From before the file is opened until the logits after a prompt of 16 tokens are there, each time
    in a fresh process whose libraries are loaded."""

    what = "load to first token"

    def against(self, bench, peer, goal):
        def first(name):
            with self.start(bench, name) as worker:
                return worker.first[0]

        turns = [lambda name=name: first(name) for name in (None, peer)]
        warm_up(turns)
        values = interleave(turns, bench.rounds(self.rounds))
        return Line.of(ENGINES[peer].title, "ms", 1e3, *values, goal)


@dataclass(frozen=True)
class Beside(Language):
    """The same work alone and beside a process that spins on one core: what share of the speed is left.
    Where two threads share two cores fairly with it, three quarters are."""

    question: str = "decode 32"

    section = "beside"

    @property
    def what(self):
        return f"{self.question}, one core taken"

    def against(self, bench, peer, goal):
        title = ENGINES[peer].title
        with self.start(bench, None) as ours, self.start(bench, peer) as theirs:
            turns = [lambda w=w: w.seconds(self.question)[0] for w in (ours, theirs)]
            warm_up(turns)
            alone, beside = [[], []], [[], []]
            for _ in range(bench.rounds(self.rounds)):
                gather(alone, interleave(turns, 1))
                with Spinning():
                    gather(beside, interleave(turns, 1))
        left = [
            Spread.of([a / b for a, b in zip(*times, strict=True)])
            for times in zip(alone, beside, strict=True)
        ]
        line = Line.of(title, "left", 1, *beside, None)
        line.goal, line.met = goal, left[0].middle >= goal
        line.shares = [vars(share) for share in left]
        return line


class Spinning:
    """A process that takes what it gets of the last core."""

    def __enter__(self):
        core = max(os.sched_getaffinity(0))
        self.process = subprocess.Popen([sys.executable, "-c", SPIN % core])

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()


def warm_up(turns):
    for turn in turns:
        turn()


def gather(lists, values):
    for values_so_far, more in zip(lists, values, strict=True):
        values_so_far.extend(more)


def share_of(size, tokens, times, bandwidth):
    """Bytes of weights read a second, as a share of what the memory gives, round by round."""
    return Spread.of([size * tokens / t / b for t, b in zip(times, bandwidth, strict=True)]).middle
