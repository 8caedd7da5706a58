"""Antialiased resampling: where the warp shrinks the image, kernels are widened accordingly.

Along one axis, an output pixel at position x that is s input pixels wide is the sum of the input
pixels i with weights k((i - x) / max(s, 1)), normalized to a sum of 1. Here k is the kernel of the
mode: the triangle ("bilinear"), or Keys' cubic with a = -0.5 ("bicubic"), as in PIL, PyTorch's
antialiased resizing and ``jax.image.resize``.

Padding
    "border": only pixels of the image have weights. "zeros": the same, multiplied by the fraction
    of the output pixel ``[x - s / 2, x + s / 2]`` inside the image; the rest is the fill.
    "reflection": the image continues mirrored at its edges.

General affine transforms take two steps. Let A be the matrix in pixels and s_i the norm of its row
i. The image is resampled along its own axes by s_i, to a resolution of ``OVERSAMPLING`` times that
of the output. The intermediate image is then sampled bilinearly by the rest of A, which no longer
shrinks. For a pure scaling, the sampled positions are pixels of the intermediate image.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax.warp import validation
from stn_jax.warp.grid import normalized_to_pixel
from stn_jax.warp.products import lead_to
from stn_jax.warp.sampling import Sampling

# The resolution of a general transform's intermediate image relative to the output. At 1, rotated
# content would be blurred by two interpolations.
OVERSAMPLING = 2

_REACH = {"bilinear": 1, "bicubic": 2}


def resample(
    image: jax.Array,
    starts: Sequence[jax.Array],
    steps: Sequence[jax.Array],
    widths: Sequence[jax.Array],
    shape: Sequence[int],
    *,
    mode: str,
    padding_mode: str,
    outside: jax.Array | None,
) -> jax.Array:
    """Resamples an image along its axes.

    Args:
      image: ``[..., *S, C]``.
      starts: for each spatial axis, the position ``[...]`` of the first output pixel, in pixels.
      steps: for each spatial axis, the distance ``[...]`` of adjacent output pixels, in pixels.
      widths: for each spatial axis, the width ``[...]`` of an output pixel, in pixels; at least 0.
      shape: the output's spatial shape.
      mode: "bilinear" or "bicubic".
      padding_mode: see the module's docstring.
      outside: the fill; None: 0.

    Returns:
      ``[..., *shape, C]``, in float32 or wider.
    """
    check_mode(mode)
    dtype = validation.wide(image.dtype, *(x.dtype for x in starts))
    dims = len(starts)
    lead = jnp.broadcast_shapes(image.shape[: -1 - dims], *(x.shape for x in starts))
    result = lead_to(image.astype(dtype), len(lead) + dims + 1)
    total = jnp.ones((1,) * (len(lead) + dims), dtype)
    for axis in range(dims):
        size = image.shape[axis - 1 - dims]
        index = jnp.arange(shape[axis], dtype=dtype)
        start, step, width = (
            lead_to(x[axis].astype(dtype)[..., None], len(lead) + 1)
            for x in (starts, steps, widths)
        )
        x = start + step * lead_to(index, len(lead) + 1)
        weights, covered = _axis_weights(x, width, size, mode, padding_mode)
        result = _contract(result, weights, axis - dims)
        covered = jnp.expand_dims(covered, [a for a in range(-dims, 0) if a != axis - dims])
        total = total * covered
    if padding_mode != "zeros":
        return result
    # NaN pixels whose weight is 0 must not propagate.
    kept = jnp.where(total[..., None] > 0, result, 0) * total[..., None]
    kept = jnp.where(jnp.isnan(total[..., None]), total[..., None], kept)
    if outside is None:
        return kept
    return kept + (1 - total[..., None]) * lead_to(outside.astype(dtype), kept.ndim)


def check_mode(mode: str) -> None:
    """Raises ValueError for modes that antialiasing does not support."""
    if mode not in _REACH:
        raise ValueError(f"mode is {mode!r}; with antialias=True expected {' or '.join(_REACH)}")


def prefilter(
    image: jax.Array, theta: jax.Array, sampling: Sampling, outside: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The intermediate image of an affine transform, and the remaining theta.

    The theta maps output positions to the intermediate image, with ``align_corners=False``; all of
    them lie inside it.
    """
    dims, shape = sampling.num_spatial_dims, sampling.shape
    assert shape is not None
    dtype = validation.wide(image.dtype, theta.dtype)
    theta = theta.astype(dtype)
    sizes = image.shape[-1 - dims : -1]
    corners = sampling.align_corners
    centers, steps, rows = [], [], []
    diagonal = OVERSAMPLING * math.sqrt(sum(size**2 for size in shape))
    inner = []  # the intermediate image's shape; centered, with the output's pixels among its own
    for axis in range(dims):
        row = theta[..., dims - 1 - axis, :]  # x is the last axis
        half = (sizes[axis] - 1 if corners else sizes[axis]) / 2
        # From output pixels to input pixels, along this axis of the input.
        slope = [
            row[..., k] * (half * 2 / _extent(shape[dims - 1 - k], corners)) for k in range(dims)
        ]
        norm = _norm(slope) / OVERSAMPLING
        count = OVERSAMPLING * (shape[axis] - 1) + 1
        count += 2 * math.ceil(max(0.0, diagonal - count) / 2) + 2
        inner.append(count)
        centers.append(normalized_to_pixel(row[..., dims], sizes[axis], align_corners=corners))
        steps.append(norm)
        # From normalized output coordinates to those of the intermediate image.
        safe = jnp.where(norm > 0, norm, 1)
        factors = [s / safe * (shape[dims - 1 - k] / count) for k, s in enumerate(slope)]
        rows.append(jnp.stack([*factors, jnp.zeros_like(norm)], -1))
    smooth = resample(
        image,
        [c - s * ((n - 1) / 2) for c, s, n in zip(centers, steps, inner, strict=True)],
        steps,
        [s * OVERSAMPLING for s in steps],
        inner,
        mode=sampling.mode,
        padding_mode=sampling.padding_mode,
        outside=outside,
    )
    return smooth, jnp.stack(rows[::-1], -2)


def _extent(size: int, align_corners: bool) -> int:
    """The number of output pixels from -1 to 1; 1 for a single pixel, which is in the center."""
    return max(size - 1, 1) if align_corners else max(size, 1)


def _norm(values: Sequence[jax.Array]) -> jax.Array:
    """The Euclidean norm; its gradient at 0 is 0. NaN if a value is NaN."""
    squares = sum(v * v for v in values)
    assert isinstance(squares, jax.Array)
    zero = squares <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _axis_weights(
    x: jax.Array, width: jax.Array, size: int, mode: str, padding_mode: str
) -> tuple[jax.Array, jax.Array]:
    """Weights ``[..., out, size]`` of the pixels, and fractions ``[..., out]`` inside the image."""
    low, high = -0.5, size - 0.5
    covered = _overlap(x, width, low, high) if padding_mode == "zeros" else jnp.ones_like(x)
    if padding_mode == "reflection":
        x = size - jnp.abs(jnp.mod(jnp.abs(x - low), 2 * size) - size) + low
    else:
        x = lax.clamp(jnp.asarray(low, x.dtype), x, jnp.asarray(high, x.dtype))
    pixel = lead_to(jnp.arange(size, dtype=x.dtype), x.ndim + 1)
    wide = jnp.maximum(width, 1)[..., None]
    images = [pixel]
    if padding_mode == "reflection":
        images += [-1 - pixel, 2 * size - 1 - pixel]
    weights = sum(_kernel((image - x[..., None]) / wide, mode) for image in images)
    assert isinstance(weights, jax.Array)
    return weights / weights.sum(-1, keepdims=True), covered


def _overlap(x: jax.Array, width: jax.Array, low: float, high: float) -> jax.Array:
    """The fraction of ``[x - width / 2, x + width / 2]`` inside ``[low, high]``."""
    # A pixel of width 0 is either inside or outside.
    width = jnp.maximum(width, jnp.asarray(jnp.finfo(x.dtype).eps, x.dtype))
    inside = jnp.minimum(x + width / 2, high) - jnp.maximum(x - width / 2, low)
    return jnp.clip(inside / width, 0, 1)


def _kernel(distance: jax.Array, mode: str) -> jax.Array:
    d = jnp.abs(distance)
    if mode == "bilinear":
        return jnp.maximum(1 - d, 0)
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    return jnp.where(d < 1, near, jnp.where(d < 2, far, 0))


def _contract(image: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """Applies weights ``[..., out, size]`` along a spatial axis, -1 being the last one."""
    position: Any = axis - 1
    moved = jnp.moveaxis(image, position, -2)
    lead = moved.ndim - 2
    extra = lead - (weights.ndim - 2)
    weights = jnp.expand_dims(weights, tuple(range(weights.ndim - 2, weights.ndim - 2 + extra)))
    product = jnp.matmul(weights, moved, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(product, -2, position)
