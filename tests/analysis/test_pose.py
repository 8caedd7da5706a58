"""Spread and slope, against closed forms."""

import numpy as np
import pytest

from stn_jax.analysis.pose import orthogonal_regression, spread, spread_within


def test_a_perfect_aligner_has_no_spread_whatever_pose_a_class_settles_in():
    rng = np.random.default_rng(0)
    applied, labels = rng.uniform(-90, 90, 1000), rng.integers(0, 10, 1000)
    settled = rng.uniform(-40, 40, 10)
    assert spread(applied, settled[labels] - applied, labels) == pytest.approx(0, abs=1e-10)


def test_a_network_that_never_turns_has_the_spread_of_the_angles():
    applied = np.linspace(-90, 90, 100_001)
    still = np.zeros_like(applied)
    # The standard deviation of a uniform distribution of width 180.
    assert spread(applied, still, np.zeros(len(applied))) == pytest.approx(180 / 12**0.5, rel=1e-4)


def test_spread_by_hand():
    # Sums 1, 3 in one class (deviations -1, 1) and 5 in another (deviation 0).
    value = spread(np.array([1, 3, 5]), np.zeros(3), np.array(["a", "a", "b"]))
    assert value == pytest.approx((2 / 3) ** 0.5)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        spread(np.array([]), np.array([]), np.array([]))


def test_spread_within_examples_leaves_out_how_they_were_drawn():
    rng = np.random.default_rng(0)
    applied, drawn = rng.uniform(-90, 90, (4, 500)), rng.normal(0, 13, 500)
    predicted = drawn - applied
    assert spread_within(applied, predicted) == pytest.approx(0, abs=1e-10)
    labels = np.zeros(applied.size)
    assert spread(applied.ravel(), predicted.ravel(), labels) == pytest.approx(drawn.std())


@pytest.mark.parametrize("passes", [2, 5])
def test_spread_is_made_of_what_is_within_examples_and_between_them(passes):
    rng = np.random.default_rng(1)
    applied, drawn = rng.uniform(-90, 90, (passes, 50_000)), rng.normal(0, 13, 50_000)
    predicted = drawn - applied + rng.normal(0, 5, applied.shape)
    assert spread_within(applied, predicted) == pytest.approx(5, rel=0.01)
    whole = spread(applied.ravel(), predicted.ravel(), np.zeros(applied.size))
    assert whole == pytest.approx(np.hypot(13, 5), rel=0.01)


@pytest.mark.parametrize("shape", [(1, 4), (4,), (3, 0)])
def test_spread_within_wants_several_passes(shape):
    with pytest.raises(ValueError, match=r"expected \[passes, N\] with two passes or more"):
        spread_within(np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.3, 2.0])
def test_regression_finds_a_line(slope):
    x = np.linspace(-3, 5, 50)
    assert orthogonal_regression(x, slope * x + 2) == pytest.approx((slope, 2), abs=1e-9)


def test_regression_treats_both_axes_alike():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 500)) + np.outer([1, 0.5], rng.normal(size=500)) * 3
    assert orthogonal_regression(x, y)[0] == pytest.approx(1 / orthogonal_regression(y, x)[0])


def test_regression_of_a_vertical_line():
    assert abs(orthogonal_regression(np.ones(9), np.arange(9))[0]) > 1e9
