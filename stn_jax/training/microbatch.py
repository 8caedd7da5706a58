"""Gradient accumulation: a batch's gradient as the mean of its parts', one after the other.

It needs the memory of a part alone. On a CPU it is faster, too, with images so large that the
feature maps of a whole batch do not fit into the cache (`benchmarks.microbatch`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Values of the images that a CPU takes at once, where the configuration does not say: 64 images of
# MNIST's own size.
AT_ONCE = 2**16
# But no fewer images than this, however large: the products would be too small.
FEWEST = 32


def automatic(batch_size: int, values: int) -> int:
    """How many examples to take at once where the configuration does not say.

    Args:
      batch_size: of which a divisor is chosen.
      values: numbers in an image, as the network sees it.

    Returns:
      On accelerators all. On a CPU the greatest divisor of which the images hold at most
      ``AT_ONCE`` values, or are at most ``FEWEST``; all where it is less than half of what would
      be allowed.
    """
    most = max(AT_ONCE // values, FEWEST)
    if jax.default_backend() != "cpu" or batch_size <= most:
        return batch_size
    best = max((n for n in range(1, most + 1) if batch_size % n == 0), default=1)
    return best if 2 * best > most else batch_size


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
