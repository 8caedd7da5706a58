"""Sampling grids, and conversions between normalized and pixel coordinates.

Convention
    A position in normalized coordinates is (x, y), or (x, y, z) in a volume: x runs along the
    width, y along the height (downwards), z along the depth. With ``align_corners=False`` -1 and
    1 are the outer edges of the first and last pixel; with ``align_corners=True`` they are the
    centers of these pixels. Pixel coordinates count from 0 at the center of the first pixel.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.products import lead_to


def normalized_to_pixel(
    coordinate: ArrayLike, size: Any, *, align_corners: bool = False
) -> jax.Array:
    """Converts normalized coordinates to pixel coordinates along one axis.

    Args:
      coordinate: any shape, normalized (-1 to 1 spans the axis).
      size: number of pixels along the axis.
      align_corners: whether -1 and 1 are pixel centers (True) or outer edges (False).

    Returns:
      Pixel coordinates in the same shape; 0 is the center of the first pixel.
    """
    coordinate = jnp.asarray(coordinate)
    floating = jnp.issubdtype(coordinate.dtype, jnp.floating)
    count = jnp.asarray(size).astype(coordinate.dtype if floating else float)
    if align_corners:
        return (coordinate + 1) / 2 * (count - 1)
    return ((coordinate + 1) * count - 1) / 2


def pixel_to_normalized(
    coordinate: ArrayLike, size: int, *, align_corners: bool = False
) -> jax.Array:
    """Converts pixel coordinates to normalized ones; the inverse of :func:`normalized_to_pixel`.

    An axis of a single pixel has no extent between pixel centers: with ``align_corners=True`` and
    ``size=1`` the result is 0 everywhere.
    """
    coordinate = jnp.asarray(coordinate)
    if align_corners:
        return coordinate * (2 / (size - 1)) - 1 if size > 1 else jnp.zeros_like(coordinate)
    return (2 * coordinate + 1) / size - 1


def axis_positions(size: Any, align_corners: bool) -> Any:
    """Normalized coordinates of an axis's pixel centers, in float64.

    For a symbolic size they are traced, in JAX's default float type.
    """
    symbolic = validation.is_symbolic(size)
    index = jnp.arange(size, dtype=float) if symbolic else np.arange(size, dtype=np.float64)
    if symbolic:
        size = jnp.asarray(size).astype(index.dtype)
    if align_corners:
        if symbolic:
            return jnp.where(size > 1, index * (2 / jnp.maximum(size - 1, 1)) - 1, index)
        # A single pixel is in the center, as in PyTorch.
        return index * (2 / (size - 1)) - 1 if size > 1 else index
    return (2 * index + 1) / (size if symbolic else max(size, 1)) - 1


@compiled("theta")
def affine_grid(
    theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
) -> jax.Array:
    """Builds the grid of input positions that an affine transform samples.

    The counterpart of ``torch.nn.functional.affine_grid`` and of ONNX AffineGrid; the grid
    generator of Jaderberg et al. 2015, Section 3.2. See the module's docstring for the convention.

    Args:
      theta: matrices ``[..., 2, 3]``, or ``[..., 3, 4]`` for volumes. They map *output*
        coordinates to *input* coordinates (a backward warp).
      shape: spatial shape of the output: ``(H, W)``, or ``(D, H, W)`` for volumes.
      align_corners: whether -1 and 1 are the centers (True) or the outer edges (False) of the
        corner pixels.

    Returns:
      Grid ``[..., H, W, 2]`` of (x, y), or ``[..., D, H, W, 3]`` of (x, y, z), in float32 (in
      float64 when theta is).

    Raises:
      TypeError: theta is not of a floating-point type, or shape is not a sequence of ints.
      ValueError: theta's last axes are not 2x3 or 3x4, or shape does not have as many sizes as
        theta has rows, or has a negative one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from stn_jax import affine_grid
      >>> affine_grid(jnp.array([[1.0, 0, 0], [0, 1, 0]]), (4, 4)).shape
      (4, 4, 2)
    """
    return jnp.stack(affine_coordinates(theta, shape, align_corners=align_corners), -1)


def affine_coordinates(
    theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
) -> list[jax.Array]:
    """The grid of :func:`affine_grid` as one array ``[..., *shape]`` for each of x, y (and z)."""
    theta = validation.floating("theta", theta)
    dims = validation.theta_dims(theta)
    shape = validation.spatial_shape(shape, dims)
    theta = theta.astype(validation.wide(theta.dtype))
    bases = [
        jnp.asarray(axis_positions(shape[dims - 1 - column], align_corners), theta.dtype)
        for column in range(dims)  # x is the last spatial axis
    ]
    return [_affine_combination(theta[..., row, :], *bases) for row in range(dims)]


@jax.custom_jvp
def _affine_combination(row: jax.Array, *bases: jax.Array) -> jax.Array:
    """row[0] * x + row[1] * y (+ row[2] * z) + row[-1] over the grid spanned by the bases.

    Not a matrix product (see :mod:`stn_jax.warp.products`); the slowest axis comes first, as in the
    CPU kernels.
    """
    dims = len(bases)
    total = _over_grid(row[..., dims], dims)
    for column in reversed(range(dims)):
        base = lead_to(_along_axis(bases[column], column, dims), total.ndim)
        total = total + base * _over_grid(row[..., column], dims)
    return total


@_affine_combination.defjvp
def _affine_combination_jvp(primals, tangents):
    # Linear in the row; the bases are constants. As a matrix product its transpose is one too, a
    # single pass over the gradient.
    row, *bases = primals
    dims = len(bases)
    shape = tuple(base.shape[0] for base in reversed(bases))
    columns = [
        jnp.broadcast_to(_along_axis(base, column, dims), shape).reshape(-1)
        for column, base in enumerate(bases)
    ]
    matrix = jnp.stack([*columns, jnp.ones_like(columns[0])])
    tangent = jnp.matmul(tangents[0], matrix, precision=lax.Precision.HIGHEST)
    return _affine_combination(*primals), tangent.reshape(*row.shape[:-1], *shape)


def _along_axis(base: jax.Array, column: int, dims: int) -> jax.Array:
    """An axis's positions, shaped to broadcast over the grid; column 0 (x) is the last axis."""
    return jnp.expand_dims(base, [a for a in range(dims) if a != dims - 1 - column])


def _over_grid(column: jax.Array, dims: int) -> jax.Array:
    """[...] -> [..., 1, 1], to broadcast over the spatial axes."""
    return jnp.expand_dims(column, tuple(range(-dims, 0)))
