"""Positions of feature maps in the image, and conversion of thetas to a map's coordinates."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.warp import affine

# Derivatives below this fraction of the largest count as 0.
_ROUNDING = 1e-5


class Geometry(NamedTuple):
    """The positions of a feature map in the image; (along H, along W), in pixels.

    Position i of the map is centered on pixel ``offset + stride * i`` (0: the center of the first
    pixel) and depends on ``field`` pixels around it.
    """

    stride: tuple[float, float]
    offset: tuple[float, float]
    field: tuple[float, float]


def map_theta(
    theta: ArrayLike, geometry: Geometry, shape: Sequence[int], map_shape: Sequence[int]
) -> jax.Array:
    """Converts a theta of the image to the same transform in a feature map's coordinates.

    The origin and unit of normalized coordinates depend on the map's extent: a translation by a
    tenth of the image is one by an eighth of a map that covers 80 % of it.

    Args:
      theta: ``[..., 2, 3]``, in the image's coordinates.
      geometry: the map's geometry.
      shape: spatial shape of the image, (H, W).
      map_shape: spatial shape of the map, (h, w).

    Returns:
      ``[..., 2, 3]``, in the map's coordinates.
    """
    return conjugate(theta, map_to_image(geometry, shape, map_shape))


def conjugate(theta: ArrayLike, to_image: ArrayLike) -> jax.Array:
    """A theta of the image in the coordinates that ``to_image`` maps to the image's."""
    return affine.compose(affine.invert(to_image), theta, to_image)


def map_to_image(geometry: Geometry, shape: Sequence[int], map_shape: Sequence[int]) -> np.ndarray:
    """The theta ``[2, 3]`` from a map's normalized coordinates to the image's."""
    stride, offset, side, map_side = (
        np.array(each[::-1], np.float64)  # to (x, y)
        for each in (geometry.stride, geometry.offset, tuple(shape), tuple(map_shape))
    )
    center = offset + stride * (map_side - 1) / 2
    scale, shift = stride * map_side / side, (2 * center + 1) / side - 1
    return np.column_stack([np.diag(scale), shift]).astype(np.float32)


def check_geometry(geometry: Geometry | None, name: str) -> Geometry:
    """The geometry of a depth, as floats. Raises ValueError if it is missing or invalid."""
    if geometry is None:
        raise ValueError(f"geometry has no entry for depth {name}; give one, or None to measure")
    pairs = np.asarray(geometry, np.float64)
    if pairs.shape != (3, 2) or not np.isfinite(pairs).all() or not (pairs[[0, 2]] > 0).all():
        raise ValueError(
            f"geometry is {geometry}; expected stride, offset and field, each a pair (along H, "
            "along W), stride and field positive"
        )
    return Geometry(*(tuple(pair) for pair in pairs.tolist()))


def measure_geometry(features: Callable[[jax.Array], Any], shape: Sequence[int]) -> Geometry:
    """Measures which pixels each position of a feature map depends on.

    These are the pixels with nonzero derivatives, for images of noise. Receptive fields are
    truncated at the image's edge, so a network with padding whose receptive field is about as large
    as the image cannot be measured.

    Args:
      features: differentiable JAX function from ``[B, H, W, C]`` to one map ``[B, h, w, c]``.
      shape: shape of one image, (H, W, C).

    Returns:
      The :class:`Geometry` for images of this shape.

    Raises:
      ValueError: the geometry cannot be determined: the positions are not on a regular grid, or
        depend on the whole image (as with a normalization over the map).
    """
    random = np.random.default_rng(0)
    noise = jnp.asarray(random.normal(size=(4, *shape)), jnp.float32)
    result = jax.eval_shape(features, noise)
    rows, columns = result.shape[1:3]
    weights = jnp.asarray(random.normal(size=result.shape), result.dtype)
    # Each row of the map, then each of its columns.
    lines = np.zeros((rows + columns, rows, columns, 1), bool)
    lines[np.arange(rows), np.arange(rows)] = True
    lines[rows + np.arange(columns), :, np.arange(columns)] = True

    @jax.jit
    def dependence(noise: jax.Array) -> jax.Array:
        _, pull_back = jax.vjp(features, noise)

        def pixels(line: jax.Array) -> jax.Array:
            (slope,) = pull_back(jnp.where(line, weights, 0))
            size = jnp.abs(slope)
            return (size > _ROUNDING * size.max()).any((0, 3))

        return jax.lax.map(pixels, jnp.asarray(lines))

    touched = np.asarray(dependence(noise))
    along = _fit(np.any(touched[:rows], 2)), _fit(np.any(touched[rows:], 1))
    return Geometry(*zip(*along, strict=True))


def _fit(touched: np.ndarray) -> tuple[float, float, float]:
    """Stride, offset and field from which pixels [side] each position [n] depends on."""
    count, side = touched.shape
    index = np.arange(count)
    low, high = touched.argmax(1), side - 1 - touched[:, ::-1].argmax(1)
    # With a single position the stride is arbitrary.
    stride = max(np.diff(low).max(), np.diff(high).max()) if count > 1 else side
    # Truncation at the edges raises the lower ends and lowers the upper ends.
    first, last = (low - stride * index).min(), (high - stride * index).max()
    determined = count == 1 or ((low > 0).any() and (high < side - 1).any())
    regular = (low == np.maximum(first + stride * index, 0)).all() and (
        high == np.minimum(last + stride * index, side - 1)
    ).all()
    if not (touched.any(1).all() and determined and regular):
        fields = ", ".join(f"{a}-{b}" for a, b in zip(low[:6], high[:6], strict=True))
        raise ValueError(
            f"the geometry of a map with {count} positions on {side} pixels cannot be measured "
            f"(they depend on pixels {fields}{', ...' if count > 6 else ''}): pass geometry="
        )
    return float(stride), float(first + last) / 2, float(last - first + 1)
