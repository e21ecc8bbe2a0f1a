"""llama.cpp; crates/lm/examples/bench_language.rs tells the questions and answers."""

import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np

PREFIX = 256


class Engine:
    def __init__(self, path, threads, context):
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(silent, None)
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            sys.exit(f"llama.cpp can't load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context
        parameters.n_batch = context
        parameters.n_ubatch = min(context, 512)
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.held = []

    def prompt(self, n):
        return [(5 + i * 7919 % 20_000) % self.vocabulary for i in range(n)]

    def rewrite(self, tokens):
        """Makes `tokens` the conversation and computes those that are not held, the last anew."""
        same = 0
        while same < min(len(self.held), len(tokens) - 1) and self.held[same] == tokens[same]:
            same += 1
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, same, -1)
        self.held = tokens[:same]
        self.extend(tokens[same:])

    def extend(self, tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        self.decode(llama_cpp.llama_batch_get_one(array, len(tokens)))
        self.held = self.held + tokens

    def decode(self, batch):
        if llama_cpp.llama_decode(self.context, batch):
            sys.exit("llama.cpp failed to decode")

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.held = []

    def best(self):
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocabulary,))))

    def logits(self, tokens, start):
        """The logits after each token from the place `start` on, from a fresh conversation."""
        self.clear()
        self.extend(tokens[:start])
        rest = tokens[start:]
        batch = llama_cpp.llama_batch_init(len(rest), 0, 1)
        batch.n_tokens = len(rest)
        for i, token in enumerate(rest):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        self.decode(batch)
        rows = [llama_cpp.llama_get_logits_ith(self.context, i) for i in range(len(rest))]
        logits = np.stack([np.ctypeslib.as_array(row, (self.vocabulary,)) for row in rows])
        llama_cpp.llama_batch_free(batch)
        self.clear()
        return logits


@llama_cpp.llama_log_callback
def silent(level, text, data):
    pass


def peak_memory():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main():
    path, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    own = peak_memory()  # Python and its packages are not the engine's.
    began = time.perf_counter_ns()
    engine = Engine(path, threads, context)
    engine.extend(engine.prompt(16))
    engine.best()
    print(time.perf_counter_ns() - began, flush=True)
    chosen = []
    for question in sys.stdin:
        words = question.split()
        if words[0] == "prompt":
            engine.clear()
            tokens = engine.prompt(int(words[1]))
            began = time.perf_counter_ns()
            engine.extend(tokens)
            engine.best()
            print(time.perf_counter_ns() - began, flush=True)
        elif words[0] == "decode":
            engine.rewrite(engine.prompt(PREFIX))
            chosen = []
            began = time.perf_counter_ns()
            for _ in range(int(words[1])):
                chosen.append(engine.best())
                engine.extend(chosen[-1:])
            print(time.perf_counter_ns() - began, flush=True)
        elif words[0] == "tokens":
            print(chosen, flush=True)
        elif words[0] == "memory":
            print(peak_memory() - own, flush=True)
        elif words[0] == "logits":
            tokens = np.fromfile(words[1], np.uint32).tolist()
            engine.logits(tokens, int(words[2])).tofile(Path(words[3]))
            print(flush=True)


main()
