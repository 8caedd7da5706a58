"""Convolution and pooling: plain XLA operations on accelerators, faster forms of them on CPU.

On CPU the gradients of XLA's convolution and of its window maximum run an order of magnitude
below what the machine's matrix products reach (see docs/performance.md). There both are written
as slices and products (of windows, or of their Fourier transforms), with the same parameters and,
to float rounding, the same results. The choice is made while tracing, from the shapes and the
default backend.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stn_jax.models import fourier

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")

_plain_only = False


@contextlib.contextmanager
def using_plain() -> Iterator[None]:
    """Plain XLA operations for what is traced inside, whatever the platform; for measurements."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before


def _wants_plain() -> bool:
    return _plain_only or jax.default_backend() != "cpu"


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over windows of size x size that do not overlap; what remains at the edge is cut.

    Args:
      x: ``[B, H, W, C]``.
      size: side of the window, and its stride.

    Returns:
      ``[B, H // size, W // size, C]``. Among equal values the gradient goes to the first.
    """
    if _wants_plain():
        window = (1, size, size, 1)
        # A constant, not an array: by it XLA's gradient knows a maximum from other reductions.
        return lax.reduce_window(x, -np.inf, lax.max, window, window, "VALID")
    height, width = (side // size * size for side in x.shape[1:3])
    corners = [
        x[:, i:height:size, j:width:size] for i, j in itertools.product(range(size), repeat=2)
    ]
    # The comparison with NaN keeps NaN alive.
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
        lhs.ndim == rhs.ndim == 4
        and (lhs.dtype, lhs.shape[3]) == (rhs.dtype, rhs.shape[2])
        and all(s == 1 for s in window_strides)
        and all(d == 1 for key in ("lhs_dilation", "rhs_dilation") for d in options.get(key) or ())
        and options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
        and options.get("preferred_element_type") is None
        and _is_channels_last(options.get("dimension_numbers"))
    )
    if _wants_plain() or not plain:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), padding)
    padded = [size + sum(pads) for size, pads in zip(lhs.shape[1:3], padding, strict=True)]
    fits = all(side >= kernel for side, kernel in zip(padded, rhs.shape[:2], strict=True))
    if not (fits and lhs.size and rhs.size and min(map(min, padding)) >= 0):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    return (fourier.convolution if _wants_fourier(x.shape, rhs.shape) else _tiled)(x, rhs)


def _is_channels_last(numbers: Any) -> bool:
    if isinstance(numbers, lax.ConvDimensionNumbers):
        return numbers == lax.conv_dimension_numbers((1,) * 4, (1,) * 4, _CHANNELS_LAST)
    return numbers == _CHANNELS_LAST


def _wants_fourier(shape: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Whether Fourier's way takes less than tiles do."""
    out = (shape[1] - kernel[0] + 1, shape[2] - kernel[1] + 1)
    tiles = shape[0] * out[0] * -(-out[1] // _TILE)
    products = tiles * _TILE * kernel[0] * (_TILE + kernel[1] - 1) * kernel[2] * kernel[3]
    return fourier.cost(shape[0], out, kernel) < _TILED * products


# What a product of the tiles' form costs, in those of Fourier's: its windows have to be gathered.
_TILED = 2


# Values of the input that a row of the product may hold: beyond, a row of it for each kernel row.
_LONGEST_ROW = 512
# Neighbouring outputs that are computed together.
_TILE = 4


def _tiled(x: jax.Array, kernel: jax.Array, tile: int = _TILE) -> jax.Array:
    """A convolution as a product of windows of the input with a banded matrix.

    The window under a tile of neighbouring outputs in a row overlaps itself less than the
    windows of single outputs do: fewer bytes are moved, for a few products with 0.

    Args:
      x: ``[B, H, W, C_in]``.
      kernel: ``[h, w, C_in, C_out]``.
      tile: number of neighbouring outputs to compute together.
    """
    batch, height, width, channels = x.shape
    kernel_height, kernel_width, _, features = kernel.shape
    out_height, out_width = height - kernel_height + 1, width - kernel_width + 1
    tiles = -(-out_width // tile)
    window = tile + kernel_width - 1
    x = jnp.pad(x, ((0, 0), (0, 0), (0, tiles * tile - out_width), (0, 0)))
    windows = jnp.stack([x[:, :, i * tile : i * tile + window] for i in range(tiles)], 2)
    windows = windows.reshape(batch, height, tiles, window * channels)

    offset = np.arange(window)[:, None] - np.arange(tile)
    select = (offset[..., None] == np.arange(kernel_width)).astype(kernel.dtype)
    band = jnp.einsum("wok,hkif->hwiof", select, kernel)
    band = band.reshape(kernel_height, window * channels, tile * features)
    rows = [windows[:, i : i + out_height] for i in range(kernel_height)]
    if kernel_height * window * channels <= _LONGEST_ROW:
        rows, band = [jnp.concatenate(rows, -1)], band.reshape(1, -1, tile * features)
    products = [
        row.reshape(batch * out_height * tiles, row.shape[-1]) @ part
        for row, part in zip(rows, band, strict=True)
    ]
    out = functools.reduce(jnp.add, products)
    return out.reshape(batch, out_height, tiles * tile, features)[:, :, :out_width]
