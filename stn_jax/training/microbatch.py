"""Gradient accumulation: a batch's gradient as the mean over its microbatches, in sequence.

It needs the memory of one microbatch. On a CPU it is also faster when the feature maps of a whole
batch do not fit into the cache (`benchmarks.microbatch`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Default limit on the pixel values in a CPU's microbatch: 64 images of 28x28, and some to spare.
MAX_VALUES = 2**16
# But at least this many images, however large: smaller matrix products are inefficient.
MIN_IMAGES = 32


def automatic_size(batch_size: int, values: int) -> int:
    """The default microbatch size.

    Args:
      batch_size: examples in a batch.
      values: numbers in an image, as the network sees it.

    Returns:
      On accelerators ``batch_size``. On a CPU its largest divisor for which the images hold at most
      ``MAX_VALUES`` values, or are at most ``MIN_IMAGES``; ``batch_size`` if that divisor is less
      than half of the limit.
    """
    most = max(MAX_VALUES // values, MIN_IMAGES)
    if jax.default_backend() != "cpu" or batch_size <= most:
        return batch_size
    best = max((n for n in range(1, most + 1) if batch_size % n == 0), default=1)
    return best if 2 * best > most else batch_size


def map_microbatches(
    fn: Callable[[Any, jax.Array], tuple[Any, Any]], batch: Any, size: int
) -> tuple[Any, Any]:
    """Applies a function to a batch's microbatches in order.

    Args:
      fn: function of a microbatch (as ``batch``, with ``[size, ...]``) and its index, an int32. It
        returns a tree to average over the microbatches, and a tree of arrays ``[size, ...]``.
      batch: tree of arrays ``[B, ...]``; ``B`` is a multiple of ``size``.
      size: examples in a microbatch.

    Returns:
      The means, and the concatenated arrays ``[B, ...]``.
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
