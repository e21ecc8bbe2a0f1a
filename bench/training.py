"""Rows of the table about training: whole steps of models of chance."""

from dataclasses import dataclass
from pathlib import Path

from engines import ENGINES
from interleave import interleave
from results import Line
from worker import Failed

CONFIGS = Path(__file__).resolve().parent / "training"


@dataclass(frozen=True)
class Training:
    """A step that trains all weights by AdamW: `lines` texts of `context` tokens. `model` names a
    config.json in training/. `peers`: how many times as fast as each Kinglet is to be."""

    name: str
    model: str
    peers: dict
    lines: int = 8
    context: int = 256
    rounds: int = 8

    section = "training"

    def needs(self):
        return [ENGINES[peer].program for peer in self.peers], []

    def measure(self, bench):
        return [self.against(bench, peer, goal) for peer, goal in self.peers.items()]

    def start(self, bench, command):
        model, size = CONFIGS / f"{self.model}.json", f"{self.lines}x{self.context}"
        return bench.start(command, model, bench.threads, size)

    def against(self, bench, peer, goal):
        title = ENGINES[peer].title
        try:
            with (
                self.start(bench, [bench.program("bench_training")]) as ours,
                self.start(bench, bench.peer(peer)) as theirs,
            ):
                turns = [lambda w=w: w.seconds("1")[0] for w in (ours, theirs)]
                values = interleave(turns, bench.rounds(self.rounds))
                peaks = [int(worker.ask("memory")) / 2**20 for worker in (ours, theirs)]
        except Failed as failed:
            return Line(title, reason=str(failed))
        remark = f"peak memory {peaks[0]:.0f} MiB, {title} {peaks[1]:.0f}"
        return Line.of(title, "tok/s", self.lines * self.context, *values, goal, remark)
