"""The loop around an engine that runs nets: what it is asked, and its answers, as
crates/kinglet/examples/bench_worker.rs tells them."""

import os
import sys
import time
from pathlib import Path


# Engines print what they like, which must not come between the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(*values):
    print(*values, file=ANSWERS, flush=True)


def timed(call):
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began


def serve(load, convert=lambda model: model):
    """Answers until the questions end.

    `load(model, threads)` gives an engine: `feed(bytes)` sets its first input, `run()` computes, and
    `output()` reads the first output. `convert` makes the model's file into the engine's own, before
    any clock starts.
    """
    model, threads, data = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
    model = convert(model)
    engine = None

    def first():
        engine.feed(data)
        engine.run()
        engine.output()

    began = time.perf_counter_ns()
    engine = load(model, threads)
    loaded = time.perf_counter_ns() - began
    answer(loaded, timed(first))
    for question in sys.stdin:
        question = question.strip()
        if question.startswith("output "):
            Path(question.removeprefix("output ")).write_bytes(engine.output())
            answer()
            continue
        times = []
        for _ in range(int(question)):
            engine.feed(data)
            times.append(timed(engine.run))
        answer(*times)
