"""What JAX asks of every primitive here: how it is run, and lowered by functions of JAX.

Primitives whose form is chosen at lowering share this much, whatever they compute.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.interpreters import mlir


def vary_alike(*args: jax.Array) -> list[jax.Array]:
    """Under shard_map: all vary over the mesh axes that any of them varies over.

    The transpose of the cast is the sum over devices by which the gradient to a replicated
    argument is that of all of them.
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
    """Runs a primitive on arrays: compiled, also under ``jax.disable_jit``.

    Where JAX looks for NaNs, it runs what gave one again without jit, which would come here: so
    the search is off inside, and the results are copied under its eyes.
    """
    with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
        result = _compiled(primitive, **params)(*args)
    config: Any = jax.config
    looked_for = config.jax_debug_nans or config.jax_debug_infs
    return jax.tree.map(jnp.copy, result) if looked_for else result


@functools.lru_cache(4096)
def _compiled(primitive: Any, **params: Any) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **params))


def is_partitioned(context: Any) -> bool:
    """Whether XLA is to divide a program among several devices, by its module's axis context."""
    if isinstance(context, mlir.ShardingContext):
        return context.num_devices != 1
    return set(context.manual_axes) != set(context.mesh.axis_names)


def lower(ctx: mlir.LoweringRuleContext, compute: Callable[..., Any], *args: Any) -> Any:
    """Lowers by a function of the arguments that gives a list of results.

    What is inside has no layout over a mesh: the compiler's partitioner carries it through. Types
    are kept where a program was traced with 64-bit types and is lowered without, or the reverse.
    """
    typed: Any = ctx.avals_in
    plain = ctx.replace(avals_in=[ShapedArray(x.shape, x.dtype) for x in typed])
    wide = any(x.dtype == jnp.dtype("float64") for x in typed)
    no_mesh = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with no_mesh, jax.enable_x64(wide):
        return mlir.lower_fun(compute, multiple_results=True)(plain, *args)
