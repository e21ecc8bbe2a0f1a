import unittest

from interleave import Spread, interleave, percentile, speed


class Interleaving(unittest.TestCase):
    def test_each_has_its_turn_first_in_some_round(self):
        order = []
        turns = [lambda name=name: order.append(name) or len(order) for name in "abc"]
        values = interleave(turns, 3, pause=0)
        self.assertEqual("".join(order), "abcbcacab")
        self.assertEqual(values, [[1, 6, 8], [2, 4, 9], [3, 5, 7]])

    def test_speed_is_of_one_round(self):
        # Everything is twice as slow in the second round: the ratio is the same.
        found = speed([1.0, 2.0, 1.0], [3.0, 6.0, 3.0])
        self.assertEqual(found, Spread(3.0, 3.0, 3.0))

    def test_rounds_must_agree(self):
        with self.assertRaises(ValueError):
            speed([1.0], [1.0, 2.0])

    def test_percentiles_lie_between_neighbours(self):
        self.assertEqual(percentile([0.0, 10.0], 0.1), 1.0)
        self.assertEqual(percentile([0.0, 10.0], 1.0), 10.0)
        self.assertEqual(percentile([7.0], 0.9), 7.0)
