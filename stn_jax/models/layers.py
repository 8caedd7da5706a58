"""Convolution and pooling: XLA's operations on accelerators, faster implementations on CPU.

On CPU the gradients of XLA's convolution and window maximum reach a tenth of the speed of its
matrix products (see docs/performance.md). There, both call native kernels; without these, a
convolution is computed as matrix products of windows or of their Fourier transforms, and pooling
consists of elementwise operations (:mod:`stn_jax.models.cpu`), with the same parameters and the
same results up to rounding. The implementation is chosen when a program is lowered, for the
platform it is lowered for. On accelerators pooling consists of elementwise operations, too.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stn_jax.models import cpu
from stn_jax.models.cpu import force_implementation

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over non-overlapping windows of size x size; a remainder at the edge is dropped.

    Args:
      x: ``[B, H, W, C]``.
      size: side of the window, and its stride.

    Returns:
      ``[B, H // size, W // size, C]``. Among equal values the gradient goes to the first.
    """
    if force_implementation.value == "lax":
        window = (1, size, size, 1)
        # A Python constant: JAX recognizes a maximum, and its gradient, by the initial value.
        return lax.reduce_window(x, -np.inf, lax.max, window, window, "VALID")
    return cpu.max_pool(x, size)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """``lax.conv_general_dilated``, faster on CPU; fits ``flax.linen.Conv(conv_general_dilated=)``.

    Args:
      lhs: input ``[B, H, W, C_in]``.
      rhs: kernel ``[h, w, C_in, C_out]``.
      window_strides, padding, **options: as in ``lax.conv_general_dilated``. Plain convolutions
        (stride 1, no dilation, one group, channels last) use the faster implementation.

    Returns:
      ``[B, H_out, W_out, C_out]``.
    """
    plain = (
        lhs.ndim == rhs.ndim == 4
        and (lhs.dtype, lhs.shape[3]) == (rhs.dtype, rhs.shape[2])
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and all(s == 1 for s in window_strides)
        and all(d == 1 for key in ("lhs_dilation", "rhs_dilation") for d in options.get(key) or ())
        and options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
        and options.get("preferred_element_type") is None
        and options.get("out_sharding") is None
        and _is_channels_last(options.get("dimension_numbers"))
    )
    if not plain:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), padding)
    padded = [size + sum(pads) for size, pads in zip(lhs.shape[1:3], padding, strict=True)]
    fits = all(side >= kernel for side, kernel in zip(padded, rhs.shape[:2], strict=True))
    empty = 0 in (*lhs.shape, *rhs.shape)
    if not fits or empty or min(map(min, padding)) < 0:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    return cpu.convolution(lhs, rhs, padding, options.get("precision"))


def _is_channels_last(numbers: Any) -> bool:
    if isinstance(numbers, lax.ConvDimensionNumbers):
        return numbers == lax.conv_dimension_numbers((1,) * 4, (1,) * 4, _CHANNELS_LAST)
    return numbers == _CHANNELS_LAST
