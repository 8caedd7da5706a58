"""Gradient accumulation: a batch's gradient as the mean of its parts', one after the other.

It needs the memory of a part alone. On a CPU it is faster, too, where a part's feature maps fit
into the cache and a whole batch's do not (docs/performance.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Examples at once on a CPU, where the configuration does not say.
ON_CPU = 64


def automatic(batch_size: int) -> int:
    """The size of the parts where the configuration does not say."""
    fits = jax.default_backend() == "cpu" and batch_size % ON_CPU == 0
    return ON_CPU if fits else batch_size


def in_parts(
    fn: Callable[[Any, jax.Array], tuple[Any, Any]], batch: Any, size: int
) -> tuple[Any, Any]:
    """Calls a function of a batch on its parts, in order.

    Args:
      fn: function of a part (as ``batch``, with ``[size, ...]``) and its number, an int32, to a
        tree whose means over the parts are wanted, and a tree of arrays ``[size, ...]``.
      batch: tree of arrays ``[B, ...]``; ``B`` is a multiple of ``size``.
      size: of the parts.

    Returns:
      The means, and the arrays of all parts, ``[B, ...]``.
    """
    total = len(jax.tree.leaves(batch)[0])
    count = total // size
    if count == 1:
        return fn(batch, jnp.int32(0))
    parts = jax.tree.map(lambda x: x.reshape(count, size, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    means, _ = jax.eval_shape(fn, first, jnp.int32(0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), means)

    def add(sums: Any, part: tuple[Any, jax.Array]) -> tuple[Any, Any]:
        values, kept = fn(*part)
        return jax.tree.map(jnp.add, sums, values), kept

    sums, kept = jax.lax.scan(add, zeros, (parts, jnp.arange(count, dtype=jnp.int32)))
    means = jax.tree.map(lambda x: x / count, sums)
    return means, jax.tree.map(lambda x: x.reshape(total, *x.shape[2:]), kept)
