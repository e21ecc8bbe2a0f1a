"""Measures Kinglet's language models against llama.cpp, interleaved, in one run.

`cargo xtask bench language` makes the models, builds the worker, installs llama.cpp (built on this
machine) and calls this.

Both engines hold the model at once, each in a process of its own. Each round asks one and then the
other for the same, in an order that alternates, and gives one ratio of times; the tables show the
medians of times and of ratios. "First token" starts fresh processes: from before the file is opened
until the logits after a prompt of 16 tokens are there, the file in the page cache. "Peak memory" is
the most resident memory of the process so far, mapped weights included, without what Python had
taken before.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
PROMPT = 256
DECODE = 32


class Worker:
    def __init__(self, command, model, threads):
        self.process = subprocess.Popen(
            [*map(str, command), str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = int(self.answer()) * 1e-9

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: a worker ended with status {self.process.wait()}")
        return line.strip()

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer()

    def seconds(self, question):
        return int(self.ask(question)) * 1e-9

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def paired(ours, theirs, rounds):
    pairs = []
    for n in range(rounds):
        calls = [ours, theirs] if n % 2 == 0 else [theirs, ours]
        values = [call() for call in calls]
        pairs.append(tuple(values if n % 2 == 0 else values[::-1]))
    mid = statistics.median
    return mid(a for a, _ in pairs), mid(b for _, b in pairs), mid(a / b for a, b in pairs)


def first_token(command, model, threads):
    worker = Worker(command, model, threads)
    worker.close()
    return worker.first


def measure(model, commands, options):
    ours, theirs = (Worker(command, model, options.threads) for command in commands)
    row = {"model": model.stem}
    for what, n in [("prompt", PROMPT), ("decode", DECODE)]:
        question = f"{what} {n}"
        for worker in (ours, theirs):  # warm up
            worker.seconds(question)
        a, b, ratio = paired(
            lambda: ours.seconds(question), lambda: theirs.seconds(question), options.rounds
        )
        row[what] = (n / a, n / b, 1 / ratio)
    row["same"] = sum(
        x == y for x, y in zip(ours.ask("tokens").split(","), theirs.ask("tokens").split(","))
    )
    a, b = int(ours.ask("memory")), int(theirs.ask("memory"))
    row["memory"] = (a / 2**20, b / 2**20, a / b)
    ours.close()
    theirs.close()
    row["first"] = paired(
        lambda: first_token(commands[0], model, options.threads),
        lambda: first_token(commands[1], model, options.threads),
        options.rounds,
    )
    print(row, flush=True)
    return row


def report(rows, options):
    from importlib.metadata import version

    lines = [
        "# Language models against llama.cpp",
        "",
        "Written by `cargo xtask bench language`; bench/language.py says how it measures.",
        "",
        f"llama-cpp-python {version('llama-cpp-python')}, built on this machine; {options.threads} "
        f"threads, {options.rounds} rounds, prompt of {PROMPT}, decode of {DECODE} after {PROMPT}. "
        "Ratios of speed: above 1, Kinglet is faster; of memory and first token: below 1, Kinglet "
        "takes less.",
        "",
        "| model | prompt tok/s | llama.cpp | ratio | decode tok/s | llama.cpp | ratio "
        "| first token ms | llama.cpp | ratio | peak MiB | llama.cpp | ratio | same tokens |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        prompt, decode, first, memory = (row[k] for k in ("prompt", "decode", "first", "memory"))
        lines.append(
            f"| {row['model']} | {prompt[0]:.1f} | {prompt[1]:.1f} | {prompt[2]:.2f} "
            f"| {decode[0]:.1f} | {decode[1]:.1f} | {decode[2]:.2f} "
            f"| {first[0] * 1e3:.0f} | {first[1] * 1e3:.0f} | {first[2]:.2f} "
            f"| {memory[0]:.0f} | {memory[1]:.0f} | {memory[2]:.2f} | {row['same']}/{DECODE} |"
        )
    text = "\n".join(lines) + "\n"
    (BENCH / "LANGUAGE.md").write_text(text)
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--worker", required=True, help="the built bench_language example")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    commands = [[options.worker], [sys.executable, BENCH / "llama_worker.py"]]
    report([measure(model, commands, options) for model in options.models], options)


main()
