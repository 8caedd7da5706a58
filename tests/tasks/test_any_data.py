"""The distortions for any data: at the image's own size, within their ranges."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from stn_jax import augment
from stn_jax.data.distortions import AffineRanges, example_keys
from stn_jax.data.tasks import RANDOM, TASKS, make_task
from stn_jax.models.recipes import ANY_DATA
from stn_jax.warp import affine

HEIGHT, WIDTH = 10, 16
RANGES = AffineRanges(angle=30.0, translation=0.1, scale=(0.8, 1.5), shear=0.3)


@pytest.fixture(scope="module")
def images():
    shape = (500, HEIGHT, WIDTH, 3)
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def distorted(name, images, ranges=RANGES):
    keys = example_keys(jax.random.key(0), jnp.arange(len(images)))
    return jax.jit(make_task(name, ranges=ranges).distort)(keys, images, images)


def test_each_task_is_one_for_any_data():
    assert {"plain", *RANDOM} == set(ANY_DATA) <= set(TASKS)


def test_plain_images_are_as_they_are(images):
    found, theta = distorted("plain", images)
    np.testing.assert_allclose(found, np.asarray(images) / np.float32(255), rtol=1e-6)
    chex.assert_trees_all_equal(theta, jnp.tile(affine.identity(), (500, 1, 1)))


def test_oblong_images_turn_without_shearing(images):
    found, theta = distorted("rotated", images)
    chex.assert_shape(found, (500, HEIGHT, WIDTH, 3))
    angles = np.asarray(affine.angle(theta, aspect=WIDTH / HEIGHT))
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30
    for i in range(5):
        expected = ndimage.rotate(
            np.asarray(images[i, ..., 0], np.float64) / 255, angles[i], reshape=False, order=1
        )
        inside = ndimage.rotate(np.ones((HEIGHT, WIDTH)), angles[i], reshape=False, order=0) > 0
        inside = ndimage.binary_erosion(inside, np.ones((3, 3)))
        assert inside.sum() > 40
        np.testing.assert_allclose(found[i, ..., 0][inside], expected[inside], atol=2e-5)


@pytest.mark.parametrize("name", ["rotated", "rotated_mnist"])
def test_angles_of_the_full_circle(name, images):
    square = images[:, :, :HEIGHT]
    _, theta = distorted(name, square, AffineRanges(angle=180.0))
    angles = np.sort(np.asarray(affine.angle(theta)))
    # The largest distance to the uniform distribution (Kolmogorov and Smirnov).
    distance = np.abs(angles / 360 + 0.5 - (np.arange(500) + 0.5) / 500).max()
    assert distance < 1.63 / 500**0.5
    np.testing.assert_allclose(affine.scale(theta), 1, rtol=1e-5)


def test_translations_are_fractions_of_each_side(images):
    _, theta = distorted("translated", images)
    np.testing.assert_array_equal(theta[:, :, :2], np.tile(np.eye(2), (500, 1, 1)))
    shift = np.asarray(affine.shift(theta)) / 2  # of the whole side
    assert np.abs(shift).max() <= 0.1
    assert (np.abs(shift).max(0) > 0.095).all()


def test_scales_are_uniform_on_a_logarithmic_axis(images):
    _, theta = distorted("scaled", images)
    growth = 1 / np.asarray(affine.scale(theta))
    assert 0.8 <= growth.min() < 0.82
    assert 1.45 < growth.max() <= 1.5
    assert np.median(growth) == pytest.approx(np.sqrt(0.8 * 1.5), abs=0.04)


def test_affine_draws_are_those_of_augment(images):
    found, theta = distorted("affine", images)
    key = jax.random.fold_in(jax.random.key(0), 7)
    options = {"angle": 30.0, "scale": (0.8, 1.5), "shear": 0.3, "shift": 0.1}
    targets = augment.Targets(images[7].astype(jnp.float32) / 255)
    expected, drawn = augment.random_affine(key, targets, **options)
    np.testing.assert_allclose(theta[7], drawn, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found[7], expected.image, atol=1e-5)


def test_rotated_digits_have_a_range_if_it_is_not_the_studys():
    assert make_task("rotated_mnist", ranges=AffineRanges()) is TASKS["rotated_mnist"]
    task = make_task("rotated_mnist", ranges=RANGES)
    assert (task.name, task.aligns, task.ranges.angle) == ("rotated_mnist", "angle", 30)
    # The published mean and deviation are those of digits at up to 90 degrees.
    assert task.distorts
    assert task.mnist_statistics is None


def test_ranges_are_those_of_the_task_alone():
    assert make_task("rotated", ranges=RANGES).ranges == AffineRanges(30.0, 0.0, (1.0, 1.0), 0.0)
    assert make_task("rotated") is TASKS["rotated"]
    assert make_task("rotated", ranges=RANGES).aligns == "angle"
    assert make_task("affine", ranges=AffineRanges(angle=0)).aligns is None
    assert make_task("affine", ranges=AffineRanges(angle=180)).aligns == "direction"
    assert not TASKS["plain"].distorts
    assert TASKS["affine"].distorts


def test_channels_that_never_change_are_divided_by_1(images):
    flat = images.at[..., 2].set(255)
    mean, deviation = make_task("plain").statistics("own", flat)
    assert float(mean[2]) == 1
    assert float(deviation[2]) == 1
    assert float(deviation[0]) == pytest.approx(0.289, abs=0.01)
    stored = np.float32([0, 0, 1]), np.float32([0.5, 0.5, 0])
    assert make_task("plain").statistics("own", flat, stored)[1].tolist() == [0.5, 0.5, 1]


@pytest.mark.slow
def test_crops_of_oblong_images(images):
    keys = example_keys(jax.random.key(0), jnp.arange(500))
    task = make_task("plain").cropped(8)
    found, theta = task.transform(True)(keys, images, images)
    chex.assert_shape(found, (500, 8, 8, 3))
    # From crop to image: x_in = (8 x_out + 2 offset + 8) / side - 1 at the corner.
    offset = (np.asarray(affine.shift(theta) + 1) * [WIDTH, HEIGHT] - 8) / 2
    assert offset.min(0).round(3).tolist() == [0, 0]
    assert offset.max(0).round(3).tolist() == [8, 2]
    for i in range(5):
        x, y = offset[i].round().astype(int)
        expected = np.asarray(images[i, y : y + 8, x : x + 8]) / 255
        np.testing.assert_allclose(found[i], expected, rtol=1e-6)
    middle = task.transform(False)(keys, images, images).images
    np.testing.assert_allclose(middle, np.asarray(images[:, 1:9, 4:12]) / 255, rtol=1e-6)
