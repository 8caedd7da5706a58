"""The values that sampling gives: closed forms, a reference in float64, SciPy."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sampling import (
    BATCH,
    EXACT_SHAPE,
    KERNELS,
    OUTPUT,
    PADDING_MODES,
    SETTINGS,
    jitted_sample,
    jitted_transform,
    options,
    pixels_to_normalized,
    random_image,
)

from stn_jax.warp import affine_transform, grid_sample

# Closed forms

NUMPY_PADDING = {
    ("zeros", False): "constant",
    ("zeros", True): "constant",
    ("border", False): "edge",
    ("border", True): "edge",
    ("reflection", False): "symmetric",
    ("reflection", True): "reflect",
}


@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), SETTINGS)
def test_identity_and_whole_pixel_shifts_are_crops_of_the_padded_image(
    mode, padding_mode, align_corners
):
    image = random_image(4, 2, 2)
    steps = np.array([2, 4]) - align_corners  # the size of a pixel is 2 / steps
    shifts = np.array([[0, 0], [1, 0], [0, -1], [0, 2], [-1, 1], [3, 0], [-9, 0], [7, 11]])
    thetas = [np.concatenate([np.eye(2), (shift * 2 / steps)[:, None]], 1) for shift in shifts]
    warped = affine_transform(
        image,
        np.stack(thetas),
        mode=mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
    )
    assert warped.dtype == jnp.float32
    how = NUMPY_PADDING[padding_mode, align_corners]
    padded = np.pad(image, [(11, 11), (11, 11), (0, 0)], mode=how)
    # These sizes are powers of two: positions are free of rounding unless corners are aligned.
    tolerance = 5e-6 if align_corners else 0
    for found, (right, down) in zip(warped, 11 + shifts, strict=True):
        expected = padded[down : down + 4, right : right + 2]
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("rank", [2, 3])
def test_the_identity_gives_an_image_of_any_size_back_up_to_rounding(rank, align_corners):
    image = random_image(*(5, 28, 28)[-rank:], 1)
    warped = jitted_transform(image, np.eye(rank, rank + 1), align_corners=align_corners)
    np.testing.assert_allclose(warped, image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_quarter_turns_are_rot90(mode, align_corners):
    image = random_image(*EXACT_SHAPE[2, align_corners], 2)
    turns = np.array([[[0, -1, 0], [1, 0, 0]], [[0, 1, 0], [-1, 0, 0]]], np.float32)
    shape = image.shape[1::-1]
    warped = jitted_transform(image, turns, shape, mode=mode, align_corners=align_corners)
    np.testing.assert_array_equal(warped[0], np.rot90(image))
    np.testing.assert_array_equal(warped[1], np.rot90(image, 3))


def test_nearest_sends_halves_to_the_even_pixel():
    image = np.arange(1.0, 9)[None, :, None]
    x = np.array([-0.5, 0.5, 1.5, 2.5, 3.5, 6.5, 7.5])
    grid = np.stack([(2 * x + 1) / 8 - 1, np.zeros(7)], axis=-1)[None]
    sampled = jitted_sample(image, grid, mode="nearest")
    assert sampled[0, :, 0].tolist() == [1, 1, 3, 3, 5, 7, 0]


def test_bilinear_halfway_is_the_mean_of_the_neighbors():
    image = random_image(4, 8, 3)
    grid = pixels_to_normalized([[[2.5, 1], [2, 1.5], [2.5, 1.5]]], (4, 8))
    expected = [image[1, 2:4].mean(0), image[1:3, 2].mean(0), image[1:3, 2:4].mean((0, 1))]
    np.testing.assert_allclose(jitted_sample(image, grid)[0], expected, rtol=0, atol=1e-7)


def test_bicubic_halfway_weighs_four_pixels_by_the_kernel_with_a_of_minus_three_quarters():
    image = random_image(4, 8, 3)
    grid = pixels_to_normalized([[[3.5, 2]]], (4, 8))
    weights = np.array([-3, 19, 19, -3]) / 32  # Keys' kernel at 3/2, 1/2, 1/2, 3/2
    found = jitted_sample(image, grid, mode="bicubic")[0, 0]
    np.testing.assert_allclose(found, weights @ image[2, 2:6], rtol=0, atol=1e-6)


# The definition, in float64


def reference(image, grid, setting):
    """Each sample is the sum over the endlessly padded image times a kernel around the position."""
    *sizes, _ = image.shape
    result = np.broadcast_to(np.asarray(image, np.float64), (*grid.shape[:-1], *image.shape))
    for axis, size in enumerate(sizes):
        weights = reference_weights(np.asarray(grid[..., -1 - axis], np.float64), size, setting)
        result = np.einsum("...i,...ijk->...jk", weights, result.reshape(*weights.shape, -1, 1))
        result = result.reshape(*grid.shape[:-1], *image.shape[axis + 1 :])
    return result


def reference_weights(coordinate, size, setting):
    """How much each pixel of an axis counts at each position: [..., size]."""
    mode, padding_mode, align_corners = setting
    x = ((coordinate + 1) * (size - align_corners) - (not align_corners)) / 2
    if mode == "nearest" and padding_mode == "reflection":
        x = fold(x, size, align_corners)  # before rounding, which decides the ties
    near = np.rint(x)
    weights = np.zeros((*x.shape, size))
    for offset in range(-3, 4):
        pixel = near + offset
        weight = (offset == 0) if mode == "nearest" else kernel(mode, x - pixel)
        if padding_mode == "border":
            pixel = np.clip(pixel, 0, size - 1)
        elif padding_mode == "reflection":
            pixel = fold(pixel, size, align_corners)
        weights += (pixel[..., None] == np.arange(size)) * np.expand_dims(weight, -1)
    return weights


def fold(x, size, align_corners):
    """Reflects at the ends until all is inside."""
    low, high = (0, size - 1) if align_corners else (-0.5, size - 0.5)
    if low == high:
        return np.full_like(x, low)
    while np.any((x < low) | (x > high)):
        x = np.where(x < low, 2 * low - x, x)
        x = np.where(x > high, 2 * high - x, x)
    return x


def kernel(mode, distance, a=-0.75):
    d = np.abs(distance)
    if mode == "bilinear":
        return np.maximum(0, 1 - d)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.select([d <= 1, d < 2], [near, far])


seeds = st.integers(0, 2**32 - 1)
images = seeds.map(lambda seed: random_image(4, 8, 2, seed=seed))
few = hypothesis_settings(deadline=None, max_examples=5, derandomize=True)


def grids(rank=2):
    """Multiples of 1/64: pixel positions are free of rounding, and kinks are hit often."""
    shape = (BATCH, *OUTPUT[rank], rank)
    return seeds.map(
        lambda seed: np.float32(np.random.default_rng(seed).integers(-200, 201, shape) / 64)
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("rank", "mode"), KERNELS)
@few
@given(st.data())
def test_samples_are_the_padded_image_times_the_kernel(rank, mode, align_corners, data):
    shape = data.draw(st.sampled_from([EXACT_SHAPE[rank, align_corners], (1,) * rank]))
    image = random_image(*shape, 2, seed=data.draw(seeds))
    grid = data.draw(grids(rank))
    for padding_mode in PADDING_MODES:
        setting = (mode, padding_mode, align_corners)
        found = grid_sample(image, grid, **options(setting))
        np.testing.assert_allclose(found, reference(image, grid, setting), rtol=0, atol=2e-6)


@few
@given(images, images, st.floats(-3, 3), st.floats(-3, 3), grids(), st.sampled_from(SETTINGS))
def test_sampling_is_linear_in_the_image(one, two, a, b, grid, setting):
    sample = functools.partial(grid_sample, grid=grid, **options(setting))
    mixed = sample(np.float32(a * one + b * two))
    np.testing.assert_allclose(mixed, a * sample(one) + b * sample(two), rtol=0, atol=1e-5)


@few
@given(
    st.floats(-1, 1, width=32),
    grids(),
    st.sampled_from([s for s in SETTINGS if s[1] != "zeros"]),
)
def test_a_constant_image_stays_constant_unless_zeros_surround_it(value, grid, setting):
    found = grid_sample(np.full((4, 8, 2), value, np.float32), grid, **options(setting))
    np.testing.assert_allclose(found, value, rtol=0, atol=1e-6)


@few
@given(images, grids(), st.sampled_from([s for s in SETTINGS if s[0] != "bicubic"]))
def test_nearest_and_bilinear_stay_between_the_darkest_and_the_brightest_pixel(
    image, grid, setting
):
    found = grid_sample(image, grid, **options(setting))
    seen = np.append(image, 0) if setting[1] == "zeros" else image
    assert found.min() >= seen.min() - 1e-6
    assert found.max() <= seen.max() + 1e-6


@few
@given(images, grids(), st.sampled_from([s for s in SETTINGS if s[0] != "nearest"]))
def test_a_mirrored_image_at_mirrored_positions_gives_the_same(image, grid, setting):
    # Without "nearest", where a half would go to another pixel.
    found = grid_sample(image[:, ::-1], grid * np.float32([-1, 1]), **options(setting))
    expected = grid_sample(image, grid, **options(setting))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@few
@given(images, grids(), st.sampled_from(SETTINGS))
def test_a_transposed_image_at_swapped_coordinates_gives_the_same(image, grid, setting):
    found = grid_sample(image.swapaxes(0, 1), grid[..., ::-1], **options(setting))
    expected = grid_sample(image, grid, **options(setting))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


# SciPy


@pytest.mark.parametrize(
    ("padding_mode", "align_corners", "scipy_mode"),
    [
        ("zeros", False, "grid-constant"),
        ("zeros", True, "grid-constant"),
        ("border", False, "nearest"),
        ("border", True, "nearest"),
        ("reflection", False, "reflect"),
        ("reflection", True, "mirror"),
    ],
)
def test_bilinear_is_order_one_of_map_coordinates(padding_mode, align_corners, scipy_mode):
    ndimage = pytest.importorskip("scipy.ndimage")
    shape = (5, 7)
    image = random_image(*shape, 1)
    position = np.random.default_rng(1).uniform(-6, 12, (2, 50))  # x, y in pixels
    grid = pixels_to_normalized(position.T[None], shape, align_corners)
    found = jitted_sample(image, grid, padding_mode=padding_mode, align_corners=align_corners)
    expected = ndimage.map_coordinates(
        np.float64(image[..., 0]), position[::-1], order=1, mode=scipy_mode
    )
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=0, atol=1e-5)


def test_inside_the_image_the_padding_does_not_matter_and_map_coordinates_agrees():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = random_image(5, 7, 1)
    position = np.random.default_rng(2).uniform(0, 1, (2, 50)) * [[6], [4]]
    expected = ndimage.map_coordinates(
        np.float64(image[..., 0]), position[::-1], order=1, mode="constant"
    )
    for padding_mode, align_corners in itertools.product(PADDING_MODES, (False, True)):
        found = jitted_sample(
            image,
            pixels_to_normalized(position.T[None], (5, 7), align_corners),
            padding_mode=padding_mode,
            align_corners=align_corners,
        )
        np.testing.assert_allclose(found[0, :, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_transform_agrees_with_scipy_once_theta_is_in_pixels(align_corners):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = random_image(5, 7, 1)
    theta = np.array([[0.8, -0.5, 0.1], [0.6, 0.7, -0.2]])
    # A pixel p is at p / half - center / half in normalized coordinates, for (y, x) as SciPy has.
    center = np.array([2, 3])
    half = center if align_corners else np.array([5, 7]) / 2
    matrix = theta[::-1, 1::-1] * half[:, None] / half
    offset = center + theta[::-1, 2] * half - matrix @ center
    expected = ndimage.affine_transform(
        np.float64(image[..., 0]), matrix, offset, order=1, mode="grid-constant"
    )
    found = jitted_transform(image, theta, align_corners=align_corners)
    np.testing.assert_allclose(found[..., 0], expected, rtol=0, atol=1e-5)
