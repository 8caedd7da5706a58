"""Dropout: how much, scaled how, and masks that are an example's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.models.dropout import Dropout, numbered


def dropped(x, rate=0.25, seed=0):
    return Dropout(rate).apply({}, x, True, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fraction_is_dropped_and_the_rest_scaled_up(dtype):
    x = jnp.ones((40, 30, 20), dtype)
    found = dropped(x)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    kept = np.asarray(found != 0)
    np.testing.assert_array_equal(np.asarray(found[kept], np.float32), np.float32(dtype(1 / 0.75)))
    # Four standard deviations of a mean of 24,000, and of those of 600 and of 40.
    assert abs(kept.mean() - 0.75) < 0.011
    assert np.abs(kept.mean((1, 2)) - 0.75).max() < 0.071
    assert np.abs(kept.mean(0) - 0.75).max() < 0.35


def test_examples_and_values_have_masks_that_differ():
    found = np.asarray(dropped(jnp.ones((50, 64)), 0.5)) != 0
    agreement = (found[:, None] == found).mean(-1)[np.triu_indices(50, 1)]
    assert abs(agreement.mean() - 0.5) < 0.02
    assert agreement.max() < 0.85
    assert (found != np.asarray(dropped(jnp.ones((50, 64)), 0.5, seed=1))).mean() > 0.4


@pytest.mark.parametrize("size", [1, 3, 6])
def test_a_part_has_the_masks_of_the_whole(size):
    x = jnp.ones((6, 5, 4))
    whole = dropped(x)
    for start in range(0, 6, size):
        with numbered(jnp.arange(start, start + size)):
            part = dropped(x[start : start + size])
        np.testing.assert_array_equal(part, whole[start : start + size])


def test_evaluation_and_a_rate_of_0_drop_nothing():
    x = jnp.full((2, 3), jnp.nan)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x), x)
    np.testing.assert_array_equal(dropped(x, 0.0), x)
    np.testing.assert_array_equal(dropped(x, 1.0), 0)


def test_its_gradient_is_its_mask():
    x = jax.random.normal(jax.random.key(1), (4, 6))
    gradient = jax.grad(lambda x: dropped(x).sum())(x)
    np.testing.assert_allclose(gradient, dropped(jnp.ones_like(x)))
