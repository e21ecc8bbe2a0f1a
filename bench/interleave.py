"""Rounds in which engines take turns, and what is said of them.

Machines are noisy, so engines are never measured one after the other: in each round each has its
turn, in an order that rotates, and only times of one round are divided by each other.
"""

import statistics
import time
from dataclasses import dataclass

# Lets threads that an engine keeps spinning go to sleep before the next one's turn: ONNX Runtime's do
# for 40 ms.
PAUSE = 0.05


def interleave(turns, rounds, pause=PAUSE):
    """Calls each of `turns`, `rounds` times; gives each one's values, a list in order of rounds."""
    values = [[0.0] * rounds for _ in turns]
    for n in range(rounds):
        for k in range(len(turns)):
            turn = (n + k) % len(turns)
            values[turn][n] = turns[turn]()
            time.sleep(pause)
    return values


@dataclass(frozen=True)
class Spread:
    """A median, and what a tenth of the values lie below and above."""

    middle: float
    low: float
    high: float

    @staticmethod
    def of(values):
        ordered = sorted(values)
        return Spread(
            statistics.median(ordered), percentile(ordered, 0.1), percentile(ordered, 0.9)
        )


def speed(ours, theirs):
    """How many times as fast Kinglet is: their time by ours, round by round."""
    return Spread.of([b / a for a, b in zip(ours, theirs, strict=True)])


def percentile(ordered, share):
    """The value that this share lies below, between neighbours in proportion."""
    at = share * (len(ordered) - 1)
    low = ordered[int(at)]
    high = ordered[min(int(at) + 1, len(ordered) - 1)]
    return low + (high - low) * (at - int(at))
