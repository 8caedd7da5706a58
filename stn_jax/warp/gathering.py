"""Rows of an array at given indices, and its transpose: sums of the rows with the same index.

JAX transposes a gather to a scatter, which on a GPU adds by atomic operations: in no fixed order,
so that the rounding differs from run to run. The ordered forms here are transposes of each other
and have no scatter: rows are sorted by their index, and summed in a tree that depends on the
indices alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from stn_jax.warp import jax_rules


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
    return _ordered_p.bind(*jax_rules.vary_alike(x, index), size=None)


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

    return _ordered_p.bind(values, index, size=size)


# Both are one primitive, linear in its first operand: size is None for rows.
_ordered_p = Primitive("ordered_gather")
_ordered_p.def_impl(functools.partial(jax_rules.run, _ordered_p))


@_ordered_p.def_abstract_eval
def _abstract(x, index, *, size):
    count = index.shape[1] if size is None else size
    shape = x.shape[0], count, x.shape[2]
    if x.sharding.mesh.empty and index.sharding.mesh.empty:
        return ShapedArray(shape, x.dtype)

    def like(x: jax.Array, index: jax.Array) -> jax.Array:
        total = x.sum(1, keepdims=True) + index.sum(1)[:, None, None].astype(x.dtype)
        return jnp.broadcast_to(total, shape)

    # By tracing, so that JAX's own rules determine the result's sharding.
    return jax.make_jaxpr(like)(x, index).out_avals[0]


def _map(args, dims, *, size):
    """Mapped over as more images; where the images are the same, as more rows of each."""
    (x, index), (of_x, of_index) = args, dims
    if of_x is None and size is None:  # the same images
        index = jnp.moveaxis(index, of_index, 1)
        found = _ordered_p.bind(x, index.reshape(index.shape[0], -1), size=None)
        return found.reshape(*index.shape, x.shape[2]), 1
    count = x.shape[of_x] if of_x is not None else index.shape[of_index]
    both = [
        jnp.broadcast_to(each[None], (count, *each.shape))
        if dim is None
        else jnp.moveaxis(each, dim, 0)
        for each, dim in zip(args, dims, strict=True)
    ]
    flat = [each.reshape(-1, *each.shape[2:]) for each in both]
    found = _ordered_p.bind(*flat, size=size)
    return found.reshape(count, -1, *found.shape[1:]), 0


def _transpose(cotangent, x, index, *, size):
    if type(cotangent) is ad.Zero:
        return [ad.Zero(x.aval), None]
    if size is None:
        return [ordered_sums(cotangent, index, x.aval.shape[1]), None]
    found = rows(cotangent, jnp.minimum(index, size - 1), ordered=True)
    return [jnp.where((index < size)[..., None], found, 0), None]


def _compute(x: jax.Array, index: jax.Array, *, size: Any) -> list[jax.Array]:
    return [_gather(x, index) if size is None else _sorted_sums(x, index, size)]


def _lower(ctx, *args, size):
    return jax_rules.lower(ctx, functools.partial(_compute, size=size), *args)


ad.defjvp(
    _ordered_p, lambda tangent, _, index, **size: _ordered_p.bind(tangent, index, **size), None
)
ad.primitive_transposes[_ordered_p] = _transpose
batching.primitive_batchers[_ordered_p] = _map
mlir.register_lowering(_ordered_p, _lower)


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
