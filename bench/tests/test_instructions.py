import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import instructions
from instructions import compared, counted, decode, prompt
from worker import Failed


class Counts(unittest.TestCase):
    def test_functions_of_one_name_are_counted_together(self):
        found = counted("12 main\n3 operator new(unsigned long)\n30 ?\n4 main\n")
        self.assertEqual(found, {"main": 16, "operator new(unsigned long)": 3, "?": 30})

    def test_a_plugin_that_wrote_nothing_is_an_error(self):
        with self.assertRaises(Failed):
            counted("")

    def test_what_comes_before_the_tokens_is_subtracted(self):
        # 1000 instructions to load, then 10 for each token of a prompt and 25 for each decoded.
        def emulate(cpu, plugin, out, command, questions):
            words = [question.split() for question in questions]
            tokens = sum({"prompt": 10, "decode": 25}[kind] * int(n) for kind, n in words)
            out.write_text(f"1000 load\n{tokens} step\n")

        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(instructions, "emulate", emulate),
        ):
            bench = SimpleNamespace(scratch=Path(folder), made=lambda *name: Path("model.gguf"))
            found = [
                row("m", "q4_0", "max").for_each_token(bench, Path("kinglet"))
                for row in (prompt, decode)
            ]
        self.assertEqual(found, [10, 25])

    def test_fewer_are_better(self):
        line = compared(2e6, 3e6)
        self.assertEqual((line.ours, line.theirs, line.speed, line.met), (2.0, 3.0, 1.5, True))
        self.assertFalse(compared(3e6, 2e6).met)
        with self.assertRaises(Failed):
            compared(0, 2e6)


class Emulator(unittest.TestCase):
    def run_saying(self, said, code=0, errors=""):
        done = SimpleNamespace(returncode=code, stdout=said, stderr=errors)
        with mock.patch.object(instructions.subprocess, "run", return_value=done) as run:
            instructions.emulate(
                "max", Path("count.so"), Path("/x/out.txt"), [Path("kinglet"), 1], ["prompt 4"]
            )
        return run

    def test_a_program_that_answers_is_fine(self):
        words = self.run_saying("0\n7\n").call_args.args[0]
        self.assertIn("count.so,out=out.txt", words)

    def test_a_program_that_fails_or_says_less_is_an_error(self):
        with self.assertRaisesRegex(Failed, "no such file"):
            self.run_saying("0\n", 1, "loading\nno such file\n")
        with self.assertRaisesRegex(Failed, "1 answers"):
            self.run_saying("0\n")
