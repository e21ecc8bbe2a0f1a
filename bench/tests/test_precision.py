import unittest

import numpy as np

from precision import judge, log_softmax, not_worse


class Precision(unittest.TestCase):
    def test_divergence_is_of_probabilities(self):
        # p = (1/4, 3/4), q = (1/2, 1/2); logits may be shifted.
        p = log_softmax(np.array([[5.0, 5.0 + np.log(3)]], np.float32))
        q = log_softmax(np.array([[-2.0, -2.0]], np.float32))
        surprise, divergence = judge(p, q, np.array([1]))
        self.assertAlmostEqual(surprise[0], np.log(2), places=6)
        self.assertAlmostEqual(divergence[0], 0.25 * np.log(0.5) + 0.75 * np.log(1.5), places=6)

    def test_large_logits_stay_finite(self):
        found = log_softmax(np.array([[1e4, 0.0]], np.float32))
        self.assertTrue(np.isfinite(found).all())

    def test_worse_is_more_than_chance(self):
        theirs = np.random.default_rng(1).normal(size=1000)
        noise = np.random.default_rng(2).normal(size=1000) * 0.1
        self.assertTrue(not_worse(theirs + noise - noise.mean(), theirs))
        self.assertTrue(not_worse(theirs - 1, theirs))
        self.assertFalse(not_worse(theirs + noise + 0.1, theirs))
        self.assertTrue(not_worse(theirs, theirs))
