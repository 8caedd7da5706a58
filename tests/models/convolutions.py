"""Convolutions and pooling, ours and XLA's, and their derivatives, for the tests of layers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stn_jax.models import layers

NUMBERS = ("NHWC", "HWIO", "NHWC")
# Image [B, H, W, C], kernel [h, w, C, features] and a padding. Which form each takes is not the
# tests' business, but together they should take all of them and all their branches: few channels
# and many, narrow maps and wide ones, kernels of one pixel, of all of the map, oblong and even.
SHAPES = [
    ((2, 9, 9, 1), (3, 3, 1, 4)),
    ((2, 7, 8, 9), (3, 5, 9, 4)),
    ((2, 6, 17, 8), (3, 2, 8, 2)),
    ((1, 5, 12, 3), (2, 4, 3, 1)),
    ((3, 4, 5, 10), (4, 5, 10, 3)),
    ((2, 4, 6, 2), (1, 1, 2, 5)),
    ((2, 9, 12, 32), (5, 5, 32, 6)),
    ((9, 9, 8, 32), (5, 4, 32, 20)),
]
PADDINGS = [
    "VALID",
    "SAME",
    "VALID",
    ((2, 1), (0, 3)),
    "SAME",
    ((0, 1), (0, 0)),
    "VALID",
    "SAME_LOWER",
]


def name_of(value: Any) -> str:
    """A name of shapes, a padding or options for a test's."""
    if isinstance(value, tuple) and all(len(part) > 2 for part in value):
        return "-".join("x".join(map(str, shape)) for shape in value)
    return str(value).replace(" ", "")


def each(name: str, values: Any) -> Any:
    return pytest.mark.parametrize(name, values, ids=name_of)


# Each function is compiled for a single run: to optimize it would take most of the time.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(*shapes: tuple[int, ...], dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(map(sum, shapes)))
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def ours(x, kernel, padding="VALID", strides=(1, 1), **options):
    options = {"dimension_numbers": NUMBERS, **options}
    return layers.conv_general_dilated(x, kernel, strides, padding, **options)


def theirs(x, kernel, padding="VALID", strides=(1, 1), **options):
    options = {"dimension_numbers": NUMBERS, **options}
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Equal trees, to the tolerance times each leaf's largest entry."""

    def check(path, a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=str(path))

    jax.tree.map_with_path(check, found, expected)


def first_order(conv: Callable, x, kernel, *, alone: bool = True) -> dict[str, Any]:
    """Value, gradients and directional derivatives, to both arguments and to each alone."""
    shape = jax.eval_shape(conv, x, kernel).shape
    cotangent, dx, dkernel = draw(shape, x.shape, kernel.shape, dtype=x.dtype)

    @jit_once
    def compute(x, kernel):
        found = {
            "value": conv(x, kernel),
            "to both": jax.vjp(conv, x, kernel)[1](cotangent),
            "along both": jax.jvp(conv, (x, kernel), (dx, dkernel))[1],
        }
        if alone:
            of_x, of_kernel = (lambda x: conv(x, kernel)), (lambda kernel: conv(x, kernel))
            found |= {
                "to x": jax.vjp(of_x, x)[1](cotangent),
                "to kernel": jax.vjp(of_kernel, kernel)[1](cotangent),
                "along x": jax.jvp(of_x, (x,), (dx,))[1],
                "along kernel": jax.jvp(of_kernel, (kernel,), (dkernel,))[1],
            }
        return found

    return compute(x, kernel)


def second_order(conv: Callable, x, kernel) -> dict[str, Any]:
    """Products of a Hessian with a direction, reverse over reverse and forward over reverse."""
    direction = tuple(draw(x.shape, kernel.shape))

    def gradient(*args):
        return jax.grad(lambda x, kernel: (conv(x, kernel) ** 2).sum(), (0, 1))(*args)

    def along_direction(*args):
        return sum(jnp.vdot(g, d) for g, d in zip(gradient(*args), direction, strict=True))

    @jit_once
    def compute(*args):
        return {
            "reverse": jax.grad(along_direction, (0, 1))(*args),
            "forward": jax.jvp(gradient, args, direction)[1],
        }

    return compute(x, kernel)


def value_and_gradients(conv: Callable, x, kernel, cotangent) -> tuple[jax.Array, ...]:
    @jit_once
    def compute(*args):
        value, pull_back = jax.vjp(conv, *args)
        return value, *pull_back(cotangent)

    return compute(x, kernel)


def reduce_window(x: jax.Array, size: int = 2) -> jax.Array:
    window = (1, size, size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


POOLS = (layers.max_pool, reduce_window)


def pool_derivatives(pool: Callable, x, dx, size: int) -> dict[str, Any]:
    def gradient(x):
        return jax.grad(lambda x: (pool(x, size).astype(jnp.float32) ** 2).sum())(x)

    @jit_once
    def compute(x, dx):
        value, along = jax.jvp(lambda x: pool(x, size), (x,), (dx,))
        return {
            "value": value,
            "along": along,
            "gradient": gradient(x),
            "reverse": jax.grad(lambda x: (gradient(x) * dx).astype(jnp.float32).sum())(x),
            "forward": jax.jvp(gradient, (x,), (dx,))[1],
        }

    return compute(x, dx)
