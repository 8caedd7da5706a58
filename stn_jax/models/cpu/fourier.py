"""Convolution by the Fourier transform, as matrix products: for CPU, where those are fast.

By the convolution theorem, a window of w x w values and a kernel are multiplied frequency by
frequency: w^2 / 2 complex products give all (w - k + 1)^2 outputs of a k x k kernel in the window,
each of which takes k^2 real products when computed directly. Transforms of such small windows are
products with a constant matrix, so the whole computation, and by transposition every gradient,
consists of matrix products.

References:
  Mathieu, Henaff and LeCun 2014, "Fast training of convolutional networks through FFTs"; here with
  Gauss's three real products for a complex one.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def convolution(x: jax.Array, kernel: jax.Array, tile: tuple[int, int] | None = None) -> jax.Array:
    """A convolution of stride 1 without padding, equal to ``lax.conv`` up to float rounding.

    Rounding is relative to the largest values in a window: an output that should be 0 is about
    1e-7 of them. A non-finite value affects all outputs of its window.

    Args:
      x: ``[B, H, W, C_in]``.
      kernel: ``[h, w, C_in, C_out]``.
      tile: height and width of the outputs computed from one window; None: the cheapest.

    Returns:
      ``[B, H - h + 1, W - w + 1, C_out]``.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[3]
    out_shape = (height - kernel.shape[0] + 1, width - kernel.shape[1] + 1)
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # in bfloat16 large values swamp small ones
    tile = tile or _best_tile(batch_size(batch), out_shape, kernel.shape)
    window = tuple(t + k - 1 for t, k in zip(tile, kernel.shape[:2], strict=True))
    counts = [-(-o // t) for o, t in zip(out_shape, tile, strict=True)]
    to_window, to_kernel, to_output = (
        jnp.asarray(matrix, dtype) for matrix in _matrices(window, kernel.shape[:2])
    )

    missing = [n * t - o for n, t, o in zip(counts, tile, out_shape, strict=True)]
    windows = jnp.pad(x.astype(dtype), ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    for axis in (1, 2):  # each becomes [.., tile, position in the window, ..]
        windows = _overlapping(windows, 2 * axis - 1, counts[axis - 1], tile[axis - 1])
    # [B, tiles, w, tiles, w, C] to [w w, B tiles tiles C]: positions lead, for the transform.
    windows = windows.transpose(2, 4, 0, 1, 3, 5).reshape(math.prod(window), -1)

    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    spectra = product(to_window, windows).reshape(len(to_window), -1, channels)
    kernels = product(to_kernel, kernel.astype(dtype).reshape(-1, channels * features))
    products = product(spectra, kernels.reshape(len(to_kernel), channels, features))
    out = product(to_output, products.reshape(len(to_window), -1))
    out = out.reshape(*tile, batch, *counts, features).transpose(2, 3, 0, 4, 1, 5)
    out = out.reshape(batch, counts[0] * tile[0], counts[1] * tile[1], features)
    return out[:, : out_shape[0], : out_shape[1]].astype(x.dtype)


def cost(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> float:
    """The cost of :func:`convolution`, in multiplications.

    Args:
      shape: the input's, ``(B, H, W, C_in)``.
      kernel_shape: ``(h, w, C_in, C_out)``.
    """
    batch = batch_size(shape[0])
    out_shape = (shape[1] - kernel_shape[0] + 1, shape[2] - kernel_shape[1] + 1)
    tile = _best_tile(batch, out_shape, kernel_shape)
    return _cost(batch, out_shape, kernel_shape, tile)


def kernel_cost(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> float:
    """The cost of storing the kernel's transform, which pays off for large maps only.

    It is not part of :func:`cost`, which compares implementations that all prepare a kernel.
    """
    out_shape = (shape[1] - kernel_shape[0] + 1, shape[2] - kernel_shape[1] + 1)
    tile = _best_tile(batch_size(shape[0]), out_shape, kernel_shape)
    area = math.prod(t + k - 1 for t, k in zip(tile, kernel_shape[:2], strict=True))
    return 1.5 * area * _MOVING * math.prod(kernel_shape[2:])


def batch_size(batch: Any) -> int:
    """The batch size that costs are computed for; 32 if a program is exported for any size."""
    return batch if isinstance(batch, int) else 32


# Storing a value of a transform and reading it back takes about as long as this many
# multiplications. With this constant, the tile chosen for each of fourteen layers (64 images, one
# core) was the fastest or within 10 % of it. It affects the choice of implementation only.
_MOVING = 100


def _cost(batch, out_shape, kernel_shape, tile) -> float:
    height, width, channels, features = kernel_shape
    area = (tile[0] + height - 1) * (tile[1] + width - 1)
    windows = batch * math.prod(-(-o // t) for o, t in zip(out_shape, tile, strict=True))
    each = area * channels + math.prod(tile) * features + channels * features
    moved = _MOVING * (channels + features)
    return 1.5 * area * (windows * (each + moved) + height * width * channels * features)


@functools.lru_cache
def _best_tile(batch, out_shape, kernel_shape) -> tuple[int, int]:
    """Height and width of the outputs computed from one window, at the lowest cost."""
    # Tiles that divide the output evenly, so that little of the last one is cut off.
    sides = [sorted({-(-o // n) for n in range(1, o + 1)}) for o in out_shape]
    tiles = [(h, w) for h in sides[0] for w in sides[1] if h * w <= _LARGEST_TILE]
    return min(tiles, key=lambda t: _cost(batch, out_shape, kernel_shape, t))


# The most outputs of a window: beyond, the matrices would be as large as the maps.
_LARGEST_TILE = 256


def _overlapping(x: jax.Array, axis: int, count: int, step: int) -> jax.Array:
    """Splits an axis of ``count * step + more`` into ``count`` windows of ``step + more``."""
    length = x.shape[axis] - (count - 1) * step
    parts = [lax.slice_in_dim(x, i * step, i * step + length, axis=axis) for i in range(count)]
    return jnp.stack(parts, axis)


@functools.lru_cache
def _matrices(window: tuple[int, int], kernel: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """The transforms of window, kernel and product: ``[M, w w]``, ``[M, k k]``, ``[o o, M]``.

    ``to_output @ ((to_window @ x) * (to_kernel @ k))`` is the correlation of x with k at all
    positions where the kernel lies within the window.
    """
    indices = np.indices(window).reshape(2, -1).T
    mirrored = -indices % window
    # Of each pair of conjugate frequencies one is enough, counted twice.
    order = [tuple(a) <= tuple(b) for a, b in zip(indices, mirrored, strict=True)]
    frequencies, twice = indices[order], (indices != mirrored).any(1)[order]

    def waves(shape):
        turns = frequencies / window @ np.indices(shape).reshape(2, -1)
        return np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)

    outputs = tuple(w - k + 1 for w, k in zip(window, kernel, strict=True))
    weight = np.where(twice, 2, 1)[:, None] / len(indices)
    (x_re, x_im), (k_re, k_im), (o_re, o_im) = map(waves, (window, kernel, outputs))
    x_im = -x_im  # a correlation: the kernel's transform is conjugated, the window's is not
    o_re, o_im = o_re * weight, o_im * weight
    # X K = (a - c) + i (a + b) with a = K_re (X_re + X_im), b = X_re (K_im - K_re),
    # c = X_im (K_re + K_im); a real frequency (its own conjugate) needs X_re K_re alone.
    to_window = [x_re[~twice], (x_re + x_im)[twice], x_re[twice], x_im[twice]]
    to_kernel = [k_re[~twice], k_re[twice], (k_im - k_re)[twice], (k_re + k_im)[twice]]
    to_output = [o_re[~twice], (o_re - o_im)[twice], -o_im[twice], -o_re[twice]]
    return np.concatenate(to_window), np.concatenate(to_kernel), np.concatenate(to_output).T
