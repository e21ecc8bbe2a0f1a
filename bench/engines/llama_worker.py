"""llama.cpp's side of `cargo xtask bench language`; crates/lm/examples/bench_language.rs tells the
questions and answers, which are the same."""

import sys
import time

import llama_cpp
import numpy as np


def prompt(n):
    return [5 + i * 7919 % 20_000 for i in range(n)]


class Engine:
    def __init__(self, path, threads):
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(silent, None)
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            sys.exit(f"llama.cpp can't load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = 512
        parameters.n_batch = 512
        parameters.n_ubatch = 512
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def reset(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def compute(self, tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            sys.exit("llama.cpp failed to decode")

    def best(self):
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocabulary,))))


@llama_cpp.llama_log_callback
def silent(level, text, data):
    pass


def peak_memory():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    own = peak_memory()  # Python and its packages are not the engine's.
    began = time.perf_counter_ns()
    engine = Engine(path, threads)
    engine.compute(prompt(16))
    engine.best()
    print(time.perf_counter_ns() - began, flush=True)
    chosen = []
    for question in sys.stdin:
        words = question.split()
        if words[0] == "prompt":
            engine.reset()
            began = time.perf_counter_ns()
            engine.compute(prompt(int(words[1])))
            engine.best()
            print(time.perf_counter_ns() - began, flush=True)
        elif words[0] == "decode":
            engine.reset()
            engine.compute(prompt(256))
            chosen = []
            began = time.perf_counter_ns()
            for _ in range(int(words[1])):
                chosen.append(engine.best())
                engine.compute(chosen[-1:])
            print(time.perf_counter_ns() - began, flush=True)
        elif words[0] == "tokens":
            print(chosen, flush=True)
        elif words[0] == "memory":
            print(peak_memory() - own, flush=True)


main()
