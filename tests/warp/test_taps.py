"""Every form of the operations under sampling, against NumPy, and against each other."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from stn_jax import affine_transform, grid_sample
from stn_jax.warp import taps

SCATTERS = ["added", "dense"]
DOTS = ["summed", "folded", "unrolled"]
FORMS = list(itertools.product(SCATTERS, DOTS))


def arguments(batch=3, pixels=5, samples=8, channels=3, indices=2, offsets=(0, 1), seed=0):
    rng = np.random.default_rng(seed)
    shape = (batch, samples)
    index = [rng.integers(0, pixels - max(offsets), shape) for _ in range(indices)]
    index = [np.where(rng.random(shape) < 0.2, -1, i).astype(np.int32) for i in index]
    weights = [rng.normal(size=shape) for _ in range(indices * len(offsets))]
    image = rng.normal(size=(batch, pixels, channels))
    values = rng.normal(size=(*shape, channels))
    return image, values, index, weights


def numpy_gather(image, index, weights, offsets):
    out = 0
    for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
        rows = np.take_along_axis(image, (i + offset)[..., None], 1)
        out += np.where(i[..., None] < 0, 0, rows) * w[..., None]
    return out


def numpy_scatter(values, index, weights, offsets, size):
    out = np.zeros((len(values), size, values.shape[-1]))
    for (i, offset), w in zip(itertools.product(index, offsets), weights, strict=True):
        image, sample = np.nonzero(i >= 0)
        place = i[image, sample] + offset
        np.add.at(out, (image, place), (values * w[..., None])[image, sample])
    return out


def numpy_dots(values, image, index, offsets):
    return [
        np.where(i < 0, 0, (np.take_along_axis(image, (i + offset)[..., None], 1) * values).sum(-1))
        for i, offset in itertools.product(index, offsets)
    ]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 12, 21])
@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize(("scatter", "dots"), FORMS)
def test_every_form_computes_the_sums_and_their_gradients(scatter, dots, batch, channels):
    offsets = (0, 1)
    image, values, index, weights = arguments(batch, channels=channels, offsets=offsets)

    def sampled(image, weights):
        return taps.gather(image, index, weights, offsets=offsets)

    with taps.using(scatter=scatter, dots=dots):
        out, pull_back = jax.vjp(sampled, image, weights)
        to_image, to_weights = pull_back(jnp.asarray(values))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(out, numpy_gather(image, index, weights, offsets))
    close(to_image, numpy_scatter(values, index, weights, offsets, image.shape[1]))
    for found, expected in zip(to_weights, numpy_dots(values, image, index, offsets), strict=True):
        close(found, expected)


@pytest.mark.parametrize(("scatter", "dots"), FORMS)
def test_derivatives_of_any_order_and_mode(scatter, dots):
    image, _, index, weights = arguments(2, pixels=4, samples=3, channels=3)

    def nonlinear(image, weights):
        out = taps.gather(image, index, weights, offsets=(0, 1))
        return jnp.sin(out).sum()

    with taps.using(scatter=scatter, dots=dots):
        check_grads(nonlinear, (image, weights), order=3, modes=["fwd", "rev"], rtol=1e-4)


AXES = list(itertools.product([None, 0, 2], repeat=3))[1:]


@pytest.mark.parametrize("axes", AXES)
def test_mapping_is_a_loop(axes):
    """Over any of pixels, indices and weights, and over derivatives."""
    each = [arguments(2, seed=seed) for seed in range(4)]
    whole = []
    for axis, parts in zip(
        axes, ([e[0] for e in each], [e[2][0] for e in each], [e[3][0] for e in each]), strict=True
    ):
        whole.append(parts[0] if axis is None else np.stack(parts, axis))

    def all_of_it(image, i, w):
        def sampled(image, w):
            return jnp.sin(taps.gather(image, [i], [w]))

        out, pull_back = jax.vjp(sampled, image, w)
        gradients = pull_back(out)
        return (
            out,
            gradients,
            jax.jvp(lambda *a: jax.vjp(sampled, *a)[1](out), (image, w), gradients),
        )

    found = jax.vmap(all_of_it, axes)(*whole)
    for k in range(4):
        own = [
            x if axis is None else np.take(x, k, axis) for x, axis in zip(whole, axes, strict=True)
        ]
        for one, many in zip(jax.tree.leaves(all_of_it(*own)), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(many[k], one, rtol=1e-12, atol=1e-12)


def test_what_lies_behind_a_negative_index_does_not_count():
    image = np.full((1, 4, 3), np.nan)
    image[:, 1] = 2.0
    index, weight = np.array([[1, -1, -3]], np.int32), np.full((1, 3), 0.5)
    out = taps.gather(image, [index], [weight])
    np.testing.assert_array_equal(out[0], [[1.0] * 3, [0.0] * 3, [0.0] * 3])
    for form in DOTS:
        with taps.using(dots=form):
            gradient = jax.grad(lambda w: taps.gather(image, [index], [w]).sum())(weight)
        np.testing.assert_array_equal(gradient[0], [6.0, 0.0, 0.0])


def test_more_pixels_than_an_index_can_count_are_refused():
    pixels = jax.ShapeDtypeStruct((1, 2**31, 1), np.float32)
    index, weight = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match=r"2147483648 pixels.*parts of it"):
        jax.eval_shape(lambda p: taps.gather(p, [index], [weight]), pixels)


@pytest.mark.parametrize("channels", [1, 3, 10])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_margin_changes_nothing(rank, channels):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *(5, 6, 4)[:rank], channels))
    grid = rng.uniform(-1.7, 1.7, size=(2, *(3, 4, 5)[:rank], rank))
    grid[0, 0] = rng.uniform(-40, 40, grid[0, 0].shape)

    def value_and_gradients():
        out, pull_back = jax.vjp(grid_sample, image, grid)
        return out, *pull_back(jnp.cos(out))

    with taps.using(gather="margin"):
        with_margin = value_and_gradients()
    with taps.using(gather="masked"):
        masked = value_and_gradients()
    for a, b in zip(with_margin, masked, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scatter", SCATTERS)
@pytest.mark.parametrize("channels", [3, 16])
def test_forms_give_a_warp_the_same_gradients(channels, scatter):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(4, 9, 7, channels))
    theta = np.eye(2, 3) + rng.normal(size=(4, 2, 3)) / 3
    weight = rng.normal(size=image.shape)

    def gradients(image, theta):
        return jax.grad(lambda *a: (weight * affine_transform(*a)).sum(), (0, 1))(image, theta)

    usual = jax.jit(gradients)(image, theta)
    for dots in DOTS:
        with taps.using(scatter=scatter, dots=dots):
            forced = jax.jit(lambda *a: gradients(*a))(image, theta)
        for a, b in zip(usual, forced, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
