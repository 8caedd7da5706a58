"""Pooling, with its derivatives, is XLA's own operation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import (
    POOLS,
    assert_same,
    draw,
    jit_once,
    pool_derivatives,
)

from stn_jax.models import layers


class TestMaxPool:
    @pytest.mark.parametrize(
        ("shape", "size", "dtype"),
        [
            ((2, 6, 8, 3), 2, "float32"),
            ((2, 6, 8, 3), 2, "bfloat16"),
            ((2, 6, 8, 3), 2, "float16"),
            ((2, 7, 5, 3), 2, "float32"),  # the edge is cut
            ((1, 8, 7, 2), 3, "float32"),
            ((1, 3, 2, 2), 1, "float32"),
            ((2, 1, 6, 2), 2, "float32"),  # nothing is left
        ],
    )
    def test_values_and_derivatives(self, shape, size, dtype):
        x, dx = draw(shape, shape, dtype=jnp.dtype(dtype))
        assert_same(*(pool_derivatives(pool, x, dx, size) for pool in POOLS), 0)

    def test_equal_values_send_the_gradient_to_the_first(self):
        # Every way to fill a window with these, so every pattern of ties.
        values = [-np.inf, -1.0, -0.0, 0.0, np.inf]
        windows = np.array(list(itertools.product(values, repeat=4)), np.float32)
        x = windows.reshape(-1, 2, 2, 1)
        found, expected = (
            jit_once(jax.grad(lambda x, pool=pool: pool(x).sum()))(x).reshape(-1, 4)
            for pool in POOLS
        )
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, np.eye(4)[windows.argmax(1)])

    def test_a_nan_is_the_maximum_wherever_it_stands(self):
        windows = np.array(list(itertools.product([np.nan, -1, np.inf], repeat=4)), np.float32)
        for pool in (layers.max_pool, jax.jit(layers.max_pool)):
            found = pool(windows.reshape(-1, 2, 2, 1)).ravel()
            np.testing.assert_array_equal(found, windows.max(1))

    def test_mapping(self):
        (x,) = draw((3, 2, 5, 6, 4), dtype=np.float32)
        found, expected = (
            jit_once(jax.vmap(jax.value_and_grad(lambda x, pool=pool: (pool(x) ** 2).sum())))(x)
            for pool in POOLS
        )
        assert_same(found, expected, 1e-6)
