"""Poses, their spread and slope, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.analysis.pose import (
    POSE_COMPONENTS,
    orthogonal_regression,
    slopes,
    within_class_rms,
    within_example_rms,
)
from stn_jax.data.distortions import example_keys
from stn_jax.data.tasks import TASKS
from stn_jax.warp import affine


def test_a_perfect_aligner_has_an_rms_of_0_whatever_the_pose_of_each_class():
    rng = np.random.default_rng(0)
    applied, labels = rng.uniform(-90, 90, 1000), rng.integers(0, 10, 1000)
    settled = rng.uniform(-40, 40, 10)
    assert within_class_rms(applied, settled[labels] - applied, labels) == pytest.approx(
        0, abs=1e-10
    )


def test_a_network_that_never_rotates_has_the_rms_of_the_angles():
    applied = np.linspace(-90, 90, 100_001)
    still = np.zeros_like(applied)
    # The standard deviation of a uniform distribution of width 180.
    assert within_class_rms(applied, still, np.zeros(len(applied))) == pytest.approx(
        180 / 12**0.5, rel=1e-4
    )


def test_within_class_rms_by_hand():
    # Metrics 1, 3 in one class (deviations -1, 1) and 5 in another (deviation 0).
    value = within_class_rms(np.array([1, 3, 5]), np.zeros(3), np.array(["a", "a", "b"]))
    assert value == pytest.approx((2 / 3) ** 0.5)


def test_within_class_rms_of_no_examples_is_rejected():
    with pytest.raises(ValueError, match="at least one example"):
        within_class_rms(np.array([]), np.array([]), np.array([]))


def test_within_example_rms_excludes_differences_between_examples():
    rng = np.random.default_rng(0)
    applied, drawn = rng.uniform(-90, 90, (4, 500)), rng.normal(0, 13, 500)
    predicted = drawn - applied
    assert within_example_rms(applied, predicted) == pytest.approx(0, abs=1e-10)
    labels = np.zeros(applied.size)
    assert within_class_rms(applied.ravel(), predicted.ravel(), labels) == pytest.approx(
        drawn.std()
    )


@pytest.mark.parametrize("passes", [2, 5])
def test_within_class_variance_is_that_within_and_between_examples(passes):
    rng = np.random.default_rng(1)
    applied, drawn = rng.uniform(-90, 90, (passes, 50_000)), rng.normal(0, 13, 50_000)
    predicted = drawn - applied + rng.normal(0, 5, applied.shape)
    assert within_example_rms(applied, predicted) == pytest.approx(5, rel=0.01)
    whole = within_class_rms(applied.ravel(), predicted.ravel(), np.zeros(applied.size))
    assert whole == pytest.approx(np.hypot(13, 5), rel=0.01)


@pytest.mark.parametrize("shape", [(1, 4), (4,), (3, 0)])
def test_within_example_rms_needs_several_passes(shape):
    with pytest.raises(ValueError, match=r"expected \[passes, N\] or \[passes, N, D\]"):
        within_example_rms(np.zeros(shape), np.zeros(shape))


def test_the_rms_of_translations_is_a_distance():
    # One class: 3 to the left and 4 down of the mean, and as far to the other side.
    applied = np.array([[10.0, 20], [16, 28]])
    assert within_class_rms(applied, np.zeros((2, 2)), np.zeros(2)) == pytest.approx(5)
    # Two passes, each coordinate's unbiased variance 2 * 3^2 and 2 * 4^2.
    assert within_example_rms(applied[:, None], np.zeros((2, 1, 2))) == pytest.approx(50**0.5)


@pytest.mark.thin
@pytest.mark.parametrize("task", ["rotated_mnist", "translated_mnist", "scaled_mnist"])
def test_the_inverse_of_a_distortion_has_slope_minus_1_and_an_rms_of_0(task):
    keys = example_keys(jax.random.key(0), jnp.arange(40))
    digits = np.random.default_rng(0).integers(0, 255, (40, 28, 28, 1), np.uint8)
    images, theta = jax.jit(TASKS[task].distort)(keys, digits, digits)
    component, shape = POSE_COMPONENTS[TASKS[task].aligns], images.shape[1:3]
    settled = affine.from_parameters(angle=20.0, scale=0.6, shift=(0.1, 0.1))
    applied = component.applied(theta, shape)
    predicted = component.predicted(affine.compose(affine.invert(theta), settled), shape)
    np.testing.assert_allclose(within_class_rms(applied, predicted, np.zeros(40)), 0, atol=2e-4)
    assert slopes(applied, predicted) == pytest.approx([-1] * len(component.slope_keys), 1e-4)
    assert np.std(applied) > {"angle": 40, "position": 7, "scale": 0.7}[component.name]


def test_on_a_circle_whole_turns_make_no_difference():
    rng = np.random.default_rng(0)
    applied, labels = rng.uniform(-180, 180, (4, 500)), rng.integers(0, 3, 500)
    # Aligned to a pose of each class's own, up to noise, and reported within half a turn of 0.
    noise = rng.normal(0, 9, (4, 500))
    settled = np.array([170.0, -40.0, -178.0])[labels] + noise
    predicted = (settled - applied + 180) % 360 - 180
    measured = within_class_rms(
        applied.ravel(), predicted.ravel(), np.tile(labels, 4), POSE_COMPONENTS["direction"].period
    )
    means = [noise[:, labels == label].mean() for label in range(3)]
    assert measured == pytest.approx(np.sqrt(np.mean((noise - np.take(means, labels)) ** 2)), 1e-3)
    within = within_example_rms(applied, predicted, 360)
    assert within == pytest.approx(np.sqrt(noise.var(0, ddof=1).mean()), rel=1e-6)
    # On a line, those that crossed half a turn would count as far apart.
    assert within_class_rms(applied.ravel(), predicted.ravel(), np.tile(labels, 4)) > 90
    # What is left as it was distorted is spread over the circle.
    spread = within_class_rms(applied.ravel(), np.zeros(2000), np.zeros(2000), 360)
    assert spread == pytest.approx(360 / 12**0.5, rel=0.03)
    assert POSE_COMPONENTS["direction"].slope_keys == ()


def test_poses_by_hand():
    # A window of half the sides, whose middle is 6 pixels right and 3 above that of a 20x24 image.
    theta = affine.from_parameters(scale=0.5, shift=(0.5, -0.3))
    found = {
        name: component.predicted(theta, (20, 24)) for name, component in POSE_COMPONENTS.items()
    }
    np.testing.assert_allclose(found["position"], [6, -3], rtol=1e-6)
    assert (found["angle"], found["scale"]) == pytest.approx((0, -1))
    assert np.isfinite(POSE_COMPONENTS["scale"].predicted(jnp.zeros((2, 3)), (20, 24)))
    # A digit pasted with its middle at (+5, -4) is undone by a window there.
    put = affine.invert(affine.from_parameters(shift=(5 / 12, -4 / 10)))
    np.testing.assert_allclose(
        POSE_COMPONENTS["position"].applied(put, (20, 24)), [-5, 4], rtol=1e-5
    )


def test_an_angle_is_that_of_the_picture_whatever_the_images_shape():
    turn = affine.rotation(30.0, aspect=24 / 12)
    angle = POSE_COMPONENTS["angle"]
    assert float(angle.predicted(turn, (12, 24))) == pytest.approx(30, abs=1e-4)
    assert float(angle.applied(turn, (12, 24))) == pytest.approx(30, abs=1e-4)


def test_the_slope_of_positions_is_each_axis_own():
    rng = np.random.default_rng(0)
    applied = rng.uniform(-16, 16, (500, 2))
    # What settles off the middle, differently along x and y, is aligned as well as what does not.
    predicted = np.array([-1.0, -0.5]) * applied + [3, -7]
    assert slopes(applied, predicted) == pytest.approx([-1, -0.5])
    flip = np.array([-1, 1])
    assert slopes(flip * applied, flip * predicted) == pytest.approx([-1, -0.5])
    assert slopes(applied[:, 1], predicted[:, 1]) == pytest.approx([-0.5])


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
