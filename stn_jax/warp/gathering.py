"""Rows of an array at given indices, and its transpose: sums of the rows with the same index.

JAX transposes a gather to a scatter, which on a GPU adds by atomic operations: in no fixed order,
so that the rounding differs from run to run. The ordered forms here are transposes of each other
and have no scatter: rows are sorted by their index, and summed in a tree that depends on the
indices alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import linear_call


def rows(x: jax.Array, index: jax.Array, *, ordered: bool = False) -> jax.Array:
    """``x[b, index[b, n]]``.

    Args:
      x: ``[I, P, C]``.
      index: int32 ``[I, N]``, from 0 to P - 1.
      ordered: whether derivatives of any order are sums in a fixed order.

    Returns:
      ``[I, N, C]``.
    """
    if not ordered:
        return _gather(x, index)
    size = x.shape[1]
    return linear_call(
        lambda index, x: _gather(x, index),
        lambda index, cotangent: ordered_sums(cotangent, index, size),
        index,
        x,
    )


def ordered_sums(values: jax.Array, index: jax.Array, size: Any) -> jax.Array:
    """The sums of the rows with each index, in a fixed order.

    Args:
      values: ``[I, N, C]``.
      index: int32 ``[I, N]``; rows whose index is ``size`` or more are dropped.
      size: the number of sums.

    Returns:
      ``[I, size, C]``.

    Raises:
      ValueError: N is not known before the program runs.
    """
    if not isinstance(values.shape[1], int):
        raise ValueError(
            f"deterministic=True needs to know the number of samples; found {values.shape[1]}"
        )

    def transpose(index: jax.Array, cotangent: jax.Array) -> jax.Array:
        found = rows(cotangent, jnp.minimum(index, size - 1), ordered=True)
        return jnp.where((index < size)[..., None], found, 0)

    return linear_call(
        lambda index, values: _sorted_sums(values, index, size), transpose, index, values
    )


def _gather(x: jax.Array, index: jax.Array) -> jax.Array:
    return lax.gather(
        x,
        index[..., None],
        lax.GatherDimensionNumbers((2,), (1,), (1,), (0,), (0,)),
        (1, 1, x.shape[2]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def _sorted_sums(values: jax.Array, index: jax.Array, size: Any) -> jax.Array:
    number = lax.broadcasted_iota(jnp.int32, index.shape, 1)
    index, order = lax.sort((index, number), dimension=1, num_keys=1, is_stable=True)
    new = jnp.concatenate([jnp.ones_like(index[:, :1], bool), index[:, 1:] != index[:, :-1]], 1)

    def add(left: Any, right: Any) -> Any:
        (new_left, total_left), (new_right, total_right) = left, right
        total = jnp.where(new_right, total_right, total_left + total_right)
        return new_left | new_right, total

    # The sum of each row and those before it with the same index.
    _, totals = lax.associative_scan(add, (new[..., None], _gather(values, order)), axis=1)
    wanted = jnp.arange(size, dtype=jnp.int32)
    last = jax.vmap(lambda index: jnp.searchsorted(index, wanted, side="right"))(index) - 1
    last = jnp.maximum(last, 0).astype(jnp.int32)
    exists = jnp.take_along_axis(index, last, 1) == wanted[None]
    return jnp.where(exists[..., None], _gather(totals, last), 0)
