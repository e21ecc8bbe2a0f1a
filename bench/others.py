"""How busy other processes kept the machine while something was measured."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")


class Others:
    """Counts from when it is made; `share` is of the time of all cores, None where the system tells
    nothing. What this process and its children take is not counted, once they have ended."""

    def __init__(self):
        self.began = moment()

    def share(self):
        if self.began is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self.began, moment(), strict=True))
        return max(0.0, (busy - own) / (wall * os.cpu_count()))


def moment():
    """Seconds by the clock, of all processes and other guests of the host, and of our own processes."""
    try:
        line = STAT.read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(word) for word in line.split()[1:9])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), busy, sum(os.times()[:4])
