"""Rows of the table about nets: LiteRT's and ONNX files."""

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines import ENGINES
from interleave import interleave
from results import Line
from worker import Failed

# Seconds that one turn should take, and the fewest and most runs in it.
TURN = 0.06
RUNS = (2, 20)


class OfPeers:
    """What rows of nets have in common."""

    section = "nets"

    def needs(self):
        return [ENGINES[peer].program for peer in self.peers], []


@dataclass(frozen=True)
class Net(OfPeers):
    """One run. `peers`: what each is to be beaten by, or None.

    `golden` says that the outputs recorded from LiteRT's reference kernels are to be met: "exact", or
    "close" for floats. Without one the input is random."""

    name: str
    model: str
    peers: dict
    golden: str = ""
    threads: int | None = None
    rounds: int = 40

    def measure(self, bench):
        model = bench.model(self.model)
        x, expected = example(bench, model, self.golden)
        threads = self.threads or bench.threads
        with ExitStack() as running:
            ours = running.enter_context(start(bench, None, model, threads, x))
            theirs, lines = {}, {}
            for peer in self.peers:
                try:
                    worker = start(bench, peer, model, threads, x)
                    theirs[peer] = running.enter_context(worker)
                except Failed as failed:
                    lines[peer] = Line(ENGINES[peer].title, reason=str(failed))
            workers = [ours, *theirs.values()]
            values = interleave([turn(worker) for worker in workers], bench.rounds(self.rounds))
            outputs = [output(bench, worker, x.dtype, expected) for worker in workers]
        for peer, times, other in zip(theirs, values[1:], outputs[1:], strict=True):
            title = ENGINES[peer].title
            goal = self.peers[peer]
            remark, as_expected = compare(title, outputs[0], other, expected, self.golden)
            line = Line.of(title, "ms", 1e3, values[0], times, goal, remark)
            line.goal_text = "exact" if self.golden == "exact" and goal else ""
            line.met = line.met and as_expected
            lines[peer] = line
        return [lines[peer] for peer in self.peers]


@dataclass(frozen=True)
class FirstRun(OfPeers):
    """From before the file is opened until the first output can be read, each time in a fresh process
    whose libraries are loaded, the file in the page cache."""

    name: str
    model: str
    peers: dict
    rounds: int = 40

    def measure(self, bench):
        model = bench.model(self.model)
        x, _ = example(bench, model, "exact")
        lines = []
        for peer, goal in self.peers.items():
            title = ENGINES[peer].title
            try:
                turns = [lambda name=name: first_run(bench, name, model, x) for name in (None, peer)]
                ours, theirs = interleave(turns, bench.rounds(self.rounds))
                lines.append(Line.of(title, "ms", 1e3, ours, theirs, goal))
            except Failed as failed:
                lines.append(Line(title, reason=str(failed)))
        return lines


@dataclass(frozen=True)
class PlannedMemory:
    """What Kinglet plans for activations, against the largest sum of tensors that live at once."""

    name: str = "planned memory"

    section = "memory"
    goal = 1.2

    def needs(self):
        return [], []

    def measure(self, bench):
        lines = []
        for model in sorted(bench.models.glob("*/*.tflite")):
            command = [bench.program("kinglet"), "inspect", model, "--json"]
            plan = bench.json(command)["memory"]
            planned, bound = plan["planned_bytes"], plan["lower_bound_bytes"]
            met = planned <= self.goal * bound
            lines.append(Line(model.stem, ours=planned, theirs=bound, goal=self.goal, met=met))
        return lines


def start(bench, peer, model, threads, x):
    data = bench.scratch / "input.bin"
    x.tofile(data)
    program = bench.peer(peer) if peer else [bench.program("bench_worker")]
    return bench.start(program, model, threads, data)


def first_run(bench, peer, model, x):
    with start(bench, peer, model, bench.threads, x) as worker:
        return sum(worker.first)


def turn(worker):
    """A turn of `worker`: the median of several runs, some before them not counted."""
    once = statistics.median(worker.seconds(3))
    runs = int(min(max(TURN / once, RUNS[0]), RUNS[1]))
    warm_up = min(3, runs)
    return lambda: statistics.median(worker.seconds(warm_up + runs)[warm_up:])


def example(bench, model, golden):
    """An input and, where it was recorded, the output."""
    if golden:
        recorded = np.load(bench.models / "golden" / f"{model.stem}.npz")
        return recorded["0.in0"], recorded["0.out0"]
    return np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32), None


def output(bench, worker, dtype, expected):
    path = bench.scratch / "output.bin"
    worker.ask(f"output {path}")
    return np.fromfile(path, dtype if expected is None else expected.dtype).astype(np.float64)


def compare(title, ours, theirs, expected, golden):
    """What is to be said of the outputs, and whether Kinglet's are as they should be."""
    if expected is None:
        return f"outputs {apart(ours, theirs):.2g} of {np.ptp(theirs):.3g} apart", True
    expected = expected.ravel().astype(np.float64)
    own, other = apart(ours, expected), apart(theirs, expected)
    if golden == "exact":
        kinglet = "exact" if own == 0 else f"NOT exact, {own:.3g} off"
        return f"Kinglet {kinglet}; {title} " + (f"{other:.3g} off" if other else "exact"), own == 0
    spread = float(np.ptp(expected))
    return f"Kinglet {own:.2g} off, {title} {other:.2g}, of {spread:.3g}", own <= 1e-3 * spread


def apart(a, b):
    if a.shape != b.shape:
        raise Failed(f"outputs of {a.size} and {b.size} elements")
    return float(np.abs(a - b).max())
