"""What was measured: lines of the table, kept in results.json from run to run."""

import datetime
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

from interleave import Spread, speed

PATH = Path(__file__).resolve().parent / "results.json"

# The share of the machine's time that other processes may take without being named in the table.
DISTURBED = 0.03


@dataclass
class Line:
    """Kinglet against one peer, or the reason why there is nothing to say of it.

    `speed` is the peer's time by Kinglet's, `low` and `high` what a tenth of the rounds lie below and
    above."""

    peer: str
    reason: str = ""
    unit: str = ""
    ours: float = 0.0
    theirs: float = 0.0
    speed: float = 0.0
    low: float = 0.0
    high: float = 0.0
    rounds: int = 0
    goal: float | None = None
    goal_text: str = ""
    met: bool = True
    remark: str = ""
    # Of decoding: how much of the memory's speed it uses.
    traffic: dict = field(default_factory=dict)
    # Beside another process: spreads of the speed that is left to both.
    shares: list = field(default_factory=list)
    # Of precision: both engines' figures.
    precision: dict = field(default_factory=dict)

    def __str__(self):
        if self.reason:
            return f"{self.peer}: {self.reason}"
        found = self.precision or self.shares
        if not self.speed:
            return f"{self.peer}: {found or f'{self.ours:.0f} of {self.theirs:.0f}'}"
        speed = f"{self.speed:.2f} ({self.low:.2f} to {self.high:.2f})"
        return f"{self.peer}: {speed} {self.traffic or found or ''} {self.remark}"

    @staticmethod
    def of(peer, unit, scale, ours, theirs, goal, remark=""):
        """From both engines' seconds. `unit` counts `scale` times them, or as many things a second."""
        ratio = speed(ours, theirs)
        shown = [Spread.of(times).middle for times in (ours, theirs)]
        a, b = (scale / s if unit.endswith("/s") else scale * s for s in shown)
        met = goal is None or ratio.middle >= goal
        return Line(
            peer, "", unit, a, b, ratio.middle, ratio.low, ratio.high, len(ours), goal, "", met, remark
        )


class Results:
    """Rows by name. Those of another machine, or measured with another number of threads, are not
    kept: they can't stand in one table."""

    def __init__(self, threads, path=PATH):
        self.path = path
        self.setting = {"cpu": cpu_name(), "cpus": os.cpu_count(), "threads": threads}
        self.rows = self.kept()

    def kept(self):
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        if found["setting"] == self.setting:
            return found["rows"]
        print(f"bench: dropped what was measured with {found['setting']}")
        return {}

    def put(self, name, lines, others=None):
        """`others`: what share of the machine's time other processes took meanwhile."""
        today = datetime.date.today().isoformat()
        lines = [asdict(line) for line in lines]
        self.rows = self.kept()  # Another run may have added to it.
        self.rows[name] = {"date": today, "others": others, "lines": lines}
        document = {"setting": self.setting, "rows": self.rows}
        self.path.write_text(json.dumps(document, indent=1) + "\n")

    def get(self, name):
        """When it was measured and the lines, or None."""
        row = self.rows.get(name)
        if row is None:
            return None
        busy = row["others"] or 0
        disturbed = f", others took {busy:.0%}" if busy > DISTURBED else ""
        return row["date"] + disturbed, [Line(**line) for line in row["lines"]]


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
