"""Splines against SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import stn_jax
from stn_jax.warp.splines import SPLINE_MODES

# Programs are compiled for each, which is where the time goes.
SHAPES = {1: (21,), 2: (20, 23), 3: (20, 21, 22)}
ORDERS = {1: range(6), 2: (3,), 3: (2,)}


@functools.partial(jax.jit, static_argnames=("order", "mode", "prefilter"))
def interpolate(x, where, order, mode, prefilter=True):
    return stn_jax.map_coordinates(x, where, order, mode=mode, cval=0.7, prefilter=prefilter)


def test_wrapped_coordinates_of_whole_periods():
    x = np.arange(4.0)
    where = np.array([[-6.0, -3, -1, 0, 3, 4, 6, 9]])
    expected = ndimage.map_coordinates(x, where, order=1, mode="wrap")
    np.testing.assert_allclose(interpolate(np.float32(x), where, 1, "wrap"), expected, atol=1e-6)


def draw(shape, count=40, seed=0):
    """Samples, and coordinates that also lie far outside."""
    rng = np.random.default_rng(seed)
    sizes = np.array(shape)[:, None]
    where = rng.uniform(-1.3 * sizes, 2.3 * sizes, (len(shape), count))
    # Exact in float32 too, so that it is the interpolation that is compared there.
    return rng.normal(size=shape), np.round(1024 * where) / 1024


@pytest.mark.thin
@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("mode", SPLINE_MODES)
def test_values_are_scipys(mode, rank):
    x, where = draw(SHAPES[rank])
    for order in ORDERS[rank]:
        expected = ndimage.map_coordinates(x, where, order=order, mode=mode, cval=0.7)
        with jax.enable_x64(True):
            found = interpolate(x, where, order, mode)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10, err_msg=str(order))
    if rank == 2:
        found = interpolate(np.float32(x), np.float32(where), order, mode)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thin("mirror-5", "reflect-4", "grid-wrap-5")
@pytest.mark.parametrize(
    ("mode", "order"), [*((mode, 5) for mode in SPLINE_MODES), ("mirror", 2), ("reflect", 4)]
)
def test_coefficients_are_scipys(mode, order):
    x, where = draw(SHAPES[2])
    coefficients = ndimage.spline_filter(x, order, mode=mode)
    with jax.enable_x64(True):
        found = stn_jax.spline_filter(x, order, mode=mode)
        np.testing.assert_allclose(found, coefficients, rtol=0, atol=1e-10)
        found = interpolate(coefficients, where, order, mode, prefilter=False)
    expected = ndimage.map_coordinates(
        coefficients, where, order=order, mode=mode, cval=0.7, prefilter=False
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    found = stn_jax.spline_filter(np.float32(x), order, mode=mode)
    np.testing.assert_allclose(found, coefficients, rtol=1e-5, atol=1e-5)


@pytest.mark.thin("reflect", "grid-wrap", "nearest")
@pytest.mark.parametrize("mode", SPLINE_MODES)
def test_splines_meet_their_samples_however_few(mode):
    """SciPy's do not under "reflect": its start of the recursion uses what it has changed."""
    for size, order in ((1, 3), (2, 5), (5, 4)):
        x = np.random.default_rng(size).normal(size=size)
        with jax.enable_x64(True):
            found = interpolate(x, np.arange(size)[None], order, mode)
        np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)


@pytest.mark.thin("nearest-3", "mirror-1")
@pytest.mark.parametrize(
    ("mode", "order"), [*((mode, 3) for mode in SPLINE_MODES), ("mirror", 1), ("mirror", 2)]
)
def test_derivatives(order, mode):
    """Forward and reverse, against differences in float64."""
    rng = np.random.default_rng(order)
    x, where = rng.normal(size=(5, 6)), rng.uniform(0.2, 3.8, (2, 7))
    directions = [rng.normal(size=a.shape) for a in (x, where)]

    @jax.jit
    def loss(x, where):
        return jnp.sin(interpolate(x, where, order, mode)).sum()

    @jax.jit
    def both(x, where, *directions):
        return jax.jvp(loss, (x, where), directions)[1], jax.grad(loss, (0, 1))(x, where)

    with jax.enable_x64(True):
        forward, gradients = both(x, where, *directions)
        reverse = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        step = 1e-6
        up, down = (
            loss(*(a + s * step * d for a, d in zip((x, where), directions, strict=True)))
            for s in (1, -1)
        )
        slope = (up - down) / (2 * step)
    np.testing.assert_allclose(forward, slope, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(reverse, forward, rtol=1e-9)


def test_the_slope_at_a_whole_coordinate_is_that_towards_the_next():
    x = jnp.array([0.0, 1, 3, 7])
    slope = jax.grad(lambda c: stn_jax.map_coordinates(x, [c[None]], 1).sum())
    assert [float(slope(jnp.float32(c))) for c in (0, 1, 2)] == [1, 2, 4]


def test_coordinates_that_are_no_numbers():
    x = jnp.arange(12.0).reshape(3, 4)
    where = jnp.array([[1.0, jnp.nan, 0.5], [1.0, 1.0, jnp.inf]])
    found = stn_jax.map_coordinates(x, where, 3, mode="nearest")
    assert np.isnan(found).tolist() == [False, True, False]
    to_x = jax.grad(lambda x: jnp.nansum(stn_jax.map_coordinates(x, where, 1)))(x)
    assert np.isfinite(to_x).all()


def test_types_and_sizes():
    for dtype in ("float16", "bfloat16", "float32"):
        found = stn_jax.map_coordinates(jnp.ones((5, 5), dtype), jnp.ones((2, 3, 4)), 3)
        assert (found.dtype, found.shape) == (jnp.dtype(dtype), (3, 4))
        np.testing.assert_allclose(np.float32(found), 1, atol=1e-5)
    assert stn_jax.map_coordinates(jnp.ones((5, 0)), jnp.ones((2, 0)), 3).shape == (0,)
    assert stn_jax.spline_filter(jnp.ones((5, 0))).shape == (5, 0)
    four = stn_jax.map_coordinates(jnp.ones((2, 3, 2, 3)), jnp.ones((4, 5)), 1, mode="mirror")
    np.testing.assert_allclose(four, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, c: stn_jax.map_coordinates(x, c, 6), "order is 6; expected an int from 0 to 5"),
        (lambda x, c: stn_jax.map_coordinates(x, c, 1, mode="zeros"), "mode is 'zeros'"),
        (lambda x, c: stn_jax.map_coordinates(x, c[:1], 1), "coordinates has 1 arrays"),
        (lambda x, c: stn_jax.map_coordinates(x[:0], c, 1), "there is no sample"),
        (lambda x, c: stn_jax.spline_filter(x, mode="zeros"), "mode is 'zeros'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((5, 5)), jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="input has type int32"):
        stn_jax.map_coordinates(jnp.ones((5, 5), jnp.int32), jnp.ones((2, 3)), 1)
