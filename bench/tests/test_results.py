import tempfile
import unittest
from pathlib import Path

from engines import ENGINES
from report import figure, report
from results import Line, Results
from rows import ROWS


class Kept(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "results.json"

    def test_rows_not_measured_again_stay(self):
        Results(2, self.path).put("a", [Line("X", speed=2.0)])
        Results(2, self.path).put("b", [Line("Y", reason="not installed: no wheel")])
        found = Results(2, self.path)
        self.assertEqual(found.get("a")[1], [Line("X", speed=2.0)])
        self.assertEqual(found.get("b")[1][0].reason, "not installed: no wheel")
        self.assertIsNone(found.get("c"))

    def test_a_busy_machine_is_named(self):
        results = Results(2, self.path)
        results.put("a", [Line("X")], 0.25)
        results.put("b", [Line("X")], 0.01)
        self.assertIn("others took 25%", results.get("a")[0])
        self.assertNotIn("others", results.get("b")[0])

    def test_other_settings_are_not_mixed(self):
        Results(2, self.path).put("a", [Line("X")])
        self.assertIsNone(Results(1, self.path).get("a"))

    def test_times_and_rates(self):
        times = Line.of("X", "ms", 1e3, [0.001] * 3, [0.002] * 3, 1.5)
        self.assertEqual((times.ours, times.theirs, times.speed, times.met), (1.0, 2.0, 2.0, True))
        rates = Line.of("X", "tok/s", 64, [0.5] * 3, [0.25] * 3, 0.6)
        self.assertEqual((rates.ours, rates.theirs, rates.speed, rates.met), (128, 256, 0.5, False))


class Table(unittest.TestCase):
    def test_rows_have_names_of_their_own(self):
        names = [row.name for row in ROWS]
        self.assertEqual(len(names), len(set(names)))

    def test_every_engine_is_in_some_row_and_has_a_version(self):
        needed = {program for row in ROWS for program in row.needs()[0]}
        for engine in ENGINES.values():
            self.assertIn(engine.program, needed)
            self.assertRegex(engine.version, r"^\d")

    def test_figures_have_no_exponents(self):
        self.assertEqual([figure(v) for v in (0.0494, 4.62, 1447.6)], ["0.0494", "4.62", "1448"])

    def test_report_says_what_is_missing_and_why(self):
        with tempfile.TemporaryDirectory() as folder:
            results = Results(2, Path(folder) / "results.json")
            results.put(ROWS[0].name, [Line("LiteRT", reason="not installed: no wheel")])
            text = report(ROWS, results, ENGINES.values())
        self.assertIn("not installed: no wheel", text)
        self.assertIn(f"Not measured yet: {ROWS[1].name}", text)
