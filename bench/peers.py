"""Measures Kinglet against LiteRT and ONNX Runtime, interleaved, in one run.

`cargo xtask bench peers` builds the worker, installs the engines and calls this.

Machines are noisy, so each round runs a burst of one engine and then a burst of the other, the
order alternating from round to round, and gives one ratio of medians; the table shows the median
ratio and the 10th and 90th percentile. A short pause after each burst lets the threads that an
engine keeps spinning go to sleep before the other's turn.

"Load and first run" starts a fresh process for each sample. Its clock starts when the process is
up and the library loaded, before the model file is opened, and stops when the first output can be
read, so neither Python's start nor imports count. The file is in the page cache for both.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import mobilenet_v2

BENCH = Path(__file__).resolve().parent
PAUSE = 0.02
WARM_UP = 3
INT8 = "vision/tf2_mobilenet_v2_1.0_224_ptq.tflite"


class Kinglet:
    """The worker process: one line in, one line out (crates/kinglet/examples/bench_worker.rs)."""

    def __init__(self, worker, model, threads, x, scratch):
        self.scratch = Path(scratch)
        x.tofile(self.scratch / "input.bin")
        command = [worker, model, "--threads", threads, "--input", self.scratch / "input.bin"]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.load_and_first = sum(self.answer())  # opening to planned, and the first run

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: the Kinglet worker ended with status {self.process.wait()}")
        return [int(word) * 1e-9 for word in line.split()]

    def ask(self, question):
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        return self.answer()

    def burst(self, runs):
        return self.ask(runs)

    def output(self):
        path = self.scratch / "output.bin"
        self.ask(f"output {path}")
        return path.read_bytes()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class LiteRt:
    def __init__(self, model, threads, x):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(model), num_threads=threads)
        self.interpreter.allocate_tensors()
        details = self.interpreter.get_input_details()[0]
        self.interpreter.set_tensor(details["index"], x)

    def burst(self, runs):
        return timed(self.interpreter.invoke, runs)

    def output(self):
        details = self.interpreter.get_output_details()[0]
        return self.interpreter.get_tensor(details["index"]).tobytes()


class OnnxRuntime:
    def __init__(self, model, threads, x):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self.feed = {self.session.get_inputs()[0].name: x}

    def run(self):
        return self.session.run(None, self.feed)[0]

    def burst(self, runs):
        return timed(self.run, runs)

    def output(self):
        return self.run().tobytes()


def timed(run, runs):
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times


@dataclass
class Row:
    """One comparison: the two engines' medians in seconds and the ratio's spread."""

    what: str
    peer: str
    goal: float
    kinglet: float
    other: float
    ratio: float
    low: float
    high: float
    rounds: int
    outputs: str

    @staticmethod
    def of(what, peer, goal, pairs, outputs):
        ratios = [ours / theirs for ours, theirs in pairs]
        low, high = np.percentile(ratios, [10, 90])
        return Row(
            what,
            peer,
            goal,
            statistics.median(ours for ours, _ in pairs),
            statistics.median(theirs for _, theirs in pairs),
            statistics.median(ratios),
            float(low),
            float(high),
            len(pairs),
            outputs,
        )


def interleave(ours, theirs, rounds):
    """Calls both, `rounds` times, in alternating order; pairs of (ours, theirs)."""
    pairs = []
    for n in range(rounds):
        calls = [ours, theirs] if n % 2 == 0 else [theirs, ours]
        values = []
        for call in calls:
            values.append(call())
            time.sleep(PAUSE)
        pairs.append(tuple(values if n % 2 == 0 else values[::-1]))
    return pairs


def burst_median(engine, runs):
    return statistics.median(engine.burst(WARM_UP + runs)[WARM_UP:])


def compare(what, goal, kinglet, peer, dtype, options):
    pairs = interleave(
        lambda: burst_median(kinglet, options.runs),
        lambda: burst_median(peer, options.runs),
        options.rounds,
    )
    ours = np.frombuffer(kinglet.output(), dtype).astype(np.float64)
    theirs = np.frombuffer(peer.output(), dtype).astype(np.float64)
    if ours.shape != theirs.shape:
        sys.exit(f"bench: {what}: outputs of {ours.size} and {theirs.size} elements")
    furthest = np.abs(ours - theirs).max()
    outputs = f"{furthest:.3g} of {np.ptp(theirs):.3g} apart"
    kinglet.close()
    return Row.of(what, type(peer).__name__, goal, pairs, outputs)


def compare_loading(what, goal, model, x, options):
    def ours():
        kinglet = Kinglet(options.worker, model, options.threads, x, options.scratch)
        kinglet.close()
        return kinglet.load_and_first

    def theirs():
        command = [sys.executable, str(BENCH / "litert_first_run.py"), model, options.threads]
        command = [str(word) for word in command]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    pairs = interleave(ours, theirs, options.rounds)
    return Row.of(what, "LiteRt", goal, pairs, "")


def memory(options):
    """(model, planned bytes, lower bound in bytes) of every model in the folder."""
    rows = []
    for model in sorted(Path(options.models).glob("*/*.tflite")):
        command = [options.kinglet, "inspect", model, "--json"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"bench: {' '.join(map(str, command))}: {done.stderr.strip()}")
        plan = json.loads(done.stdout)["memory"]
        rows.append((model.stem, plan["planned_bytes"], plan["lower_bound_bytes"]))
    return rows


def verdict(ratio, goal):
    return "yes" if ratio <= goal else "no"


def report(rows, memory_rows, options):
    import importlib.metadata

    versions = {p: importlib.metadata.version(p) for p in ("ai-edge-litert", "onnxruntime")}
    lines = [
        "# Measured against other engines",
        "",
        "Written by `cargo xtask bench peers`; bench/peers.py says how it measures.",
        "",
        f"Machine: {cpu_name()}, {os.cpu_count()} CPUs; {options.threads} threads for every engine.",
        f"LiteRT {versions['ai-edge-litert']} (its default, XNNPACK), "
        f"ONNX Runtime {versions['onnxruntime']}.",
        "",
        "| | peer | Kinglet ms | peer ms | ratio (10 % to 90 %) | goal | met | rounds | largest difference of outputs |",
        "|---|---|--:|--:|--:|--:|---|--:|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.what} | {row.peer} | {row.kinglet * 1e3:.2f} | {row.other * 1e3:.2f} "
            f"| {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f}) | ≤ {row.goal:g} "
            f"| {verdict(row.ratio, row.goal)} | {row.rounds} | {row.outputs} |"
        )
    lines += [
        "",
        "Planned memory for activations against the lower bound, the largest sum of live tensors:",
        "",
        "| model | planned | lower bound | ratio | goal | met |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, planned, bound in memory_rows:
        ratio = planned / bound
        lines.append(
            f"| {name} | {planned} | {bound} | {ratio:.3f} | ≤ 1.2 | {verdict(ratio, 1.2)} |"
        )
    text = "\n".join(lines) + "\n"
    (BENCH / "RESULTS.md").write_text(text)
    document = {
        "machine": cpu_name(),
        "threads": options.threads,
        "versions": versions,
        "rows": [vars(row) for row in rows],
        "memory": [
            {"model": name, "planned_bytes": planned, "lower_bound_bytes": bound}
            for name, planned, bound in memory_rows
        ],
    }
    (Path(options.scratch) / "peers.json").write_text(json.dumps(document, indent=1))
    print(text)


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="the built bench_worker example")
    parser.add_argument("--kinglet", required=True, help="the built program")
    parser.add_argument("--models", required=True, help="the folder of test models")
    parser.add_argument("--scratch", required=True, help="folder for files made on the way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--runs", type=int, default=20, help="timed runs in a burst")
    options = parser.parse_args()

    random = np.random.default_rng(1)
    rows = []

    int8 = Path(options.models) / INT8
    x = random.integers(0, 256, (1, 224, 224, 3), np.uint8)
    kinglet = Kinglet(options.worker, int8, options.threads, x, options.scratch)
    peer = LiteRt(int8, options.threads, x)
    rows.append(compare("MobileNetV2 int8", 1.3, kinglet, peer, np.uint8, options))

    f32 = Path(options.scratch) / "mobilenet_v2_f32.onnx"
    onnx.save(mobilenet_v2.build(), f32)
    x = random.normal(size=(1, 3, 224, 224)).astype(np.float32)
    kinglet = Kinglet(options.worker, f32, options.threads, x, options.scratch)
    peer = OnnxRuntime(f32, options.threads, x)
    rows.append(compare("MobileNetV2 f32", 1.3, kinglet, peer, np.float32, options))

    x = np.zeros((1, 224, 224, 3), np.uint8)
    what = "MobileNetV2 int8, load and first run"
    rows.append(compare_loading(what, 1.0, int8, x, options))

    report(rows, memory(options), options)


if __name__ == "__main__":
    main()
