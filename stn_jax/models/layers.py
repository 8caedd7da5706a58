"""Convolution and pooling: plain XLA operations on accelerators, faster forms of them on CPU.

On CPU the gradients of XLA's convolution and of its window maximum run an order of magnitude
below what the machine's matrix products reach (see docs/performance.md). There both are written
as products and slices, with the same parameters and, to float rounding, the same results. The
choice is made while tracing, from the shapes and the default backend.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over windows of size x size that do not overlap; what remains at the edge is cut.

    Args:
      x: ``[B, H, W, C]``.
      size: side of the window, and its stride.

    Returns:
      ``[B, H // size, W // size, C]``. Among equal values the gradient goes to the first.
    """
    if jax.default_backend() != "cpu":
        window = (1, size, size, 1)
        lowest = jnp.array(-jnp.inf, x.dtype)
        return lax.reduce_window(x, lowest, lax.max, window, window, "VALID")
    height, width = (side // size * size for side in x.shape[1:3])
    corners = [
        x[:, i:height:size, j:width:size] for i, j in itertools.product(range(size), repeat=2)
    ]
    # The not-a-number case keeps NaN alive, as the window maximum does.
    return functools.reduce(lambda a, b: jnp.where((a >= b) | jnp.isnan(a), a, b), corners)


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
        (stride 1, not dilated, one group, channels last) take the fast way.

    Returns:
      ``[B, H_out, W_out, C_out]``.
    """
    plain = (
        lhs.ndim == 4
        and all(s == 1 for s in window_strides)
        and all(d == 1 for key in ("lhs_dilation", "rhs_dilation") for d in options.get(key) or ())
        and options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
        and options.get("preferred_element_type") is None
        and _is_channels_last(options.get("dimension_numbers"))
    )
    if jax.default_backend() != "cpu" or not plain:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), padding)
    if any(before or after for before, after in padding):
        lhs = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    return _conv(lhs, rhs)


def _is_channels_last(numbers: Any) -> bool:
    if isinstance(numbers, lax.ConvDimensionNumbers):
        return numbers == lax.conv_dimension_numbers((1,) * 4, (1,) * 4, _CHANNELS_LAST)
    return numbers == _CHANNELS_LAST


@jax.custom_jvp
def _conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 'VALID' convolution of stride 1."""
    return _banded(x, kernel) if _band_is_dense(x, kernel) else _plain(x, kernel)


@functools.partial(_conv.defjvp, symbolic_zeros=True)
def _conv_jvp(primals, tangents):
    # A convolution is linear in either argument. What is written here is what reverse mode
    # transposes, so each term takes the form whose transpose is fast.
    x, kernel = primals
    dx, dkernel = tangents
    tangent = jnp.zeros(())
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        by_input = _banded if _band_is_dense(x, kernel) else _patches if x.shape[3] < 8 else _plain
        tangent = tangent + by_input(dx, kernel)
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        by_kernel = _banded if _band_is_dense(x, kernel) else _patches
        tangent = tangent + by_kernel(x, dkernel)
    out = _conv(x, kernel)
    return out, jnp.broadcast_to(tangent, out.shape).astype(out.dtype)


def _band_is_dense(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether the band holds few zeros, and its product is large enough to be worth building."""
    return x.shape[2] <= 3 * kernel.shape[1] and x.shape[3] >= 8


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_CHANNELS_LAST)


def _banded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As one product per kernel row, of whole image rows with a banded matrix."""
    batch, height, width, channels = x.shape
    kernel_height, kernel_width, _, features = kernel.shape
    out_height, out_width = height - kernel_height + 1, width - kernel_width + 1
    offset = np.arange(width)[:, None] - np.arange(out_width)
    select = (offset[..., None] == np.arange(kernel_width)).astype(x.dtype)
    band = jnp.einsum("wok,hkif->hwiof", select, kernel).reshape(
        kernel_height, width * channels, out_width * features
    )
    rows = x.reshape(batch, height, width * channels)
    products = [
        rows[:, i : i + out_height].reshape(batch * out_height, -1) @ band[i]
        for i in range(kernel_height)
    ]
    out = functools.reduce(jnp.add, products)
    return out.reshape(batch, out_height, out_width, features)


def _patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As one product of all patches with the kernel."""
    batch, height, width, _ = x.shape
    kernel_height, kernel_width, _, features = kernel.shape
    out_height, out_width = height - kernel_height + 1, width - kernel_width + 1
    patches = jnp.stack(
        [
            x[:, i : i + out_height, j : j + out_width]
            for i in range(kernel_height)
            for j in range(kernel_width)
        ],
        axis=3,
    )
    out = patches.reshape(batch * out_height * out_width, -1) @ kernel.reshape(-1, features)
    return out.reshape(batch, out_height, out_width, features)
