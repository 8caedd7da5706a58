"""Products of small matrices, as explicit multiplications and additions.

By default a matrix product is rounded to TF32 on NVIDIA GPUs and to bfloat16 on TPUs, which would
move samples by visible fractions of a pixel.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product of ``[..., n, k]`` and ``[..., k, m]``; leading axes broadcast."""
    a, b = same_ndim(a, b)
    terms = [a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1])]
    return functools.reduce(jnp.add, terms)


def same_ndim(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adds leading axes of size 1, so that both arrays have the same number of axes."""
    ndim = max(a.ndim, b.ndim)
    return lead_to(a, ndim), lead_to(b, ndim)


def lead_to(x: jax.Array, ndim: int) -> jax.Array:
    """Adds leading axes of size 1, up to ``ndim`` axes."""
    return x if x.ndim == ndim else jnp.expand_dims(x, tuple(range(ndim - x.ndim)))


def stack_rows(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """A matrix ``[..., n, m]`` of entries ``[...]``, all of the same shape."""
    return jnp.stack([jnp.stack(list(row), -1) for row in rows], -2)
