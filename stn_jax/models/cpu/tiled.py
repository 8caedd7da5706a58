"""Convolution as products of windows with a banded matrix, for CPU and few channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.models.cpu.fourier import batch_size

# The most input values in a row of the product; beyond, each kernel row is a separate product.
_LONGEST_ROW = 512
# The number of adjacent outputs that are computed together.
_TILE = 4


def convolution(x: jax.Array, kernel: jax.Array, tile: int = _TILE) -> jax.Array:
    """A convolution of stride 1 without padding, equal to ``lax.conv`` up to float rounding.

    Adjacent outputs of a row are computed together, from one window. Such windows overlap less than
    those of single outputs: fewer bytes are moved, at the price of a few products with 0.

    Args:
      x: ``[B, H, W, C_in]``.
      kernel: ``[h, w, C_in, C_out]``.
      tile: number of adjacent outputs to compute together.

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
    """The cost of :func:`convolution`, in multiplications of the Fourier implementation.

    Args:
      shape: the input's, ``(B, H, W, C_in)``.
      kernel_shape: ``(h, w, C_in, C_out)``.
    """
    height, width, channels, features = kernel_shape
    out_height, out_width = shape[1] - height + 1, shape[2] - width + 1
    tiles = batch_size(shape[0]) * out_height * -(-out_width // _TILE)
    return _GATHERING * tiles * _TILE * height * (_TILE + width - 1) * channels * features


# The cost of a product here, in products of the Fourier implementation; windows are gathered first.
_GATHERING = 2
