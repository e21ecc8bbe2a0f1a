"""Rows of the table about training: whole steps of models of chance."""

from dataclasses import dataclass, field
from pathlib import Path

from engines import ENGINES
from interleave import interleave
from results import Line
from worker import Failed

CONFIGS = Path(__file__).resolve().parent / "training"


@dataclass(frozen=True)
class Training:
    """A step that trains by AdamW: a peer all weights, Kinglet those that `choices` is of, as `kinglet
    tune --train` has them. `peers`: how many times as fast as each Kinglet is to be.

    Each side holds a model of chance in a process of its own."""

    name: str
    peers: dict
    choices: str = field(default="*", kw_only=True)
    peer_choices: str = field(default="*", kw_only=True)

    section = "training"
    rounds = 8

    def needs(self):
        return [ENGINES[peer].program for peer in self.peers], []

    def measure(self, bench):
        return [self.against(bench, peer, goal) for peer, goal in self.peers.items()]

    def against(self, bench, peer, goal):
        title = ENGINES[peer].title
        mine, theirs = self.models(bench)
        program = [bench.program("bench_training")]
        try:
            with (
                bench.start(program, mine, bench.threads, self.what, self.choices) as ours,
                bench.start(
                    bench.peer(peer), theirs, bench.threads, self.what, self.peer_choices
                ) as theirs,
            ):
                turns = [lambda w=w: w.seconds("1")[0] for w in (ours, theirs)]
                values = interleave(turns, bench.rounds(self.rounds))
                peaks = [int(worker.ask("memory")) / 2**20 for worker in (ours, theirs)]
        except Failed as failed:
            return Line(title, reason=str(failed))
        remark = f"peak memory {peaks[0]:.0f} MiB, {title} {peaks[1]:.0f}"
        return Line.of(title, f"{self.unit}/s", self.each, *values, goal, remark)


@dataclass(frozen=True)
class LanguageTraining(Training):
    """`lines` texts of `context` tokens; `model` names a config.json in training/."""

    model: str
    lines: int = 8
    context: int = 256

    unit = "tok"

    @property
    def each(self):
        return self.lines * self.context

    @property
    def what(self):
        return f"{self.lines}x{self.context}"

    def models(self, bench):
        return [CONFIGS / f"{self.model}.json"] * 2


@dataclass(frozen=True)
class LoraTraining(LanguageTraining):
    """Low-rank products beside frozen weights: Kinglet's in `encoding`, the peer's in bf16."""

    encoding: str = "q4_0"
    rank: int = 8

    rounds = 3

    def models(self, bench):
        return bench.made(self.model, self.encoding), CONFIGS / f"{self.model}.json"


@dataclass(frozen=True)
class NetTraining(Training):
    """A batch of images, by a MobileNetV2 with normalisation by the batch."""

    width: float
    size: int
    batch: int

    unit = "images"
    what = "all"
    rounds = 20

    @property
    def each(self):
        return self.batch

    def models(self, bench):
        import mobilenet_v2
        import onnx

        name = f"mobilenet_v2-{self.width}-{self.size}-{self.batch}"
        made = bench.scratch / f"{name}.onnx"
        sizes = {"width": self.width, "size": self.size, "batch": self.batch}
        onnx.save(mobilenet_v2.build(**sizes, trains=True), made)
        return made, name
