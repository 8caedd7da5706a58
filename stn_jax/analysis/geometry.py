"""Where the positions of a feature map lie in the image, and thetas in a map's own coordinates."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.warp import affine

# What float32 may leave of a derivative that should be 0, relative to the largest.
_ROUNDING = 1e-5


class Geometry(NamedTuple):
    """Where the positions of a feature map lie in the image; (along H, along W), in pixels.

    Position i of the map is centred on pixel ``offset + stride * i`` (0: the centre of the first
    pixel) and depends on the ``field`` pixels about it.
    """

    stride: tuple[float, float]
    offset: tuple[float, float]
    field: tuple[float, float]


def map_theta(
    theta: ArrayLike, geometry: Geometry, shape: Sequence[int], map_shape: Sequence[int]
) -> jax.Array:
    """Rewrites a theta of the image so that it does the same to a feature map.

    The map's normalised coordinates have their origin and unit where the map does. A translation
    by a tenth of the image is one by an eighth of a map that covers 80 % of it.

    Args:
      theta: ``[..., 2, 3]``, in the image's coordinates.
      geometry: where the map's positions lie.
      shape: spatial shape of the image, (H, W).
      map_shape: spatial shape of the map, (h, w).

    Returns:
      ``[..., 2, 3]``, in the map's coordinates.
    """
    return conjugate(theta, map_to_image(geometry, shape, map_shape))


def conjugate(theta: ArrayLike, window: ArrayLike) -> jax.Array:
    """A theta of the image in the coordinates of a window on it, see :func:`map_to_image`."""
    return affine.compose(affine.invert(window), theta, window)


def map_to_image(geometry: Geometry, shape: Sequence[int], map_shape: Sequence[int]) -> np.ndarray:
    """The map as a sampling window: the theta from its coordinates to the image's."""
    stride, offset, side, map_side = (
        np.array(each[::-1], np.float64)  # to (x, y)
        for each in (geometry.stride, geometry.offset, tuple(shape), tuple(map_shape))
    )
    centre = offset + stride * (map_side - 1) / 2
    scale, shift = stride * map_side / side, (2 * centre + 1) / side - 1
    return np.column_stack([np.diag(scale), shift]).astype(np.float32)


def checked(geometry: Geometry | None, name: str) -> Geometry:
    """The geometry given for a depth of this name, as floats; ValueError where it is none."""
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
    """Finds out which pixels each position of a feature map depends on.

    Reads them off the derivative of each position by the image, where that is more than rounding,
    for images of noise. Positions whose field the image's edge cuts off tell less, so a network
    with padding whose receptive field is about as large as the image cannot be measured: give a
    geometry.

    Args:
      features: differentiable JAX function from ``[B, H, W, C]`` to one map ``[B, h, w, c]``.
      shape: of one image, (H, W, C).

    Returns:
      The :class:`Geometry` on images of this shape.

    Raises:
      ValueError: it cannot be told, or there is none: the positions do not lie on a regular grid,
        or depend on the whole image (as with a normalisation over the map).
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
    # A lone position has no neighbour at any distance.
    stride = max(np.diff(low).max(), np.diff(high).max()) if count > 1 else side
    # The edge cuts fields off, and so raises what is lowest and lowers what is highest.
    first, last = (low - stride * index).min(), (high - stride * index).max()
    told = count == 1 or ((low > 0).any() and (high < side - 1).any())
    regular = (low == np.maximum(first + stride * index, 0)).all() and (
        high == np.minimum(last + stride * index, side - 1)
    ).all()
    if not (touched.any(1).all() and told and regular):
        fields = ", ".join(f"{a}-{b}" for a, b in zip(low[:6], high[:6], strict=True))
        raise ValueError(
            f"the geometry of a map with {count} positions on {side} pixels cannot be measured "
            f"(they depend on pixels {fields}{', ...' if count > 6 else ''}): give geometry="
        )
    return float(stride), float(first + last) / 2, float(last - first + 1)
