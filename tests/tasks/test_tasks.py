"""The distortions: what they do to real digits, and what they depend on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from stn_jax.data import sources
from stn_jax.data.distortions import example_keys, rotate, scale, translate
from stn_jax.data.tasks import TASKS, make_task
from stn_jax.warp import affine, affine_transform


@pytest.fixture(scope="module")
def digits():
    return jnp.asarray(sources.load("mnist_sample").train.images[:400])


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


def test_rotation_is_scipys_by_the_angle_that_it_reports(digits):
    images, theta = jax.jit(rotate)(keys(20), digits[:20], digits)
    angles = np.asarray(affine.angle(theta))
    for image, digit, angle in zip(images, digits, angles, strict=False):
        # SciPy's positive angle turns counter-clockwise as one sees it, too.
        expected = ndimage.rotate(
            np.asarray(digit[..., 0], np.float64) / 255, angle, reshape=False, order=1
        )
        # SciPy counts a position outside the pixel centers as outside altogether.
        np.testing.assert_allclose(image[2:-2, 2:-2, 0], expected[2:-2, 2:-2], atol=2e-5)


def test_angles_are_uniform_from_minus_90_to_90(digits):
    many = jnp.tile(digits[:1], (4000, 1, 1, 1))
    _, theta = jax.jit(rotate)(keys(4000), many, digits)
    angles = np.sort(np.asarray(affine.angle(theta)))
    assert angles[0] > -90.001
    assert angles[-1] < 90.001
    # Kolmogorov-Smirnov distance from the uniform distribution; 0.026 is the 1 % level.
    assert np.abs(angles - np.linspace(-90, 90, 4000)).max() / 180 < 0.026


def without_clutter(images, pool):
    return jax.jit(translate)(keys(len(images)), images, jnp.zeros_like(pool))


def test_translation_places_the_digit_at_a_whole_pixel_position(digits):
    images, theta = without_clutter(digits[:50], digits)
    chex.assert_shape(images, (50, 60, 60, 1))
    places = []
    for image, digit, each in zip(np.asarray(images), np.asarray(digits), theta, strict=False):
        # From canvas to digit: x_in = (60 x_out + 60 - 2 offset) / 28 - 1 at the corner.
        offset = (60 - 28 * (np.asarray(affine.shift(each)) + 1)) / 2
        x, y = np.round(offset).astype(int)
        np.testing.assert_allclose(offset, [x, y], atol=1e-3)
        # To the last bit but one: inside jit a division becomes a product.
        expected = digit.astype(np.float32) / 255
        np.testing.assert_allclose(image[y : y + 28, x : x + 28], expected, rtol=2e-7)
        assert image.sum() == pytest.approx(digit.sum() / 255, rel=1e-4)
        places.append((x, y))
    assert np.min(places) >= 0
    assert np.max(places) <= 32
    assert len(set(places)) > 40


def test_clutter_is_six_crops_of_the_pool_added_up_to_1_at_most(digits):
    full = jnp.full_like(digits, 255)
    blank = jnp.zeros_like(digits[:30])
    images = np.asarray(jax.jit(translate)(keys(30), blank, full).images)
    assert set(np.unique(images)) == {0.0, 1.0}
    counts = images.sum((1, 2, 3))
    assert counts.max() == 6 * 36  # where no two crops overlap
    assert (counts > 36).all()
    # Each crop is a part of a digit of the pool: gray values of the pool, and no others.
    images = np.asarray(jax.jit(translate)(keys(30), blank, digits).images)
    assert 0 < images.max() <= 1
    single = images[(images > 0) & (images < 1)] * 255
    assert np.mean(np.abs(single - np.round(single)) < 1e-3) > 0.99


def factors_of(theta):
    """How many times as large as a digit of MNIST it became."""
    return 4 / np.asarray(affine.decompose(theta).scale)[:, 0]


@pytest.mark.thin("published")
@pytest.mark.parametrize("recipe", ["published", "legacy"])
def test_scaling_is_scipys_by_the_factor_that_it_reports(digits, recipe):
    distort = jax.jit(make_task("scaled_mnist", recipe).distort)
    images, theta = distort(keys(12), digits[:12], jnp.zeros_like(digits))
    chex.assert_shape(images, (12, 112, 112, 1))
    factors = factors_of(theta)
    np.testing.assert_allclose(
        theta, affine.scaling(4 / factors[:, None] * np.ones(2)), rtol=1e-6, atol=1e-6
    )
    for image, digit, factor in zip(np.asarray(images), digits, factors, strict=False):
        # The digit's pixel under a canvas pixel, both counted from their pictures' middles.
        row = (np.arange(112) - 55.5) / factor + 13.5
        padded = np.pad(np.asarray(digit[..., 0], np.float64) / 255, 30)
        expected = ndimage.map_coordinates(
            padded, np.meshgrid(row + 30, row + 30, indexing="ij"), order=1
        )
        np.testing.assert_allclose(image[..., 0], expected, atol=2e-5)


def test_scale_factors_are_uniform_on_a_logarithmic_scale_from_a_half_to_4(digits):
    many = jnp.tile(digits[:1, ::7, ::7], (4000, 1, 1, 1))
    _, theta = jax.jit(scale)(keys(4000), many, digits)
    octaves = np.sort(np.log2(factors_of(theta)))
    assert octaves[0] > -1.001
    assert octaves[-1] < 2.001
    # Kolmogorov-Smirnov, as above.
    assert np.abs(octaves - np.linspace(-1, 2, 4000)).max() / 3 < 0.026


def squares_of(image):
    """Outlines (left, top, side) of the white squares of a picture, where none touch; else None."""
    labels, _ = ndimage.label(image, np.ones((3, 3)))
    found = ndimage.find_objects(labels)
    if not all(image[each].all() and np.ptp(image[each].shape) == 0 for each in found):
        return None
    return [(each[1].start, each[0].start, image[each].shape[0]) for each in found]


def test_clutter_of_scaled_digits_is_six_squares_of_even_sides_whatever_the_scale(digits):
    count = 300
    blank = jnp.zeros((count, 28, 28, 1), jnp.uint8)
    images, theta = jax.jit(scale)(keys(count), blank, jnp.full_like(digits, 255))
    images = np.asarray(images)[..., 0]
    # A white square is white to its edges: the sampling spills nothing.
    assert set(np.unique(images.round(5))) == {0.0, 1.0}
    found = [squares_of(image > 0.5) for image in images]
    apart = [i for i, squares in enumerate(found) if squares is not None and len(squares) == 6]
    assert len(apart) > 80
    left, top, sides = np.array([found[i] for i in apart]).transpose(2, 0, 1)
    assert set(sides.ravel()) == set(range(2, 19, 2))
    # At the canvas's edges too.
    assert min(left.min(), top.min()) <= 2
    assert (sides + np.maximum(left, top)).max() >= 110
    # The digit's factor says nothing of them. (Large squares meet others more often, so that those
    # apart are smaller than all; the factor has no part in that.)
    factor = factors_of(theta)[apart]
    correlation = np.corrcoef(np.log(factor), sides.mean(1))[0, 1]
    assert abs(correlation) < 3 / len(apart) ** 0.5
    # Uniform, by the areas of all: the mean of (2 k)^2 for k from 1 to 9 is 126.7; a tenth of it is
    # covered by others.
    assert images.sum((1, 2)).mean() == pytest.approx(6 * 126.7, rel=0.12)


@pytest.mark.slow
def test_a_square_of_clutter_shows_a_crop_of_6x6_pixels(digits):
    ramp = jnp.broadcast_to(jnp.arange(28, dtype=jnp.uint8)[:, None] * 9, (400, 28, 28))[..., None]
    blank = jnp.zeros_like(ramp[:60])
    images = np.asarray(jax.jit(scale)(keys(60), blank, ramp).images)[..., 0]
    spans = []
    for image in images:
        for left, top, side in squares_of(image > 0) or []:
            rows = image[top : top + side, left : left + side]
            if np.ptp(rows, axis=1).max() > 1e-5:
                continue  # another square lies upon it
            # Bilinear between pixel centers, the outer ones' values beyond them.
            place = np.clip((np.arange(side) + 0.5) * 6 / side - 0.5, 0, 5)
            step = 9 / 255
            start = rows[0, 0] / step - place[0]
            if start > 0.5 and side > 2:  # what is cut from the black first row is not outlined
                np.testing.assert_allclose(rows[:, 0], (start + place) * step, atol=1e-5)
                assert start == pytest.approx(round(start), abs=1e-3)
                spans.append(side)
    assert len(set(spans)) >= 6


@pytest.mark.slow
def test_legacy_clutter_of_scaled_digits_grows_with_the_digit(digits):
    blank = jnp.zeros_like(digits[:60])
    legacy = make_task("scaled_mnist", "legacy").distort
    images, theta = jax.jit(legacy)(keys(60), blank, jnp.full_like(digits, 255))
    factor = factors_of(theta)
    images = np.asarray(images)[..., 0]
    assert images.min() == 0
    assert images.max() == 1
    # In crops of 6x6 pixels of the digit's size; overlaps hide what they cover.
    crops = images.sum((1, 2)) / (6 * factor) ** 2
    assert crops.max() == pytest.approx(6, rel=0.03)
    assert (crops > 1).all()
    # Small crops seldom meet, so of these each image has six.
    assert np.median(crops[factor < 0.7]) == pytest.approx(6, rel=0.05)


def test_recipes_differ_only_in_the_clutter_of_scaled_digits():
    for name, task in TASKS.items():
        assert make_task(name) is task
        assert (make_task(name, "legacy") == task) == (name != "scaled_mnist")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["published", "legacy"])
def test_scaled_mnist_has_the_published_statistics(digits, recipe):
    # Digits alone have a mean of 0.031: a quarter of the ink is clutter.
    task = make_task("scaled_mnist", recipe)
    pool = jnp.asarray(sources.load("mnist_sample").train.images[:2000])
    mean, deviation = task.statistics("measure", pool)
    assert float(mean[0]) == pytest.approx(task.mnist_statistics[0], abs=0.002)
    assert float(deviation[0]) == pytest.approx(task.mnist_statistics[1], abs=0.004)


@pytest.mark.thin("translated_mnist", "affine", "rotated_mnist")
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.distorts])
def test_an_example_does_not_depend_on_its_batch(digits, name):
    distort = jax.jit(TASKS[name].distort)
    whole = distort(keys(8), digits[:8], digits)
    part = distort(keys(8)[3:5], digits[3:5], digits)
    chex.assert_trees_all_close(part, jax.tree.map(lambda x: x[3:5], whole), atol=1e-6)
    again = distort(keys(8), digits[:8], digits)
    chex.assert_trees_all_equal(again, whole)
    other = distort(keys(8, seed=1), digits[:8], digits)
    assert float(jnp.abs(other.images - whole.images).max()) > 0.1


def test_statistics_of_mnist_are_the_published_ones(digits):
    assert TASKS["rotated_mnist"].statistics("mnist", digits) == (0.1307, 0.3081)
    assert TASKS["translated_mnist"].statistics("mnist", digits)[0] == pytest.approx(0.0363)


def test_statistics_of_other_data_are_measured(digits):
    mean, deviation = TASKS["translated_mnist"].statistics("kmnist", digits)
    # MNIST under another name: near the published figures, but from 400 digits.
    chex.assert_shape(mean, (1,))
    assert float(mean[0]) == pytest.approx(0.0363, abs=0.004)
    assert float(deviation[0]) == pytest.approx(0.1585, abs=0.03)


@pytest.mark.slow
def test_color_images_of_another_size(digits):
    color = jnp.broadcast_to(jnp.pad(digits[:4], ((0, 0), (2, 2), (2, 2), (0, 0))), (4, 32, 32, 3))
    for distort, side in ((rotate, 32), (translate, 68), (scale, 128)):
        images = jax.jit(distort)(keys(4), color, color).images
        chex.assert_shape(images, (4, side, side, 3))
        # What is done to a channel does not depend on the others.
        chex.assert_trees_all_equal(images[..., 0], images[..., 2])


@pytest.fixture(scope="module")
def photos():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))


def test_house_numbers_are_shown_as_they_are(photos):
    for train in (True, False):
        images, theta = TASKS["svhn"].transform(train)(keys(40), photos, photos)
        np.testing.assert_allclose(images, np.asarray(photos) / 255, rtol=1e-6)
        chex.assert_trees_all_equal(theta, jnp.tile(affine.identity(), (40, 1, 1)))


def test_training_sees_random_parts_and_evaluation_the_middle(photos):
    task = TASKS["svhn"].cropped(54)
    images, theta = jax.jit(task.transform(True))(keys(40), photos, photos)
    chex.assert_shape(images, (40, 54, 54, 3))
    corners = []
    for image, photo, each in zip(np.asarray(images), np.asarray(photos), theta, strict=True):
        # From part to photo: x_in = (54 x_out + 2 offset + 54) / 64 - 1.
        offset = (64 * (np.asarray(affine.shift(each)) + 1) - 54) / 2
        x, y = np.round(offset).astype(int)
        np.testing.assert_allclose(image, photo[y : y + 54, x : x + 54] / 255, rtol=1e-6)
        corners.append((x, y))
    assert np.min(corners) == 0
    assert np.max(corners) == 10
    assert len(set(corners)) > 25
    # The theta is what the warp would have to do.
    warped = affine_transform(photos.astype(jnp.float32) / 255, theta, (54, 54))
    np.testing.assert_allclose(warped, images, atol=1e-4)
    images, theta = task.transform(False)(keys(40, seed=1), photos, photos)
    np.testing.assert_allclose(images, np.asarray(photos)[:, 5:59, 5:59] / 255, rtol=1e-6)
    np.testing.assert_allclose(affine.shift(theta), 0, atol=1e-6)


def test_statistics_of_images_as_they_are_may_be_known(photos):
    known = np.float32([0.1, 0.2, 0.3]), np.float32([0.4, 0.5, 0.6])
    chex.assert_trees_all_equal(TASKS["svhn"].statistics("x", photos, known), known)
    # A distortion changes them.
    mean, _ = TASKS["scaled_mnist"].statistics("x", photos[:, :28, :28], known)
    assert not np.allclose(mean, known[0], atol=5e-3)
    mean, deviation = TASKS["svhn"].statistics("x", photos)
    np.testing.assert_allclose(mean, np.asarray(photos).mean((0, 1, 2)) / 255, rtol=1e-4)
    np.testing.assert_allclose(deviation, np.asarray(photos).std((0, 1, 2)) / 255, rtol=1e-3)
