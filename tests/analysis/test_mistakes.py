"""Where a network is wrong, against counting by hand and SciPy's intervals."""

import numpy as np
import pytest
from scipy import stats

from stn_jax.analysis.mistakes import confusion, error_interval, hardest


def test_the_confusion_matrix_counts_every_prediction():
    rng = np.random.default_rng(0)
    labels, classes = rng.integers(0, 4, 50), rng.integers(0, 5, (2, 3, 50))
    expected = np.zeros((5, 5), int)
    for one_pass in classes.reshape(-1, 50):
        for true, said in zip(labels, one_pass, strict=True):
            expected[true, said] += 1
    np.testing.assert_array_equal(confusion(labels, classes, 5), expected)


@pytest.mark.parametrize(("wrong", "total"), [(0, 50), (1, 50), (7, 200), (200, 200)])
def test_one_pass_has_wilsons_interval(wrong, total):
    found = error_interval(np.arange(total) < wrong)
    expected = stats.binomtest(wrong, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-9, atol=1e-12)


def test_identical_passes_carry_no_more_information_than_one():
    once = np.random.default_rng(1).random(300) < 0.1
    np.testing.assert_allclose(error_interval(np.stack([once] * 20)), error_interval(once))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # Examples of different difficulty (a beta distribution, mean 0.1), each seen ten times.
    rng = np.random.default_rng(2)
    trials = 2000
    held = 0
    for _ in range(trials):
        difficulty = rng.beta(0.2, 1.8, 300)
        low, high = error_interval(rng.random((10, 300)) < difficulty)
        held += low <= 0.1 <= high
    # Within four standard deviations of 95 %.
    assert abs(held / trials - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 1), (0, 5)])
def test_too_few_examples_for_an_interval_are_named(shape):
    with pytest.raises(ValueError, match=r"wrong has shape .*expected \[\.\.\., N\] of 2 or more"):
        error_interval(np.zeros(shape, bool))


def test_the_hardest_are_wrong_most_often_and_then_most_surely():
    wrong = np.array([[1, 0, 1, 0, 1], [1, 0, 0, 1, 1]], bool)
    confidence = np.array([[0.5, 0.99, 0.6, 0.9, 0.8], [0.5, 0.99, 0.99, 0.7, 0.4]])
    np.testing.assert_array_equal(hardest(wrong, confidence, 9), [4, 0, 3, 2])
    np.testing.assert_array_equal(hardest(wrong, confidence, 1), [4])
    assert len(hardest(np.zeros((2, 5), bool), confidence, 9)) == 0
