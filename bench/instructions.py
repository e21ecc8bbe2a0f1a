"""Rows of the table about aarch64: instructions that QEMU counts, on one thread, for each token.

No Arm machine is needed, and counts are the same every time. Both programs answer the same questions,
and the counts of two runs are subtracted, so that loading and warming up are not in what is left."""

import os
import subprocess
from dataclasses import dataclass

from engines import ENGINES
from results import Line
from worker import Failed

PEER = "llama"
CONTEXT = 512
# Processors of QEMU's: without dot products, with them, and with everything.
CPUS = ["cortex-a53", "cortex-a76", "max"]


@dataclass(frozen=True)
class Instructions:
    """Two lists of questions, of which the second has `tokens` more."""

    model: str
    encoding: str
    what: str
    cpu: str
    before: tuple
    after: tuple
    tokens: int

    section = "instructions"

    @property
    def name(self):
        return f"{self.model} {self.encoding} {self.what}, {self.cpu}"

    def needs(self):
        return ["aarch64"], [(self.model, self.encoding)]

    def measure(self, bench):
        folder = bench.program("aarch64")
        ours, theirs = (
            self.for_each_token(bench, folder / program)
            for program in ("kinglet", f"{PEER}-{self.cpu}")
        )
        return [compared(ours, theirs)]

    def for_each_token(self, bench, program):
        model = bench.made(self.model, self.encoding)
        counts = []
        for questions in (self.before, self.after):
            # What each function took stays there for whoever wants to know.
            run = f"{program.name} {model.stem} {questions[0]} x{len(questions)} {self.cpu}.txt"
            out = bench.scratch / run
            emulate(self.cpu, program.parent / "count.so", out, [program, model, 1, CONTEXT], questions)
            counts.append(sum(counted(out.read_text()).values()))
        return (counts[1] - counts[0]) / self.tokens


def prompt(model, encoding, cpu, tokens=64):
    """Once more, as what a first prompt of a length prepares is there then."""
    once = (f"prompt {tokens}",)
    return Instructions(model, encoding, f"prompt {tokens}", cpu, once, once * 2, tokens)


def decode(model, encoding, cpu, tokens=8):
    before, after = (("decode 4",), (f"decode {4 + tokens}",))
    return Instructions(model, encoding, "decode", cpu, before, after, tokens)


def emulate(cpu, plugin, out, command, questions):
    """Runs a program on a processor of QEMU's, with the plugin writing to `out`."""
    qemu = ["qemu-aarch64", "-cpu", cpu, "-L", "/usr/aarch64-linux-gnu"]
    # A comma would end the plugin's argument, so the folder's name stays out of it.
    words = [*qemu, "-plugin", f"{plugin},out={out.name}", *map(str, command)]
    environment = {**os.environ, "KINGLET_ISA": ""}
    done = subprocess.run(
        words,
        input="".join(f"{question}\n" for question in questions),
        capture_output=True,
        text=True,
        cwd=out.parent,
        env=environment,
    )
    # Each question has its answer, and there is one unasked.
    answers = len(done.stdout.splitlines())
    if done.returncode != 0 or answers != len(questions) + 1:
        said = done.stderr.strip().splitlines() or [f"{answers} answers to {len(questions)}"]
        raise Failed(f"{command[0].name} on {cpu}: {said[-1]}")


def counted(text):
    """Instructions by function, from what count.c wrote."""
    counts = {}
    for line in text.splitlines():
        count, _, symbol = line.partition(" ")
        counts[symbol] = counts.get(symbol, 0) + int(count)
    if not counts:
        raise Failed("the plugin counted nothing")
    return counts


def compared(ours, theirs):
    """The line of both engines' instructions for a token; fewer are better."""
    if min(ours, theirs) <= 0:
        raise Failed(f"more tokens took no more instructions: {ours:.0f}, {theirs:.0f}")
    ratio = theirs / ours
    line = Line(ENGINES[PEER].title, unit="M", ours=ours / 1e6, theirs=theirs / 1e6, speed=ratio)
    line.low = line.high = ratio
    line.rounds, line.goal, line.met = 1, 1.0, ratio >= 1
    return line
