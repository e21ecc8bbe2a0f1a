"""Measures Kinglet against other engines, each row of rows.py in turn, and writes RESULTS.md.

`cargo xtask bench peers` asks this what the chosen rows need (--needs), installs and builds that, and
calls this with where it is. Rows that are not chosen keep what was measured of them before.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

from engines import ENGINES
from others import Others
from report import PATH as REPORT
from report import report
from results import Line, Results
from rows import ROWS
from worker import Failed, Worker

# Sections whose figures are the same however busy the machine is.
COUNTED = ("instructions", "memory")


class Bench:
    """What rows need to measure: programs, files and settings."""

    def __init__(self, options):
        self.threads = options.threads
        self.models = options.models
        self.made_models = options.made
        self.scratch = options.scratch
        self.only_rounds = options.rounds
        self.programs = dict(pair.split("=", 1) for pair in options.program)
        self.missing = dict(pair.split("=", 1) for pair in options.missing)

    def rounds(self, usual):
        return self.only_rounds or usual

    def program(self, name):
        """The path of a program of Kinglet's, or of what an engine needs."""
        if name in self.missing:
            raise Failed(f"not installed: {self.missing[name]}")
        return Path(self.programs[name])

    def peer(self, name):
        """The command that starts an engine's worker."""
        engine = ENGINES[name]
        return [self.program(engine.program), *engine.arguments(name)]

    def start(self, command, model, threads, *what):
        return Worker([*command, model, threads, *what], threads)

    def bandwidth(self):
        """A worker that answers each line with the bytes that `threads` threads read in a second."""
        return Worker([self.program("read_bandwidth"), self.threads], self.threads)

    def model(self, path):
        """A model of the test models, or one made here."""
        if not path.startswith("made/"):
            return self.models / path
        made = self.scratch / Path(path).name
        if not made.exists():
            import mobilenet_v2
            import onnx

            onnx.save(mobilenet_v2.build(), made)
        return made

    def made(self, name, encoding):
        """A language model that `make-model` made."""
        return self.made_models / f"{name}-{encoding}.gguf"

    def quantize(self, source, made, encoding):
        script = Path(__file__).parent / "engines" / "llama_quantize.py"
        run([self.program("llama"), script, source, made, encoding])

    def tokenize(self, model, text):
        command = [self.program("kinglet"), "tokenize", model, "--file", text, "--json"]
        return self.json(command)["tokens"]

    def weights(self, model):
        """Bytes of a model's weights."""
        found = self.json([self.program("kinglet"), "inspect", model, "--json"])
        return sum(line["bytes"] for line in found["weights"])

    def json(self, command):
        return json.loads(run(command))


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed((done.stderr.strip().splitlines() or ["it says not why"])[-1])
    return done.stdout


def chosen(pattern):
    rows = [row for row in ROWS if re.search(pattern, f"{row.section}: {row.name}", re.IGNORECASE)]
    if not rows:
        names = "\n".join(f"  {row.section}: {row.name}" for row in ROWS)
        sys.exit(f"bench: no row matches {pattern!r}; there are\n{names}")
    return rows


def print_needs(rows):
    """A line for each program of other engines, and for each language model."""
    needs = [row.needs() for row in rows]
    for program in dict.fromkeys(program for programs, _ in needs for program in programs):
        print("program", program)
    for model, encoding in dict.fromkeys(model for _, models in needs for model in models):
        print("model", model, encoding)


def measure(row, bench):
    try:
        return row.measure(bench)
    except Failed as failed:
        return [Line("–", reason=str(failed))]
    except Exception as error:  # A mistake in one row is no reason to lose the others.
        traceback.print_exc()
        return [Line("–", reason=f"{type(error).__name__}: {error}")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression that finds the rows")
    parser.add_argument("--needs", action="store_true", help="say what the rows need, and stop")
    parser.add_argument("--program", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--missing", action="append", default=[], metavar="NAME=REASON")
    parser.add_argument("--models", type=Path, help="the folder of test models")
    parser.add_argument("--made", type=Path, help="the folder of models that make-model made")
    parser.add_argument("--scratch", type=Path, help="folder for files made on the way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="instead of each row's own number")
    options = parser.parse_args()

    rows = chosen(options.only)
    if options.needs:
        return print_needs(rows)
    bench = Bench(options)
    results = Results(options.threads)
    for row in rows:
        print(f"bench: {row.name}", flush=True)
        others, began = None if row.section in COUNTED else Others(), time.monotonic()
        lines = measure(row, bench)
        share = others and others.share()
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
        for line in lines:
            print(f"  {line}", flush=True)
        # After each row, so that an interruption loses only one.
        results.put(row.name, lines, share)
        REPORT.write_text(report(ROWS, results, ENGINES.values()))


if __name__ == "__main__":
    main()
