"""The equivariance error of feature maps under affine transformations of the image.

A transformer that warps a feature map to undo a transformation of the image relies on
``T^-1 Gamma T f = Gamma f``: the maps (Gamma) of the transformed image (T f), transformed back, are
the maps of the image. By Equation (1) and Figure 1 of arXiv 2001.05858 this fails in general, since
a warp moves values in space but leaves each in its channel. :func:`equivariance_error` measures by
how much, for any feature extractor and any affine transformations. A depth with a small error for
the transformations to be undone is suitable for a transformer.

Convention
    Thetas are those of :mod:`stn_jax.warp.affine` (``align_corners=False``), in the *image's*
    normalized coordinates. A map has its own coordinates: its positions need not cover the image
    (without padding they cover less), so a theta is converted before it warps a map
    (:func:`stn_jax.analysis.geometry.map_theta`). This needs a :class:`Geometry`, which is measured
    if it is not given.

Valid positions
    The error is computed over the interior, where no value depends on anything outside the image.
    A position is valid if

    - the square of half-side ``margin`` (pixels) about its center is within the image,
    - after the transformation too: it holds only pixels that T took from within the image,
    - and, warped back, it is interpolated only from such positions of the map.

    The default margin is half the receptive field, which is exact but leaves little of deep maps.
    If T continues the images beyond their edges correctly (digits on a uniform background, and
    ``padding_mode`` "border"), ``margin=0`` is valid as well: it only considers the centers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.analysis.geometry import (
    Geometry,
    check_geometry,
    conjugate,
    map_to_image,
    measure_geometry,
)
from stn_jax.warp import affine, affine_grid, affine_transform

# A function from images to a map or to several maps (a mapping or sequence); or several functions.
Features = Callable[[jax.Array], Any] | Mapping[str, Callable] | Sequence[Callable]

# Tolerances for float32 rounding of a normalized position and of an interpolation weight.
_POSITION_ROUNDING, _WEIGHT_ROUNDING = 1e-5, 1e-3


class Family(NamedTuple):
    """Transformations of one kind."""

    name: str  # with the range: "rotation by 15 to 90 degrees"
    values: np.ndarray  # [K]
    thetas: jax.Array  # [K, 2, 3]


class Comparison(NamedTuple):
    """The maps of the images, and those of the transformed images, warped back."""

    maps: jax.Array  # [B, h, w, C]: Gamma f
    returned: jax.Array  # [B, h, w, C]: T^-1 Gamma T f
    interior: jax.Array  # [h, w], bool: the valid positions
    error: jax.Array  # [B], see EquivarianceError
    resampling: jax.Array  # [B]


class EquivarianceError(NamedTuple):
    """Equivariance errors for D depths, K transformations and B images.

    A relative error is the L2 norm of the difference divided by that of Gamma f, over the interior
    and all channels; NaN if no position is valid. Orthogonal maps of equal norm have 2 ** 0.5.

    Attributes:
      depths: names, ``D`` of them.
      error: ``[D, K, B]``, of T^-1 Gamma T f.
      resampling: ``[D, K, B]``, of T^-1 T Gamma f: the error of two interpolations alone. An error
        well above it is due to the network.
      counted: ``[D, K]``, the fraction of the map's positions that are valid.
    """

    depths: tuple[str, ...]
    error: np.ndarray
    resampling: np.ndarray
    counted: np.ndarray


def rotations(degrees: ArrayLike | Sequence[float], shape: Sequence[int] = (1, 1)) -> Family:
    """Rotations by ``degrees`` ``[K]``, counter-clockwise, for images of ``shape`` (H, W)."""
    degrees = np.asarray(degrees)
    thetas = affine.rotation(degrees, aspect=shape[1] / shape[0])
    return Family(f"rotation by {_span(degrees)} degrees", degrees, thetas)


def translations(
    pixels: ArrayLike | Sequence[float],
    shape: Sequence[int],
    direction: Sequence[float] = (1.0, 0.0),
) -> Family:
    """Translations by ``pixels`` ``[K]`` times ``direction`` (x, y), for ``shape`` (H, W)."""
    pixels = np.asarray(pixels)
    shift = -2 * pixels[:, None] * np.asarray(direction) / np.array([shape[1], shape[0]])
    return Family(f"translation by {_span(pixels)} pixels", pixels, affine.translation(shift))


def scalings(factors: ArrayLike | Sequence[float]) -> Family:
    """Magnifications by ``factors`` ``[K]`` (below 1 they shrink)."""
    factors = np.asarray(factors)
    thetas = affine.scaling(1 / np.stack([factors] * 2, -1))
    return Family(f"scaling by {_span(factors)}", factors, thetas)


def _span(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def equivariance_error(
    features: Features,
    images: ArrayLike,
    thetas: ArrayLike,
    *,
    geometry: Geometry | Mapping[str, Geometry] | None = None,
    margin: float | None = None,
    padding_mode: str = "zeros",
) -> EquivarianceError:
    """Measures by how much Eq. (1) of arXiv 2001.05858 fails for a network.

    See the module's docstring for the coordinates and for valid positions.

    Args:
      features: function from images ``[B, H, W, C]`` to a feature map ``[B, h, w, c]``, or to a
        mapping or sequence of maps by depth; or a mapping or sequence of functions. It is not
        jitted here.
      images: ``[B, H, W, C]``, floating point.
      thetas: ``[K, 2, 3]``, each from transformed to original positions.
      geometry: geometry of all maps, or a mapping by name (a sequence's names are "0", "1", ...);
        None: measured by :func:`measure_geometry`.
      margin: minimum distance in pixels between valid positions and the image's edge; None: half
        the receptive field.
      padding_mode: how the transformation continues the images.

    Returns:
      :class:`EquivarianceError`.

    Raises:
      TypeError: images are not floating point.
      ValueError: the shapes do not match, a theta has no inverse, margin is negative, geometry
        lacks a depth or cannot be measured.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from stn_jax.analysis.equivariance import equivariance_error, rotations
      >>> images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
      >>> slopes = lambda x: x[:, :, 1:] - x[:, :, :-1]  # change sign under a half turn
      >>> result = equivariance_error(slopes, images, rotations([180.0]).thetas)
      >>> result.error.shape, bool((abs(result.error - 2) < 1e-5).all())
      ((1, 1, 2), True)
    """
    thetas = np.asarray(thetas, np.float32)
    if thetas.ndim != 3 or thetas.shape[1:] != (2, 3) or not len(thetas):
        raise ValueError(f"thetas have shape {thetas.shape}; expected [K, 2, 3], K at least 1")
    compare = _prepare(features, images, geometry, margin, padding_mode)
    results = [compare(theta) for theta in thetas]
    depths = tuple(results[0])

    def gather(read: Callable[[Comparison], jax.Array]) -> np.ndarray:
        return np.stack([[np.asarray(read(each[depth])) for each in results] for depth in depths])

    return EquivarianceError(
        depths,
        error=gather(lambda each: each.error),
        resampling=gather(lambda each: each.resampling),
        counted=gather(lambda each: each.interior.mean()),
    )


def compare(
    features: Features,
    images: ArrayLike,
    theta: ArrayLike,
    *,
    geometry: Geometry | Mapping[str, Geometry] | None = None,
    margin: float | None = None,
    padding_mode: str = "zeros",
) -> dict[str, Comparison]:
    """Both sides of Eq. (1) as feature maps, for one theta ``[2, 3]``.

    The arguments and exceptions are those of :func:`equivariance_error`, for one theta.

    Returns:
      A :class:`Comparison` by the name of the depth.
    """
    return _prepare(features, images, geometry, margin, padding_mode)(np.asarray(theta, np.float32))


def _prepare(
    features: Features,
    images: ArrayLike,
    geometry: Geometry | Mapping[str, Geometry] | None,
    margin: float | None,
    padding_mode: str,
) -> Callable[[np.ndarray], dict[str, Comparison]]:
    """Checks the arguments and computes everything that does not depend on theta."""
    images = jnp.asarray(images)
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images have shape {images.shape}; expected [B, H, W, C], none of them 0")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images have type {images.dtype}; expected floating point")
    if margin is not None and not margin >= 0:
        raise ValueError(f"margin is {margin}; expected 0 or more pixels, or None")
    maps, shape = _maps(features, images), (images.shape[1], images.shape[2])
    frames = {}
    for name, each in maps.items():
        if geometry is None:

            def of_depth(x: jax.Array, name: str = name) -> jax.Array:
                return _maps(features, x)[name]

            own = measure_geometry(of_depth, images.shape[1:])
        else:
            own = check_geometry(
                geometry.get(name) if isinstance(geometry, Mapping) else geometry, name
            )
        half = (np.array(own.field) - 1) / 2 if margin is None else np.full(2, margin)
        reach = (2 * half / shape)[::-1].astype(np.float32)
        frames[name] = map_to_image(own, shape, each.shape[1:3]), reach

    def for_one(theta: np.ndarray) -> dict[str, Comparison]:
        finite = theta.shape == (2, 3) and np.isfinite(theta).all()
        if not finite or np.linalg.det(theta[:, :2]) == 0:
            raise ValueError(f"theta is {theta.tolist()}; expected a 2x3 matrix with an inverse")
        moved = _maps(features, _warp(images, theta, padding_mode=padding_mode))
        return {
            name: _compare(maps[name], moved[name], theta, *frame, shape)
            for name, frame in frames.items()
        }

    return for_one


# A separate program: fused with other operations, XLA's CPU compiler may round a position
# differently for a tap's index and for its weight, which would be off by a pixel.
_warp = jax.jit(affine_transform, static_argnames="padding_mode")


def _maps(features: Features, images: jax.Array) -> dict[str, jax.Array]:
    """The maps by name, in float32."""
    several: Any = features(images) if callable(features) else features
    if not isinstance(several, Mapping):
        several = dict(enumerate(several if isinstance(several, list | tuple) else [several]))
    maps = {}
    for name, each in several.items():
        each = jnp.asarray(each(images) if callable(each) else each)
        if each.ndim != 4 or len(each) != len(images) or not each.size:
            raise ValueError(
                f"features returned shape {each.shape} for depth {name}; expected a map "
                f"[{len(images)}, h, w, c], none of them 0"
            )
        maps[str(name)] = each.astype(jnp.float32)
    return maps


def _compare(
    maps: jax.Array,
    moved: jax.Array,
    theta: np.ndarray,
    to_image: np.ndarray,
    reach: np.ndarray,
    shape: tuple[int, int],
) -> Comparison:
    """Warps back and compares.

    Args:
      maps, moved: Gamma f and Gamma T f, ``[B, h, w, C]``.
      theta: T, ``[2, 3]``.
      to_image: see :func:`stn_jax.analysis.geometry.map_to_image`.
      reach: half the side of the square that must be inside, ``[2]``, (x, y), normalized.
      shape: spatial shape of the images.
    """
    forth = conjugate(theta, to_image)
    back = affine.invert(forth)
    inside, *valid = _valid(theta, to_image, forth, reach, shape=shape, map_shape=maps.shape[1:3])
    # Transforming the maps instead of the images leaves only the interpolation error.
    resampled = _warp(_warp(maps, forth), back)
    # Positions that are interpolated from valid values alone.
    interior, both = (inside & (_warp(x, back)[..., 0] > 1 - _WEIGHT_ROUNDING) for x in valid)
    returned = _warp(moved, back)
    return Comparison(
        maps,
        returned,
        interior,
        _relative_error(returned, maps, interior),
        _relative_error(resampled, maps, both),
    )


@functools.partial(jax.jit, static_argnames=("shape", "map_shape"))
def _valid(
    theta: jax.Array,
    to_image: jax.Array,
    forth: jax.Array,
    reach: jax.Array,
    *,
    shape: tuple[int, int],
    map_shape: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The valid positions of Gamma f, of Gamma T f and of T Gamma f."""
    points = affine_grid(affine.identity(), map_shape)
    signs = jnp.array([(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)])
    # An affine map of a square is within the image if its corners are.
    corners = _apply(to_image, points) + (signs * reach)[:, None, None]
    inside = _within(corners, shape).all(0)
    taken = inside & _within(_apply(theta, corners), shape).all(0)
    known = taken & _within(_apply(forth, points), map_shape)
    return inside, taken[..., None].astype(jnp.float32), known[..., None].astype(jnp.float32)


@jax.jit
def _relative_error(value: jax.Array, reference: jax.Array, where: jax.Array) -> jax.Array:
    def norm(x: jax.Array) -> jax.Array:
        return jnp.linalg.norm(jnp.where(where[..., None], x, 0).reshape(len(x), -1), axis=-1)

    return jnp.where(where.any(), norm(value - reference) / norm(reference), jnp.nan)


def _within(points: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Whether points [..., 2] are interpolated only from pixels inside an array of shape (H, W)."""
    limit = 1 - 1 / np.array([shape[1], shape[0]]) + _POSITION_ROUNDING
    return (jnp.abs(points) <= limit).all(-1)


def _apply(theta: jax.Array, points: jax.Array) -> jax.Array:
    # Not a matrix product, see stn_jax.warp.products.
    x, y = points[..., :1], points[..., 1:]
    return theta[:, 0] * x + theta[:, 1] * y + theta[:, 2]
