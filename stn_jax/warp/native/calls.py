"""Calls of the native kernels, in programs that are lowered for CPU."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters import mlir

from stn_jax.warp import jax_rules, native
from stn_jax.warp.sampling import Sampling


def sample(ctx: Any, sampling: Sampling, image: Any, where: Any) -> Any:
    """The samples; None if plain JAX must compute them."""
    if not _is_usable(ctx, sampling):
        return None
    return _call(ctx, native.SAMPLE, sampling, image, where)


def adjoint(
    ctx: Any, sampling: Sampling, wanted: Sequence[bool], image: Any, where: Any, cotangent: Any
) -> Any:
    """The wanted gradients, to the image and to where; None as for :func:`sample`."""
    if not _is_usable(ctx, sampling):
        return None
    if not wanted[1]:
        # Only the image's shape matters, which is also the result's. The cotangent takes its place,
        # so that XLA need not keep the image for the backward pass.
        image = cotangent
        ctx = ctx.replace(avals_in=[ctx.avals_in[2], *ctx.avals_in[1:]])
    gradients = {"image_gradient": wanted[0], "where_gradient": wanted[1]}
    return _call(ctx, native.ADJOINT, sampling, image, where, cotangent, **gradients)


def _is_usable(ctx: Any, sampling: Sampling) -> bool:
    choice, module = sampling.implementation, ctx.module_context
    if choice == "xla" or (choice is None and module.lowering_parameters.for_export):
        return False
    if not native.available():
        if choice == "native":
            raise RuntimeError(f"the native kernels are not available: {native.status()}")
        return False
    image, where = ctx.avals_in[:2]
    if not native.supports(sampling.mode, sampling.num_spatial_dims, image.dtype):
        return False
    # The partitioner divides leading axes, which all operands must have.
    whole = sampling.lead("image", image) == sampling.lead("where", where)
    return whole or not jax_rules.is_partitioned(module.axis_context)


def _call(ctx: Any, target: str, sampling: Sampling, *operands: Any, **flags: bool) -> Any:
    attributes = {
        "rank": sampling.num_spatial_dims,  # named as in programs exported by earlier versions
        "theta": sampling.shape is not None,
        "mode": native.MODES.index(sampling.mode),
        "padding": native.PADDING_MODES.index(sampling.padding_mode),
        "align_corners": sampling.align_corners,
        **flags,
    }
    lead = len(sampling.lead("where", ctx.avals_in[1]))
    extra = {}
    if jax_rules.is_partitioned(ctx.module_context.axis_context):
        extra["mhlo.frontend_attributes"] = mlir.ir_attribute({"num_batch_dims": str(lead)})
        extra["sdy.sharding_rule"] = _sharding_rule(ctx, lead)
    rule = jax.ffi.ffi_lowering(target, extra_attributes=extra)
    return rule(ctx, *operands, **{name: np.int64(value) for name, value in attributes.items()})


def _sharding_rule(ctx: Any, lead: int) -> Any:
    """The sharding rule for Shardy: all operands and results share their leading axes."""
    sizes: list[int] = []

    def axes(avals: Sequence[Any]) -> str:
        shown = []
        for aval in avals:
            own = range(len(sizes), len(sizes) + aval.ndim - lead)
            sizes.extend(aval.shape[lead:])
            shown.append("[" + ", ".join(map(_factor, [*range(lead), *own])) + "]")
        return ", ".join(shown)

    sizes.extend(ctx.avals_in[1].shape[:lead])
    operands, results = axes(ctx.avals_in), axes(ctx.avals_out)
    factors = ", ".join(f"{_factor(k)}={size}" for k, size in enumerate(sizes))
    text = f"#sdy.op_sharding_rule<({operands})->({results}) {{{factors}}}, custom>"
    return mlir.ir.Attribute.parse(text, context=ctx.module_context.context)


def _factor(k: int) -> str:
    """The k-th of Shardy's factor names: i to z, then z_1, z_2, ..."""
    letters = "ijklmnopqrstuvwxyz"
    return letters[k] if k < len(letters) else f"z_{k - len(letters) + 1}"
