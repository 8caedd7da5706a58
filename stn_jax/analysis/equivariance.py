"""How far a network's feature maps are from moving along with the image.

Where a transformer warps a feature map to undo what happened to the image, it relies on
``T^-1 Gamma T f = Gamma f``: the maps (Gamma) of the transformed image (T f), transformed back, are
the maps of the image. Equation (1) and Figure 1 of arXiv 2001.05858 say that this fails in general:
a warp moves the values about but leaves each in its channel. :func:`equivariance_error` measures by
how much, for any feature extractor and any affine transformations: a place to put a transformer is
one where the error of the transformations to undo is small.

Convention
    Thetas are those of :mod:`stn_jax.warp.affine` (``align_corners=False``), in the *image's*
    normalised coordinates. A map has coordinates of its own: its positions need not cover the
    image (without padding they cover less), so a theta is rewritten before it warps a map
    (:func:`stn_jax.analysis.geometry.map_theta`). It needs a :class:`Geometry`, which is measured
    where it is not given.

What counts
    Only the interior, where no value depends on what lies outside an image. A position counts if

    - the square of half-side ``margin`` (pixels) about its centre is within the image,
    - after the transformation too: it holds only pixels that T took from within the image,
    - and, warped back, it is interpolated from such positions of the map alone.

    The default margin is half the receptive field, which is exact but leaves little of deep maps.
    Where the images go on beyond their edges as T continues them (digits on a plain ground, and
    ``padding_mode`` "border"), ``margin=0`` is right as well: it asks for the centres alone.
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
    checked,
    conjugate,
    measure_geometry,
    window_theta,
)
from stn_jax.warp import affine, affine_grid, affine_transform

# A function from images to a map, or to several by name or in order; or several functions.
Features = Callable[[jax.Array], Any] | Mapping[str, Callable] | Sequence[Callable]

# What float32 may lose of a position (normalised), and of a weight of the interpolation.
_POSITION_ROUNDING, _WEIGHT_ROUNDING = 1e-5, 1e-3


class Family(NamedTuple):
    """Transformations of one kind."""

    name: str  # says how much of it, too: "rotation by 15 to 90 degrees"
    values: np.ndarray  # [K]
    thetas: jax.Array  # [K, 2, 3]


class Comparison(NamedTuple):
    """The maps of the images, and those of the transformed images, warped back."""

    maps: jax.Array  # [B, h, w, C]: Gamma f
    returned: jax.Array  # [B, h, w, C]: T^-1 Gamma T f
    interior: jax.Array  # [h, w], bool: the positions that count
    error: jax.Array  # [B], see EquivarianceError
    resampling: jax.Array  # [B]


class EquivarianceError(NamedTuple):
    """How far maps are from moving along, for D depths, K transformations and B images.

    A relative error is the L2 norm of the difference over that of Gamma f, over the interior and
    all channels; NaN where no position counts. Maps of one norm that share nothing are at 2 ** 0.5.

    Attributes:
      depths: names, ``D`` of them.
      error: ``[D, K, B]``, of T^-1 Gamma T f.
      resampling: ``[D, K, B]``, of T^-1 T Gamma f: what two interpolations alone do to these maps.
        An error well above it is the network's.
      counted: ``[D, K]``, the share of the map's positions that the error is over.
    """

    depths: tuple[str, ...]
    error: np.ndarray
    resampling: np.ndarray
    counted: np.ndarray


def rotations(degrees: ArrayLike | Sequence[float], shape: Sequence[int] = (1, 1)) -> Family:
    """Rotations about the centre by ``degrees`` ``[K]``, counter-clockwise, of ``shape`` (H, W)."""
    degrees = np.asarray(degrees)
    thetas = affine.rotation(degrees, aspect=shape[1] / shape[0])
    return Family(f"rotation by {_span(degrees)} degrees", degrees, thetas)


def translations(
    pixels: ArrayLike | Sequence[float],
    shape: Sequence[int],
    direction: Sequence[float] = (1.0, 0.0),
) -> Family:
    """Moves the picture by ``pixels`` ``[K]`` times ``direction`` (x, y), of ``shape`` (H, W)."""
    pixels = np.asarray(pixels)
    shift = -2 * pixels[:, None] * np.asarray(direction) / np.array([shape[1], shape[0]])
    return Family(f"translation by {_span(pixels)} pixels", pixels, affine.translation(shift))


def scalings(factors: ArrayLike | Sequence[float]) -> Family:
    """Magnifies the picture by ``factors`` ``[K]`` (below 1: makes it smaller)."""
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
    """Measures how far a network is from Eq. (1) of arXiv 2001.05858 holding.

    See the module's text for the coordinates and for what counts.

    Args:
      features: function from images ``[B, H, W, C]`` to a feature map ``[B, h, w, c]``, or to a
        mapping or sequence of maps by depth; or a mapping or sequence of functions. It is called
        as it is: jit it, if it can be.
      images: ``[B, H, W, C]``, floating point.
      thetas: ``[K, 2, 3]``, each from transformed to original positions.
      geometry: where the maps' positions lie, for all maps or by name (a sequence's names are
        "0", "1", ...). Measured by :func:`measure_geometry` where None.
      margin: pixels between a position that counts and the edge of the image; half the receptive
        field where None.
      padding_mode: how the transformation continues the images.

    Returns:
      :class:`EquivarianceError`.

    Raises:
      TypeError: images are not floating point.
      ValueError: shapes do not fit, a theta has no inverse, margin is negative, geometry lacks a
        depth or cannot be measured.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from stn_jax.analysis.equivariance import equivariance_error, rotations
      >>> images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
      >>> slopes = lambda x: x[:, :, 1:] - x[:, :, :-1]  # of what is turned it takes the other
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
    """Both sides of Eq. (1), as maps to look at, for one theta ``[2, 3]``.

    Args and errors are those of :func:`equivariance_error`.

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
    """All that does not depend on theta."""
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
            own = checked(geometry.get(name) if isinstance(geometry, Mapping) else geometry, name)
        half = (np.array(own.field) - 1) / 2 if margin is None else np.full(2, margin)
        reach = (2 * half / shape)[::-1].astype(np.float32)
        frames[name] = window_theta(own, shape, each.shape[1:3]), reach

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


# A program of its own: fused with others, XLA's CPU compiler may round a position up for the index
# and down for the weights, and what lies between two pixels is then off by one.
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
                f"features gave an array of shape {each.shape} for depth {name}; expected a map "
                f"[{len(images)}, h, w, c], none of them 0"
            )
        maps[str(name)] = each.astype(jnp.float32)
    return maps


def _compare(
    maps: jax.Array,
    moved: jax.Array,
    theta: np.ndarray,
    window: np.ndarray,
    reach: np.ndarray,
    shape: tuple[int, int],
) -> Comparison:
    """Warps back and compares.

    Args:
      maps, moved: Gamma f and Gamma T f, ``[B, h, w, C]``.
      theta: T, ``[2, 3]``.
      window: see :func:`_window`.
      reach: half the side of the square that must be inside, ``[2]``, (x, y), normalised.
      shape: of the images.
    """
    forth = conjugate(theta, window)
    back = affine.invert(forth)
    inside, *valid = _valid(theta, window, forth, reach, shape=shape, map_shape=maps.shape[1:3])
    # With the maps in place of the images, nothing but the interpolation is left.
    resampled = _warp(_warp(maps, forth), back)
    # What is made of valid values alone.
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
    window: jax.Array,
    forth: jax.Array,
    reach: jax.Array,
    *,
    shape: tuple[int, int],
    map_shape: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which positions know all that they need: of Gamma f, of Gamma T f and of T Gamma f."""
    points = affine_grid(affine.identity(), map_shape)
    signs = jnp.array([(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)])
    # An affine map of a square is within the image if its corners are.
    corners = _apply(window, points) + (signs * reach)[:, None, None]
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
    """Whether points [..., 2] are interpolated from an array of this shape (H, W) alone."""
    limit = 1 - 1 / np.array([shape[1], shape[0]]) + _POSITION_ROUNDING
    return (jnp.abs(points) <= limit).all(-1)


def _apply(theta: jax.Array, points: jax.Array) -> jax.Array:
    # By hand, not as a matrix product: see affine_grid.
    x, y = points[..., :1], points[..., 1:]
    return theta[:, 0] * x + theta[:, 1] * y + theta[:, 2]
