"""Max-pooling as a JAX primitive whose implementation is chosen when a program is lowered.

Max-pooling is a selection: of an array ``v`` of the shape of ``x`` it takes the values at the
maxima of ``x``. The selection is linear in ``v`` and, almost everywhere, locally constant in ``x``;
so its derivative selects the tangents, and its transpose scatters cotangents to the maxima. One
primitive represents both, and max-pooling itself selects from ``x`` by ``x``.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from stn_jax.models.cpu import native
from stn_jax.models.cpu.primitive import force_implementation
from stn_jax.warp import jax_rules

Pair = tuple[jax.Array, jax.Array]


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maximum over non-overlapping windows of size x size; a remainder at the edge is dropped.

    Args:
      x: ``[..., H, W, C]``.
      size: side of the window, and its stride.

    Returns:
      ``[..., H // size, W // size, C]``; NaN for windows that contain NaN. Among equal values the
      gradient goes to the first.
    """
    name = force_implementation.value
    return _bind(lax.stop_gradient(x), x, size=size, transposed=False, implementation=name)


def _bind(x: jax.Array, values: jax.Array, **params: Any) -> jax.Array:
    return _select_p.bind(*jax_rules.vary_alike(x, values), **params)


def _select(x: jax.Array, values: jax.Array, size: int) -> jax.Array:
    """Selection by elementwise operations, whose transpose XLA fuses."""
    height, width = (side // size * size for side in x.shape[-3:-1])

    def corner(a: jax.Array, i: int, j: int) -> jax.Array:
        return a[..., i:height:size, j:width:size, :]

    corners = [
        (corner(x, i, j), corner(values, i, j)) for i, j in itertools.product(range(size), repeat=2)
    ]

    def greater(a: Pair, b: Pair) -> Pair:
        keep = (a[0] >= b[0]) | jnp.isnan(a[0])  # NaN propagates
        return jnp.where(keep, a[0], b[0]), jnp.where(keep, a[1], b[1])

    return functools.reduce(greater, corners)[1]


def _plain(x: jax.Array, values: jax.Array, *, size: int, transposed: bool) -> jax.Array:
    select = functools.partial(_select, x, size=size)
    if not transposed:
        return select(values)
    like = jax.ShapeDtypeStruct(x.shape, values.dtype)
    (result,) = jax.linear_transpose(select, like)(values)
    return result


def _abstract(x: Any, values: Any, *, size: int, transposed: bool, implementation: Any) -> Any:
    """The type of the result: that of JAX's own operations."""
    if transposed:
        return x.update(dtype=values.dtype, weak_type=False)
    traced = jax.make_jaxpr(functools.partial(_select, size=size))(x, values)
    return traced.out_avals[0].update(weak_type=False)


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    x, values = primals
    out = _bind(x, values, **params)
    if type(tangents[1]) is ad.Zero:
        return out, ad.Zero(jax.typeof(out).to_tangent_aval())
    return out, _bind(x, tangents[1], **params)


def _transpose(cotangent: Any, x: Any, values: Any, *, transposed: bool, **params: Any) -> Any:
    if type(cotangent) is ad.Zero:
        return None, ad.Zero(values.aval)
    return None, _bind(x, cotangent, transposed=not transposed, **params)


def _batch(args: Any, axes: Any, **params: Any) -> Any:
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    front = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(args, axes, strict=True)
    ]
    return _bind(*front, **params), 0


def _lower(ctx: mlir.LoweringRuleContext, *args: Any, on_cpu: bool, **params: Any) -> Any:
    name = params.pop("implementation")
    calls_native = (
        on_cpu
        and name in (None, "native")
        and native.is_usable(ctx, required=name == "native", types=("float32",))
    )

    def compute(x: jax.Array, values: jax.Array) -> list[jax.Array]:
        if calls_native:
            return [native.select(x, values, ctx.avals_out[0].shape, **params)]
        return [_plain(x, values, **params)]

    return jax_rules.lower(ctx, compute, *args)


_select_p = Primitive("stn_max_pool")
_select_p.def_impl(functools.partial(jax_rules.run, _select_p))
_select_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_select_p] = _jvp
ad.primitive_transposes[_select_p] = _transpose
batching.primitive_batchers[_select_p] = _batch
for _platform, _on_cpu in ((None, False), ("cpu", True)):
    mlir.register_lowering(_select_p, functools.partial(_lower, on_cpu=_on_cpu), platform=_platform)
