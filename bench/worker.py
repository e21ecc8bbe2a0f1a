"""A process that runs one engine: it answers each line of questions with a line."""

import os
import subprocess
import tempfile


class Failed(Exception):
    """An engine that could not be had, or did not do what it was asked; says why."""


class Worker:
    """The engine's own first answer comes unasked, once it has loaded: `first`, in seconds."""

    def __init__(self, command, threads):
        # candle takes the number from there. An error is a line, not a backtrace.
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "RUST_BACKTRACE": "0"}
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        try:
            self.first = seconds(self.answer())
        except Failed:
            self.close()
            raise

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise Failed(self.last_error() or f"ended with status {self.process.returncode}")
        return line.strip()

    def ask(self, question):
        try:
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # What it said before it ended is the answer.
        return self.answer()

    def seconds(self, question):
        return seconds(self.ask(question))

    def last_error(self):
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return lines[-1].removeprefix("Error: ") if lines else ""

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def seconds(answer):
    return [int(word) * 1e-9 for word in answer.split()]
