"""Sampling as a function of arrays: types, axes, infinities, empties, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling import (
    BATCH,
    EXACT_SHAPE,
    KERNELS,
    OUTPUT,
    PADDING_MODES,
    jitted_sample,
    jitted_transform,
    pixels_to_normalized,
    random_image,
)

from stn_jax.warp import affine_grid, affine_transform, grid_sample, kernels

# Types


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(("rank", "mode"), KERNELS)
def test_half_precision_images_are_computed_in_float32_and_rounded_once(rank, mode, dtype):
    image = jnp.asarray(random_image(*(3, 5, 7)[-rank:], 2), dtype)
    grid = random_image(BATCH, *OUTPUT[rank], rank, seed=1)
    sample = functools.partial(grid_sample, mode=mode, padding_mode="reflection")
    found = sample(image, grid)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, sample(image.astype("float32"), grid).astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_positions_are_float32_whatever_comes_in(dtype):
    theta = jnp.asarray(random_image(2, 3), dtype)
    grid = affine_grid(theta, (5, 7))
    assert grid.dtype == jnp.float32
    np.testing.assert_array_equal(grid, affine_grid(theta.astype("float32"), (5, 7)))
    image, coarse = random_image(5, 7, 2), grid.astype(dtype)
    found = jitted_sample(image, coarse)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, jitted_sample(image, coarse.astype("float32")))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_half_precision_theta_finds_every_pixel_of_a_wide_image(dtype):
    image = jnp.arange(5000).astype(dtype).reshape(1, 5000, 1)
    warped = jitted_transform(image, jnp.eye(2, 3, dtype=dtype), mode="nearest")
    np.testing.assert_array_equal(warped, image)


def test_gradients_come_in_the_types_of_the_arguments():
    image, theta = jnp.zeros((5, 7, 2), jnp.bfloat16), jnp.zeros((2, 3), jnp.float16)
    gradients = jax.grad(lambda *a: affine_transform(*a).sum().astype("float32"), (0, 1))
    found = jax.eval_shape(gradients, image, theta)
    assert [g.dtype for g in found] == [jnp.bfloat16, jnp.float16]


def test_a_float64_theta_does_not_widen_the_image():
    with jax.enable_x64(True):
        image, theta = np.zeros((5, 7, 2), np.float32), np.eye(2, 3)
        assert affine_grid(theta, (5, 7)).dtype == jnp.float64
        assert jax.eval_shape(affine_transform, image, theta).dtype == jnp.float32
        assert jax.eval_shape(affine_transform, np.float64(image), theta).dtype == jnp.float64


# Leading axes

LEADING_AXES = [
    ((), (3,)),
    ((3,), ()),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((1, 1), (1,)),
    ((2, 1, 1), (1, 3, 1)),
]
RANKED_LEADING_AXES = [(2, *leads) for leads in LEADING_AXES] + [(3, (2, 1), (3,))]


def random_pair(rank, image_lead, theta_lead):
    shape = (2, 3, 4)[-rank:]
    image = random_image(*image_lead, *shape, 2)
    return image, random_image(*theta_lead, rank, rank + 1, seed=1)


@pytest.mark.parametrize(("rank", "image_lead", "theta_lead"), RANKED_LEADING_AXES)
def test_leading_axes_broadcast_as_a_loop_would(rank, image_lead, theta_lead):
    image, theta = random_pair(rank, image_lead, theta_lead)
    found = jitted_transform(image, theta)
    lead = np.broadcast_shapes(image_lead, theta_lead)
    core = image.shape[-rank - 1 :]
    assert found.shape == (*lead, *core)
    images_ = np.broadcast_to(image, (*lead, *core))
    thetas = np.broadcast_to(theta, (*lead, rank, rank + 1))
    for place in np.ndindex(*lead):
        one = jitted_transform(images_[place], thetas[place])
        np.testing.assert_allclose(found[place], one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("image_lead", "theta_lead"), [((), (3,)), ((3,), (1,))])
def test_gradients_of_broadcast_arguments_are_summed(image_lead, theta_lead):
    image, theta = random_pair(2, image_lead, theta_lead)
    weight = random_image(3, 3, 4, 2, seed=2)
    found = jax.jit(jax.grad(weighted_sum, (0, 1)))(image, theta, weight)
    images_, thetas = np.broadcast_to(image, (3, 3, 4, 2)), np.broadcast_to(theta, (3, 2, 3))
    each = [gradients_of_one(*one) for one in zip(images_, thetas, weight, strict=True)]
    for array, argument, *parts in zip(found, (image, theta), *each, strict=True):
        whole = np.stack(parts)
        if argument.ndim < whole.ndim or argument.shape[0] == 1:
            whole = whole.sum(0).reshape(argument.shape)
        np.testing.assert_allclose(array, whole, rtol=1e-5, atol=1e-5)


def weighted_sum(image, theta, weight):
    return (weight * affine_transform(image, theta)).sum()


gradients_of_one = jax.jit(jax.grad(weighted_sum, (0, 1)))


def arrays_in(jaxpr, primitives=()):
    """The shapes and types of everything that a jaxpr (or these primitives in it) computes."""
    for equation in jaxpr.eqns:
        if not primitives or equation.primitive.name in primitives:
            yield from (variable.aval for variable in equation.outvars)
        leaves = jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns"))
        for leaf in leaves:
            if hasattr(leaf, "eqns"):
                yield from arrays_in(leaf, primitives)


def value_and_gradients(image, theta, mode, shape):
    output, pull_back = jax.vjp(
        functools.partial(affine_transform, shape=shape, mode=mode), image, theta
    )
    return output, pull_back(output)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_many_thetas_do_not_copy_the_image(mode):
    image, thetas = jnp.zeros((1, 64, 64, 8)), jnp.zeros((16, 2, 3))
    sampling = kernels.Sampling(2, (4, 4), mode, "zeros", False)

    def sample_and_gradients(image, thetas):
        out = kernels.sample(image, thetas, sampling, cpu=False)
        return out, kernels.adjoint(image, thetas, out, sampling, (True, True), cpu=False)

    computed = list(arrays_in(jax.make_jaxpr(sample_and_gradients)(image, thetas)))
    assert len(computed) > 20
    assert max(array.size for array in computed) == image.size


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_one_theta_computes_its_positions_once_for_all_images(mode):
    sampling = kernels.Sampling(2, (4, 4), mode, "zeros", False)
    fn = functools.partial(kernels.sample, sampling=sampling, cpu=False)
    jaxpr = jax.make_jaxpr(fn)(jnp.zeros((50, 4, 4, 3)), jnp.zeros((1, 2, 3)))
    computed = arrays_in(jaxpr, ("floor", "round"))
    assert [array.shape for array in computed] == [(1, 4, 4)] * 2


@pytest.mark.parametrize("lead", [(), (1,)])
def test_the_compiled_program_holds_one_image_for_many_thetas(lead):
    image, thetas = jnp.zeros((*lead, 64, 64, 8)), jnp.zeros((16, 2, 3))
    fn = functools.partial(value_and_gradients, mode="bilinear", shape=(4, 4))
    memory = jax.jit(fn).lower(image, thetas).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * image.nbytes


# What is outside, infinite or not a number


@pytest.mark.parametrize(("rank", "mode"), KERNELS)
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_pixels_that_the_kernel_does_not_touch_do_not_leak(rank, mode, padding_mode):
    inner = (slice(2, 6),) * rank  # all that is touched from positions between 3 and 4
    clean = np.zeros((*(8,) * rank, 2), np.float32)
    clean[inner] = random_image(*(4,) * rank, 2)
    outer = np.ones(clean.shape, bool)
    outer[inner] = False
    fillings = [0, np.inf, -np.inf, np.nan] * 2
    images_ = np.stack([np.where(outer, filling, clean) for filling in fillings])
    positions = random_image(*OUTPUT[rank], rank) * 0.4 + 3.5
    if padding_mode == "zeros":
        positions[0, 0] = -2.5
        positions[0, 1, ..., 0] = 9.5
        positions[1, 0] = 1e6
    grid = np.float32(pixels_to_normalized(positions, (8,) * rank))
    sample = functools.partial(grid_sample, mode=mode, padding_mode=padding_mode)
    found, pull_back = jax.vjp(sample, np.float32(images_), np.stack([grid] * BATCH))
    d_images, d_grids = pull_back(jnp.ones_like(found))
    assert found[0, -1, -1].all()
    for array in (found, d_images, d_grids):
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, np.stack([array[0]] * BATCH))
    assert not np.asarray(d_images[0])[outer].any()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_a_position_that_is_nan_gives_nan_there_and_only_there(mode, padding_mode, axis):
    grid = random_image(BATCH, *OUTPUT[2], 2)
    grid[3, 1, 0, axis] = np.nan
    found = grid_sample(random_image(4, 8, 2), grid, mode=mode, padding_mode=padding_mode)
    expected = np.zeros(found.shape, bool)
    expected[3, 1, 0] = True
    np.testing.assert_array_equal(np.isnan(found), expected)


@pytest.mark.parametrize("far", [1e20, 3e38, np.inf])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_infinitely_far_is_outside_or_at_the_edge(mode, padding_mode, far):
    image = random_image(4, 8, 2)
    grid = np.zeros((BATCH, *OUTPUT[2], 2), np.float32)  # 0 is between the rows 1 and 2
    grid[..., 0] = far
    grid[1, ..., 0] = -far
    grid[2, ..., 1] = -far
    sample = functools.partial(grid_sample, image, mode=mode, padding_mode=padding_mode)
    found, pull_back = jax.vjp(sample, grid)
    (d_grid,) = pull_back(jnp.ones_like(found))
    if padding_mode == "zeros":
        assert not found.any()
        assert not d_grid.any()
        return
    weights = {"nearest": [0, 0, 1, 0], "bilinear": [0, 1 / 2, 1 / 2, 0]}
    weights = np.array(weights.get(mode, [-3 / 32, 19 / 32, 19 / 32, -3 / 32]))
    right, left, corner = weights @ image[:, -1], weights @ image[:, 0], image[0, -1]
    for place, expected in enumerate((right, left, corner, right)):
        expected = np.broadcast_to(expected, (*OUTPUT[2], 2))
        np.testing.assert_allclose(found[place], expected, rtol=0, atol=1e-6)
    assert not d_grid[..., 0].any()
    assert np.isfinite(d_grid).all()


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_huge_finite_theta_still_reflects_into_the_image(mode):
    theta = 1e30 * np.eye(2, 3)
    ones = np.ones((4, 8, 1), np.float32)
    warped = jitted_transform(ones, theta, mode=mode, padding_mode="reflection")
    np.testing.assert_allclose(warped, 1, rtol=0, atol=1e-6)


# Empty arrays


@pytest.mark.parametrize(
    ("image_shape", "grid_shape", "expected"),
    [
        ((0, 4, 8, 3), (0, 2, 5, 2), (0, 2, 5, 3)),
        ((0, 4, 8, 3), (2, 5, 2), (0, 2, 5, 3)),
        ((1, 4, 8, 3), (0, 2, 5, 2), (0, 2, 5, 3)),
        ((6, 4, 8, 3), (0, 5, 2), (6, 0, 5, 3)),
        ((4, 8, 3), (2, 0, 2), (2, 0, 3)),
        ((4, 8, 0), (7, 2, 5, 2), (7, 2, 5, 0)),
        ((0, 3, 4, 8, 1), (2, 5, 6, 3), (0, 2, 5, 6, 1)),
        ((0, 0, 3), (0, 5, 2), (0, 5, 3)),
    ],
)
def test_empty_in_empty_out(image_shape, grid_shape, expected):
    image, grid = jnp.ones(image_shape, jnp.bfloat16), jnp.ones(grid_shape)
    found = grid_sample(image, grid)
    assert (found.shape, found.dtype) == (expected, jnp.bfloat16)
    _, pull_back = jax.vjp(grid_sample, image, grid)
    d_image, d_grid = pull_back(found)
    assert (d_image.shape, d_grid.shape) == (image_shape, grid_shape)
    assert not np.any(d_image)
    assert not np.any(d_grid)


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_affine_transform_to_an_empty_shape_is_empty(rows, columns):
    warped = affine_transform(random_image(6, 4, 8, 2), np.eye(2, 3), (rows, columns))
    assert warped.shape == (6, rows, columns, 2)


# Derivatives, and other transformations of the function


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_vmap_over_any_axis_is_the_loop(axis):
    images_, grids_ = random_image(3, 4, 8, 2), random_image(3, 4, 2, 2, seed=1)
    moved = np.moveaxis(images_, 0, axis), np.moveaxis(grids_, 0, axis)
    paired = jax.jit(jax.vmap(grid_sample, in_axes=axis, out_axes=axis))(*moved)
    expected = [jitted_sample(*pair) for pair in zip(images_, grids_, strict=True)]
    np.testing.assert_allclose(paired, np.stack(expected, axis), rtol=0, atol=1e-6)
    shared = jax.jit(jax.vmap(grid_sample, (None, axis), axis))(images_[0], moved[1])
    expected = [jitted_sample(images_[0], grid) for grid in grids_]
    np.testing.assert_allclose(shared, np.stack(expected, axis), rtol=0, atol=1e-6)


def test_derivatives_agree_with_each_other_and_with_finite_differences():
    # Of bicubic, whose second derivatives are all different from zero.
    rng = np.random.default_rng(4)
    pixel = np.array([[[1.2, 0.7], [-0.4, 3.3], [6.6, -5.2], [20.1, 2.8]]])
    point = rng.normal(size=(4, 8, 2)), pixels_to_normalized(pixel, (4, 8))
    direction = tuple(rng.normal(size=part.shape) for part in point)
    weight = rng.normal(size=(1, 4, 2))

    def loss(image, grid):
        return (weight * grid_sample(image, grid, mode="bicubic", padding_mode="reflection")).sum()

    with jax.enable_x64(True):
        derivatives = jax.jit(functools.partial(jax.jvp, jax.value_and_grad(loss, (0, 1))))
        (_, gradient), (slope, curvature) = derivatives(point, direction)
        forward_and_back = sum(np.vdot(*pair) for pair in zip(gradient, direction, strict=True))
        np.testing.assert_allclose(slope, forward_and_back, rtol=1e-12)
        step = 1e-5
        near = [[p + s * d for p, d in zip(point, direction, strict=True)] for s in (-step, step)]
        (below, gradient_below), (above, gradient_above) = (
            derivatives(tuple(place), direction)[0] for place in near
        )
        np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)
        for found, low, high in zip(curvature, gradient_below, gradient_above, strict=True):
            difference = (np.asarray(high) - low) / (2 * step)
            np.testing.assert_allclose(found, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
def test_the_hessian_of_bilinear_is_the_twist_of_the_four_neighbors(outer, inner):
    image = np.float64(random_image(4, 8, 1))
    position = pixels_to_normalized([2.25, 1.5], (4, 8))
    with jax.enable_x64(True):
        hessian = jax.jit(outer(inner(lambda p: grid_sample(image, p[None, None])[0, 0, 0])))
        (a, b), (c, d) = image[1:3, 2:4, 0]
        twist = (a - b - c + d) * 4 * 2  # half the width and half the height in pixels
        expected = [[0, twist], [twist, 0]]
        np.testing.assert_allclose(hessian(position), expected, rtol=1e-12, atol=1e-12)


def test_nearest_has_no_gradient_to_the_grid():
    image, grid = random_image(4, 8, 2), random_image(BATCH, *OUTPUT[2], 2, seed=1)
    found, pull_back = jax.vjp(functools.partial(grid_sample, image, mode="nearest"), grid)
    assert not pull_back(found)[0].any()


@pytest.mark.parametrize(("rank", "align_corners"), [(2, False), (2, True), (3, False)], ids=str)
def test_at_the_identity_the_gradient_to_theta_is_the_slope_towards_the_next_pixel(
    rank, align_corners
):
    shape = EXACT_SHAPE[rank, align_corners]
    image, weight = np.random.default_rng(5).normal(size=(2, *shape, 1))
    identity = np.eye(rank, rank + 1)
    with jax.enable_x64(True):

        @jax.jit
        @jax.value_and_grad
        def loss(theta):
            return (weight * affine_transform(image, theta, align_corners=align_corners)).sum()

        value, gradient = loss(identity)
        assert np.all(gradient != 0)
        step = 2.0**-12  # less than a pixel, in which bilinear is a straight line
        for row in range(rank):
            ahead = identity.copy()
            ahead[row, rank] += step
            difference = (loss(ahead)[0] - value) / step
            np.testing.assert_allclose(gradient[row, rank], difference, rtol=1e-9)
