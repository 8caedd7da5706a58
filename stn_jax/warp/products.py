"""Products of small matrices, multiplied and added by hand.

A matrix product would be rounded to TF32 on NVIDIA GPUs and to bfloat16 on TPUs by default, which
moves samples by visible fractions of a pixel.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product of ``[..., n, k]`` and ``[..., k, m]``; leading axes broadcast."""
    a, b = same_rank(a, b)
    terms = [a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1])]
    return functools.reduce(jnp.add, terms)


def same_rank(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Arrays with axes of size 1 in front, so that both have as many: no rank is promoted."""
    rank = max(a.ndim, b.ndim)
    return lead_to(a, rank), lead_to(b, rank)


def lead_to(x: jax.Array, rank: int) -> jax.Array:
    """An array with axes of size 1 in front, until it has ``rank`` axes."""
    return x if x.ndim == rank else jnp.expand_dims(x, tuple(range(rank - x.ndim)))


def stack_rows(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """A matrix ``[..., n, m]`` of entries ``[...]``, all of one shape."""
    return jnp.stack([jnp.stack(list(row), -1) for row in rows], -2)
