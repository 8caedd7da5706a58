"""Rules that JAX requires of the primitives here: evaluation, and lowering by JAX functions.

Shared by all primitives whose implementation is chosen at lowering.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.interpreters import mlir


def vary_alike(*args: jax.Array) -> list[jax.Array]:
    """Under shard_map, casts all arrays to vary over the mesh axes that any of them varies over.

    The transpose of the cast sums over devices, as the gradient to a replicated argument requires.
    """
    union = frozenset[Any]().union(*(_varying(x) for x in args))
    return [
        jax.lax.pcast(x, tuple(missing), to="varying") if (missing := union - _varying(x)) else x
        for x in args
    ]


def _varying(x: jax.Array) -> frozenset[Any]:
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)  # before jax 0.10.2: vma
    return kind.vma if manual is None else manual.varying


def run(primitive: Any, *args: jax.Array, **params: Any) -> Any:
    """Evaluates a primitive on arrays: compiled, even under ``jax.disable_jit``.

    With jax_debug_nans, JAX runs a function that returned NaN again without jit, which would call
    this one again. The check is therefore off inside, and applied to copies of the results.
    """
    with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
        result = _compiled(primitive, **params)(*args)
    config: Any = jax.config
    checked = config.jax_debug_nans or config.jax_debug_infs
    return jax.tree.map(jnp.copy, result) if checked else result


@functools.lru_cache(4096)
def _compiled(primitive: Any, **params: Any) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **params))


def is_partitioned(context: Any) -> bool:
    """Whether XLA is to divide a program among several devices, by its module's axis context."""
    if isinstance(context, mlir.ShardingContext):
        return context.num_devices != 1
    return set(context.manual_axes) != set(context.mesh.axis_names)


def lower(ctx: mlir.LoweringRuleContext, compute: Callable[..., Any], *args: Any) -> Any:
    """Lowers to a function of the arguments that returns a list of results.

    The function is traced without a mesh; the compiler's partitioner propagates shardings through
    it. Types are kept even if x64 is set differently when tracing and when lowering.
    """
    typed: Any = ctx.avals_in
    plain = ctx.replace(avals_in=[ShapedArray(x.shape, x.dtype) for x in typed])
    wide = any(x.dtype == jnp.dtype("float64") for x in typed)
    no_mesh = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with no_mesh, jax.enable_x64(wide):
        return mlir.lower_fun(compute, multiple_results=True)(plain, *args)
