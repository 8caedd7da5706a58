"""Convolution and pooling by the native CPU kernels, which ``docs/native.md`` describes.

The kernels only support float32 without padding: padding is added before the call, and removed from
a gradient after it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.warp import jax_rules, native

# As in the primitive and in handlers.cc.
_INPUT, _KERNEL, _OUTPUT = range(3)
_TYPES = ("float32", "bfloat16", "float16")


def is_usable(ctx: Any, *, required: bool, types: Sequence[str] = _TYPES) -> bool:
    """Whether the operation being lowered can call the kernels.

    Args:
      ctx: the lowering rule's context.
      required: whether the caller forced the native implementation.
      types: the supported element types.

    Raises:
      RuntimeError: the kernels are required but not available.
    """
    if not required and ctx.module_context.lowering_parameters.for_export:
        return False  # an exported program runs on other machines
    if not native.available():
        if required:
            raise RuntimeError(f"the native kernels are not available: {native.status()}")
        return False
    fixed = all(isinstance(size, int) for aval in ctx.avals_in for size in aval.shape)
    # A partitioner would have to know that a kernel has no batch axis.
    whole = not jax_rules.is_partitioned(ctx.module_context.axis_context)
    return fixed and whole and str(ctx.avals_in[0].dtype) in types


def contraction(
    a: jax.Array,
    b: jax.Array,
    *,
    wanted: int,
    mapped: Sequence[tuple[bool, bool, bool]],
    padding: Sequence[tuple[int, int]],
    shape: Sequence[int],
) -> jax.Array:
    """One of input, kernel and output, from the other two.

    Args:
      a, b: the operands, in the order input, kernel, output; each with its mapped axes first.
      wanted: the result: 0 for the input, 1 for the kernel, 2 for the output.
      mapped: for each mapped axis, outermost first, whether input, kernel and output have it.
      padding: numbers of zeros added before and after, for height and for width.
      shape: the result's shape.
    """
    roles = [role for role in (_INPUT, _KERNEL, _OUTPUT) if role != wanted]
    # A mapped axis that the kernel lacks becomes part of the batch.
    batched = [axis == (True, False, True) for axis in mapped]
    order = [*np.flatnonzero(np.logical_not(batched)), *np.flatnonzero(batched)]
    kept = len(mapped) - sum(batched)

    def arrange(x: jax.Array, role: int) -> jax.Array:
        """The array with the mapped axes that are kept first, the others merged into the batch."""
        own = [i for i in range(len(mapped)) if mapped[i][role]]
        x = x.astype(jnp.float32)
        x = x.transpose(*(own.index(i) for i in order if i in own), *range(len(own), x.ndim))
        x = jnp.expand_dims(x, [k for k, i in enumerate(order[:kept]) if i not in own])
        if role != _KERNEL:
            x = x.reshape(*x.shape[:kept], math.prod(x.shape[kept:-3]), *x.shape[-3:])
        if role == _INPUT:
            x = jnp.pad(x, [(0, 0)] * (kept + 1) + [*padding, (0, 0)])
        return x

    operands = [arrange(x, role) for x, role in zip((a, b), roles, strict=True)]
    leading = np.broadcast_shapes(*(x.shape[:kept] for x in operands))
    sizes = [*shape[-4:]]
    if wanted != _KERNEL:
        other = operands[roles.index(_OUTPUT if wanted == _INPUT else _INPUT)]
        sizes[0] = other.shape[kept]
    if wanted == _INPUT:
        sizes[1:3] = [size + sum(pads) for size, pads in zip(sizes[1:3], padding, strict=True)]
    call = jax.ffi.ffi_call(native.CONVOLVE, jax.ShapeDtypeStruct((*leading, *sizes), jnp.float32))
    out = call(*operands, wanted=np.int64(wanted))

    out = out.sum([k for k, i in enumerate(order[:kept]) if not mapped[i][wanted]])
    if wanted == _INPUT:
        (top, _), (left, _) = padding
        out = out[..., top : top + shape[-3], left : left + shape[-2], :]
    own = [i for i in order if mapped[i][wanted]]
    sorted_sizes = dict(zip(sorted(own), shape, strict=False))
    out = out.reshape(*(sorted_sizes[i] for i in own), *shape[-4:])
    back = [own.index(i) for i in sorted(own)]
    return out.transpose(*back, *range(len(own), out.ndim)).astype(a.dtype)


def select(
    x: jax.Array, values: jax.Array, shape: Sequence[int], *, size: int, transposed: bool
) -> jax.Array:
    """The values at the maxima of x, or its transpose; see :mod:`stn_jax.models.cpu.pooling`."""
    call = jax.ffi.ffi_call(native.POOL, jax.ShapeDtypeStruct((*shape,), jnp.float32))
    return call(x, values, size=np.int64(size), transposed=np.int64(transposed))
