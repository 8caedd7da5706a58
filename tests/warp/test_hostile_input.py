"""Warps of whatever comes: an answer that float64 confirms, or an error that says what to change.

The oracle below is NumPy in float64, written for single positions, infinite ones included. Where
float32 cannot know a position well enough it says how far off the answer may be: by the slope times
the position's rounding error ("nearest": by the pixels within that error).
"""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sampling import SETTINGS, jitted_sample, jitted_transform, options, random_image

from stn_jax.warp import affine, affine_grid, affine_transform, grid_sample, transforms

EPS = 2.0**-24  # relative rounding error of float32

seeds = st.integers(0, 2**32 - 1)
# A program is compiled for each shape and setting, so few of these, and many values in each.
some = hypothesis.settings(
    deadline=None,
    max_examples=hypothesis.settings().max_examples // 3,
    derandomize=True,
    database=None,
    # each_implementation is the same for all examples
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
many = hypothesis.settings(some, max_examples=hypothesis.settings().max_examples)
most = hypothesis.settings(some, max_examples=5 * hypothesis.settings().max_examples)
each_implementation = pytest.mark.usefixtures("each_implementation")

HOSTILE = np.float32(
    [
        *(0.0, -0.0, 1e-45, 1e-38, -1e-20, 1e-7, 0.5, 1.0, -1.0, 1.0 + 2**-23, 3.0, -7.5, 1e3),
        *(65504.0, 1e5, -1e7, 2.0**24, 2.0**31, -(2.0**33), 1e10, -1e20, 3e38, -3e38),
        *(np.inf, -np.inf, np.nan),
    ]
)


def hostile(seed, *shape):
    """Half ordinary numbers, half of the list above."""
    rng = np.random.default_rng(seed)
    ordinary = rng.normal(0, 1, shape)
    return np.where(rng.random(shape) < 0.5, ordinary, rng.choice(HOSTILE, shape)).astype(
        np.float32
    )


# --- the oracle ----------------------------------------------------------------------------------


def kernel(mode, distance, a=-0.75):
    d = np.abs(distance)
    if mode == "bilinear":
        return np.maximum(0, 1 - d)
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.select([d <= 1, d < 2], [near, far])


def folded(x, size, align_corners):
    """A position reflected at the image's ends until it is inside."""
    low, span = (0, size - 1) if align_corners else (-0.5, size)
    if span == 0:
        return np.zeros_like(x)
    x = np.mod(x - low, 2 * span)
    return np.where(x > span, 2 * span - x, x) + low


def weights(x, size, setting):
    """How much each pixel of an axis counts at each pixel position: ``[..., size]``."""
    mode, padding_mode, align_corners = setting
    if mode == "nearest":
        if padding_mode == "reflection":
            x = folded(x, size, align_corners)
        offsets = [0]
    else:
        offsets = range(-3, 4)
    # Beyond, all is outside; so far out nothing is lost.
    x = x if padding_mode == "reflection" else np.clip(x, -9, size + 9)
    near = np.rint(x)
    total = np.zeros((*x.shape, size))
    for offset in offsets:
        pixel = near + offset
        weight = np.ones_like(x) if mode == "nearest" else kernel(mode, x - pixel)
        if padding_mode == "border":
            pixel = np.clip(pixel, 0, size - 1)
        elif padding_mode == "reflection":
            pixel = folded(pixel, size, align_corners)
        total += (np.rint(pixel)[..., None] == np.arange(size)) * weight[..., None]
    return total


def sampled(image, x, y, setting):
    """An image ``[H, W, C]`` at pixel positions ``[N]`` that are not NaN: ``[N, C]``."""
    across, down = (weights(p, n, setting) for p, n in ((x, image.shape[1]), (y, image.shape[0])))
    return np.einsum("nh,nw,hwc->nc", down, across, image.astype(np.float64))


def to_pixels(position, error, size, align_corners):
    """Pixel positions of normalized ones in float64, and by how much float32 may miss them."""
    pixel = ((position + 1) * (size - align_corners) - (not align_corners)) / 2
    rounding = 4 * EPS * ((np.abs(position) + 1) * size + 1)
    error = error * size / 2 + np.where(np.isinf(position), 0, rounding)
    return pixel, error


def check(found, image, position, error, setting):
    """Compares samples ``[N, C]`` with what float64 finds at normalized positions ``[N, 2]``."""
    mode, padding_mode, align_corners = setting
    with np.errstate(invalid="ignore", over="ignore"):
        (x, dx), (y, dy) = (
            to_pixels(position[:, axis], error[:, axis], size, align_corners)
            for axis, size in ((0, image.shape[1]), (1, image.shape[0]))
        )
    top = np.abs(image).max()
    unknown = np.isnan(x) | np.isnan(y)
    if padding_mode == "reflection":
        unknown |= np.isinf(x) | np.isinf(y)
    assert np.isnan(found[unknown]).all(), "a position that is no number must not give one"
    # Where float32 does not know the pixel, the answer may be any that the image holds, or NaN
    # where it overflowed on the way.
    far = ((np.abs(position) > 1e37) | np.isinf(error)).any(1)
    lost = ~unknown & ~((dx < 0.25) & (dy < 0.25)) & ~_outside(x, y, dx, dy, image, padding_mode)
    largest = {"nearest": 1, "bilinear": 1, "bicubic": 1.5**2}[mode] * top
    assert (np.isnan(found[lost & far]) | (np.abs(found[lost & far]) <= largest + 1e-4)).all()
    assert (np.abs(found[lost & ~far]) <= largest + 1e-4).all()

    known = ~unknown & ~lost
    x, y, dx, dy, found = (each[known] for each in (x, y, dx, dy, found))
    x, y = np.clip(x, -1e9, 1e9), np.clip(y, -1e9, 1e9)  # infinities too are outside
    dx, dy = (np.where(np.isfinite(d), np.minimum(d, 0.25), 0) for d in (dx, dy))
    if mode == "nearest":
        sides = itertools.product((-1, 0, 1), repeat=2)
        near = [sampled(image, x + i * dx, y + j * dy, setting) for i, j in sides]
        closest = np.min([np.abs(found - each) for each in near], axis=0)
        assert not np.isnan(closest).any()
        assert closest.max(initial=0) <= 1e-6 * top
        return
    slope = {"bilinear": 2, "bicubic": 6}[mode] * top
    allowed = slope * (dx + dy)[:, None] + 4e-6 * top
    difference = np.abs(found - sampled(image, x, y, setting))
    assert not np.isnan(difference).any()
    assert (difference <= allowed).all(), difference.max()


def _outside(x, y, dx, dy, image, padding_mode):
    """Where the position is rough, but so far outside that the padding decides all the same."""
    if padding_mode == "reflection":
        return np.zeros(x.shape, bool)

    def sure(p, d, size):
        beyond = np.abs(p) - d > size + 4
        return (d < 0.25) | np.where(np.isinf(p), np.isfinite(d), beyond)

    with np.errstate(invalid="ignore"):
        return sure(x, dx, image.shape[1]) & sure(y, dy, image.shape[0])


# --- values --------------------------------------------------------------------------------------

SHAPES = [(1, 1), (1, 7), (6, 1), (3, 4)]


@each_implementation
@some
@given(seeds, st.sampled_from(SHAPES), st.sampled_from(SETTINGS))
def test_any_grid_gives_what_float64_gives(seed, shape, setting):
    image, grid = random_image(*shape, 2, seed=seed), hostile(seed, 512, 1, 2)
    found = np.asarray(jitted_sample(image, grid, **options(setting)), np.float64)
    position = grid.reshape(-1, 2).astype(np.float64)
    check(found.reshape(-1, 2), image, position, np.zeros(position.shape), setting)


@each_implementation
@some
@given(seeds, st.sampled_from(SHAPES), st.sampled_from(SETTINGS))
def test_any_theta_gives_what_float64_gives(seed, shape, setting):
    image, thetas = random_image(*shape, 2, seed=seed), hostile(seed, 96, 2, 3)
    thetas[:16] = 0.0  # all of it onto one point
    thetas[16:32, :, 0] = thetas[16:32, :, 1]  # onto a line
    thetas[:8, :, 2] = hostile(seed + 1, 8, 2)
    found = np.asarray(jitted_transform(image, thetas, (3, 2), **options(setting)), np.float64)
    y, x = ((2 * np.arange(n) + 1) / n - 1 for n in (3, 2))
    if setting[2]:
        y, x = np.linspace(-1, 1, 3), np.linspace(-1, 1, 2)
    base = np.stack([*np.meshgrid(x, y), np.ones((3, 2))], -1)
    with np.errstate(invalid="ignore"):
        terms = thetas[:, None, None].astype(np.float64) * base[:, :, None]
        position = terms.sum(-1)
    size = np.abs(np.where(np.isfinite(terms), terms, 0)).sum(-1)
    # Float32 may overflow where float64 does not: then the position is not known.
    error = np.where(size < 3e38, 6 * EPS * size, np.inf)
    # On CPU what is less than the smallest normal number counts as 0.
    error = error + 4e-38
    flat = position.reshape(-1, 2), error.reshape(-1, 2)
    check(found.reshape(-1, 2), image, *flat, setting)


@many
@given(seeds)
def test_the_angle_of_a_theta_of_any_size_is_that_of_the_nearest_rotation(seed):
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-30, 38.4, 64)
    thetas = np.float32(rng.uniform(-1, 1, (64, 2, 3)) * sizes[:, None, None])
    a = thetas.astype(np.float64)
    u, v = a[:, 1, 0] - a[:, 0, 1], a[:, 0, 0] + a[:, 1, 1]
    found = np.asarray(affine.angle(thetas), np.float64)
    off = np.abs((found - np.degrees(np.arctan2(u, v)) + 180) % 360 - 180)
    # Degrees by the relative error of the two sums.
    rounding = 4 * EPS * np.abs(a[:, :, :2]).sum((1, 2)) / np.hypot(u, v)
    assert (off <= np.degrees(rounding) + 1e-4).all()


@many
@given(seeds)
def test_an_inverse_is_that_of_float64_or_not_finite(seed):
    thetas = hostile(seed, 64, 2, 3)
    found = np.asarray(affine.invert(thetas), np.float64)
    a, shift = thetas[..., :2].astype(np.float64), thetas[..., 2:].astype(np.float64)
    finite = np.isfinite(found).all((1, 2))
    singular = ~np.isfinite(thetas).all((1, 2)) | (np.linalg.norm(a, axis=(1, 2)) == 0)
    assert not finite[singular].any()
    for place in np.flatnonzero(finite):
        size = np.linalg.norm(a[place])
        if not 1e-15 < size < 1e15:
            continue  # its determinant over- or underflows in float32
        condition = np.linalg.cond(a[place])
        if condition > 1e5:
            continue
        inverse = np.linalg.inv(a[place])
        expected = np.concatenate([inverse, -inverse @ shift[place]], 1)
        scale = np.abs(expected).max() + np.linalg.norm(inverse) * np.abs(shift[place]).max()
        assert np.abs(found[place] - expected).max() <= 30 * EPS * condition * scale


@many
@example(30323)  # subnormal entries
@given(seeds)
def test_any_homography_divides_or_samples_outside(seed):
    family = transforms.Projective()
    thetas = hostile(seed, 256, 3, 3)
    # In float64 only where float32 neither over- nor underflows.
    ordinary = np.where(np.abs(thetas) > 1e15, np.float32(2), thetas)
    grid = np.asarray(family.grid_of(ordinary, (3, 2)), np.float64)
    y, x = ((2 * np.arange(n) + 1) / n - 1 for n in (3, 2))
    base = np.stack([*np.meshgrid(x, y), np.ones((3, 2))], -1)
    terms = ordinary[:, None, None].astype(np.float64) * base[:, :, None]
    sums, sizes = terms.sum(-1), np.abs(ordinary.astype(np.float64)).sum(-1)[:, None, None]
    w, size = sums[..., 2], sizes[..., 2]
    nan = np.isnan(w)
    assert np.isnan(grid[nan]).all()
    front, behind = w > 1.1e-4 * size + 1e-37, w < 0.9e-4 * size - 1e-37
    assert (grid[behind] == family.NOWHERE).all()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        expected = sums[..., :2] / w[..., None]
        error = 20 * EPS * (sizes[..., :2] + np.abs(expected) * size[..., None])
        error = (error + 4e-38) / w[..., None]  # subnormal terms count as 0
    found, expected, error = grid[front], expected[front], error[front] + 1e-37
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    sure = np.isfinite(expected) & (np.abs(expected) < 1e37)
    assert (np.abs(found - expected)[sure] <= error[sure]).all()


# --- shapes and types ----------------------------------------------------------------------------

sizes = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=5).map(tuple)
FLOATS = ["float16", "bfloat16", "float32"]
dtypes = st.sampled_from(FLOATS * 3 + ["int8", "uint8", "int32", "bool", "complex64"])


def answer(function, *arguments, **keywords):
    """The shape and type of what comes, or None and what the error says."""
    try:
        found = jax.eval_shape(functools.partial(function, **keywords), *arguments)
    except (TypeError, ValueError) as error:
        return None, str(error)
    return found, ""


def assert_it_says_what_to_change(message, names):
    """One line that names an argument, with what was found and what would do."""
    assert message.splitlines()[0].startswith(names), message
    hints = ("expected", "do not broadcast", "no pixel to sample", "must not be negative", "use '")
    assert any(hint in message for hint in hints), message
    assert "\n" not in message


def broadcast(*shapes):
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


@most
@given(sizes, dtypes, sizes, dtypes, st.sampled_from([2, 2, 2, 3, 3, 4, None]))
def test_any_image_and_grid_give_the_shape_of_the_rule_or_an_error(
    image_shape, image_type, grid_shape, grid_type, rank
):
    grid_shape = (*grid_shape, rank) if rank else grid_shape
    image, grid = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in ((image_shape, image_type), (grid_shape, grid_type))
    )
    found, message = answer(grid_sample, image, grid)
    rank = grid_shape[-1] if grid_shape else 0
    fits = (
        {image_type, grid_type} <= set(FLOATS)
        and rank in (2, 3)
        and min(len(grid_shape), len(image_shape)) >= rank + 1
    )
    lead = broadcast(image_shape[: -rank - 1], grid_shape[: -rank - 1]) if fits else None
    if lead is None:
        assert found is None
        assert_it_says_what_to_change(message, ("image", "grid", "the leading axes of image"))
        return
    expected = (*lead, *grid_shape[-rank - 1 : -1], image_shape[-1])
    if 0 in image_shape[-rank - 1 : -1] and 0 not in expected:
        assert found is None
        assert "no pixel to sample from" in message
        return
    assert (found.shape, found.dtype) == (expected, jnp.dtype(image_type))


odd_shapes = (
    st.none()
    | st.lists(st.integers(-2, 4), max_size=4).map(tuple)
    | st.sampled_from([3, "HW", (2.0, 2), (None, 2), (2, "2"), (np.int64(2), 2), ((2,), 2)])
)


@most
@given(sizes, dtypes, sizes, dtypes, st.sampled_from([(2, 3), (2, 3), (3, 4), (3, 3)]), odd_shapes)
def test_any_theta_and_output_shape_give_the_shape_of_the_rule_or_an_error(
    image_shape, image_type, lead, theta_type, matrix, shape
):
    image = jax.ShapeDtypeStruct(image_shape, image_type)
    theta = jax.ShapeDtypeStruct((*lead, *matrix), theta_type)
    found, message = answer(affine_transform, image, theta, shape=shape)
    rank = matrix[0]
    whole = shape is None or (
        isinstance(shape, tuple)
        and len(shape) == rank
        and all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape)
    )
    fits = matrix != (3, 3) and {image_type, theta_type} <= set(FLOATS) and whole
    fits = fits and len(image_shape) >= rank + 1
    leads = broadcast(image_shape[: -rank - 1], lead) if fits else None
    if leads is None:
        assert found is None
        names = ("image", "theta", "shape", "the leading axes of image")
        assert_it_says_what_to_change(message, names)
        return
    spatial = image_shape[-rank - 1 : -1]
    expected = (*leads, *(spatial if shape is None else map(int, shape)), image_shape[-1])
    if 0 in spatial and 0 not in expected:
        assert found is None
        assert "no pixel to sample from" in message
        return
    assert (found.shape, found.dtype) == (expected, jnp.dtype(image_type))


@pytest.mark.parametrize("bad", [None, "image", [[1.0], [2.0, 3.0]], object(), {"a": 1}])
def test_non_arrays_raise_a_type_or_value_error(bad):
    fine = np.zeros((4, 4, 1), np.float32)
    calls = [
        lambda: grid_sample(bad, np.zeros((4, 4, 2), np.float32)),
        lambda: grid_sample(fine, bad),
        lambda: affine_transform(fine, bad),
        lambda: affine_grid(bad, (4, 4)),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)):
            call()


@each_implementation
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats_go_through_as_the_other_floats_do(dtype):
    image = jnp.asarray(random_image(4, 8, 1), dtype)
    theta = np.float32([[0, 1, 0.1], [-1, 0, 0.2]])
    found = jitted_transform(image, theta)
    assert found.dtype == dtype
    expected = jitted_transform(image.astype("float32"), theta).astype(dtype)
    np.testing.assert_array_equal(np.float32(found), np.float32(expected))
