"""Convolution as products of windows with a banded matrix: for CPU and few channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.models.cpu.fourier import counted

# Values of the input that a row of the product may hold: beyond, a row of it for each kernel row.
_LONGEST_ROW = 512
# Neighbouring outputs that are computed together.
_TILE = 4


def convolution(x: jax.Array, kernel: jax.Array, tile: int = _TILE) -> jax.Array:
    """A convolution of stride 1 without padding, equal to ``lax.conv`` up to float rounding.

    The window under a tile of neighbouring outputs in a row overlaps itself less than the
    windows of single outputs do: fewer bytes are moved, for a few products with 0.

    Args:
      x: ``[B, H, W, C_in]``.
      kernel: ``[h, w, C_in, C_out]``.
      tile: number of neighbouring outputs to compute together.

    Returns:
      ``[B, H - h + 1, W - w + 1, C_out]``.
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


def cost(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> float:
    """What :func:`convolution` costs, in multiplications of the Fourier form.

    Args:
      shape: the input's, ``(B, H, W, C_in)``.
      kernel_shape: ``(h, w, C_in, C_out)``.
    """
    height, width, channels, features = kernel_shape
    out_height, out_width = shape[1] - height + 1, shape[2] - width + 1
    tiles = counted(shape[0]) * out_height * -(-out_width // _TILE)
    return _GATHERING * tiles * _TILE * height * (_TILE + width - 1) * channels * features


# What a product costs here, in those of the Fourier form: its windows have to be gathered.
_GATHERING = 2
