"""The JAX primitive of sampling; its parameter is the operation that it computes.

:mod:`stn_jax.warp.operations` defines the operations. This module holds the primitive's rules for
evaluation, differentiation, vmap, sharding and lowering.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.interpreters import ad, batching, mlir

from stn_jax.warp import jax_rules
from stn_jax.warp.operations import (
    Adjoint,
    Operation,
    Sample,
    Tangent,
    adjoint,
    bind,
    select,
    tangent,
    warp_p,
)
from stn_jax.warp.sampling import Sampling

# The implementation of warps: None (the fastest for the platform), "xla" or "native" (an error if
# it is not available). For tests and benchmarks: ``with force_implementation("xla"): ...``. It is
# part of the key of jit's cache. Programs exported for CPU use "native" only if it is forced.
force_implementation = jax.make_user_context(None)


def sample(image: jax.Array, where: jax.Array, sampling: Sampling) -> jax.Array:
    """Samples an image; for the shapes see :mod:`stn_jax.warp.kernels`."""
    operation = Sample(sampling._replace(implementation=force_implementation.value))
    return bind(operation, *jax_rules.vary_alike(image, where))[0]


warp_p.def_impl(functools.partial(jax_rules.run, warp_p))


@warp_p.def_abstract_eval
def _abstract(*args, operation):
    types = operation.types(*args)
    if all(x.sharding.mesh.empty for x in args):
        return [ShapedArray(t.shape, t.dtype) for t in types]
    while type(operation) is Tangent:
        operation, args = operation.of, args[: operation.of.arguments]
    if isinstance(operation, Adjoint):
        return [x.update(weak_type=False) for x in select(args, operation.mask)]
    # By tracing, so that JAX's own rules determine the result's sharding.
    lead = len(_sampling_of(operation).lead("image", args[0]))

    def like(*args):
        sums = [x.sum(range(lead, x.ndim)) for x in args]
        total = functools.reduce(jnp.add, sums)
        return [
            jnp.broadcast_to(jnp.expand_dims(total, range(lead, len(t.shape))), t.shape)
            for t in types
        ]

    return jax.make_jaxpr(like)(*args).out_avals


def _sampling_of(operation: Operation) -> Sampling:
    while isinstance(operation, (Tangent, Adjoint)):
        operation = operation.of
    assert isinstance(operation, Sample)
    return operation.sampling


def _jvp(primals, tangents, *, operation):
    mask = tuple(type(t) is not ad.Zero for t in tangents)
    found = _linearized(operation, mask, primals, select(tangents, mask))
    return bind(operation, *primals), found


def _linearized(operation, mask, primals, tangents):
    if isinstance(operation, Sample) and mask == (True, False):
        return bind(operation, *tangents, primals[1])  # sampling is linear in the image
    return bind(tangent(operation, mask), *primals, *tangents)


def _transpose(cotangents, *args, operation):
    linear = [ad.is_undefined_primal(x) for x in args]
    cotangents = [ad.instantiate_zeros(ct) for ct in cotangents]
    if isinstance(operation, Sample):
        found = bind(adjoint(operation, linear), *map(_zeros, args), *cotangents)
    else:
        primals, rest = args[: operation.of.arguments], iter(linear[operation.of.arguments :])
        if isinstance(operation, Tangent):
            mask = [is_tangent and next(rest) for is_tangent in operation.mask]
            found = bind(adjoint(operation.of, mask), *primals, *cotangents)
        else:
            found = _linearized(operation.of, operation.mask, primals, cotangents)
    gradients = iter(found)
    return [next(gradients) if is_linear else None for is_linear in linear]


def _zeros(x: Any) -> Any:
    """Zeros for an argument to transpose with respect to, of which only the shape matters."""
    return ad.zeros_like_aval(x.aval) if ad.is_undefined_primal(x) else x


def _map(args, dims, *, operation):
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    mapped = [d is not None for d in dims]
    front = [
        jnp.expand_dims(x, 0) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    ]
    found = bind(operation, *operation.expand(front, mapped, size))
    return found, [0] * len(found)


ad.primitive_jvps[warp_p] = _jvp
ad.primitive_transposes[warp_p] = _transpose
batching.primitive_batchers[warp_p] = _map


def _lower(ctx, *args, operation, cpu):
    if cpu and (found := operation.native_call(ctx, *args)) is not None:
        return found

    def compute(*args):
        if any(isinstance(n, int) and n == 0 for x in args for n in x.shape):
            return [jnp.zeros(t.shape, t.dtype) for t in operation.types(*args)]
        return operation.compute(*args, cpu=cpu)

    return jax_rules.lower(ctx, compute, *args)


for _platform, _cpu in ((None, False), ("cpu", True)):
    mlir.register_lowering(warp_p, functools.partial(_lower, cpu=_cpu), _platform)
