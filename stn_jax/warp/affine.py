"""Affine transforms as 2x3 (or 3x4) matrices: build, compose, invert, read back.

Convention
    A theta maps *output* to *input* positions, both normalized (x, y) with y downwards: it
    transforms the sampling window, and the image's content moves the opposite way. So

    - ``rotation(angle)`` turns the window clockwise and the content counter-clockwise for a
      positive angle, in degrees;
    - ``translation((tx, ty))`` moves the window right and down, the content left and up; 2 is the
      whole width or height;
    - ``scaling(s)`` makes the window s times as large: s < 1 magnifies.

    All functions are batched: leading axes broadcast.

Aspect
    Normalized coordinates are square whatever the image's shape, so rotations of a non-square
    image are sheared in them. Functions that build or read an angle or a shear therefore take
    ``aspect``: width / height of the image, or (width - 1) / (height - 1) with
    ``align_corners=True``, positive, ``[...]``. They work in coordinates with square pixels,
    ``diag(aspect, 1)`` times the normalized ones. The default, 1, is for square images. Scales and
    shifts do not depend on it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp.products import product, same_ndim, stack_rows
from stn_jax.warp.validation import MATRICES, check_core, check_num_spatial_dims, numbers


class AffineParameters(NamedTuple):
    """The result of :func:`decompose`, with the angle in degrees; see :func:`from_parameters`."""

    angle: jax.Array  # [...], degrees
    scale: jax.Array  # [..., 2], along x and y
    shear: jax.Array  # [...]
    shift: jax.Array  # [..., 2], normalized


def _matrix(a00, a01, tx, a10, a11, ty) -> jax.Array:
    entries = jnp.broadcast_arrays(*numbers(a00, a01, tx, a10, a11, ty))
    return stack_rows([entries[:3], entries[3:]])


def _checked(theta: ArrayLike, shapes=MATRICES) -> jax.Array:
    (theta,) = numbers(theta)
    check_core("theta", theta.shape, shapes)
    return theta


def _pair(name: str, value: ArrayLike | Sequence[float]) -> tuple[jax.Array, jax.Array]:
    (value,) = numbers(value)
    if value.ndim < 1 or value.shape[-1] != 2:
        raise ValueError(f"{name} has shape {value.shape}; expected [..., 2], for x and y")
    return value[..., 0], value[..., 1]


def identity(num_spatial_dims: int = 2, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """The identity theta: ``[2, 3]``, or ``[3, 4]`` for ``num_spatial_dims=3``."""
    check_num_spatial_dims(num_spatial_dims)
    return jnp.eye(num_spatial_dims, num_spatial_dims + 1, dtype=dtype)


def rotation(angle: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """Rotates about the image's center.

    Args:
      angle: ``[...]``, degrees; positive turns the content counter-clockwise.
      aspect: the image's aspect ratio, ``[...]``; see the module's docstring. With a wrong one, a
        non-square image is sheared.

    Returns:
      ``[..., 2, 3]``.
    """
    angle, aspect = numbers(angle, aspect)
    radians = jnp.deg2rad(angle)
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    return _matrix(cos, -sin / aspect, 0.0, sin * aspect, cos, 0.0)


def translation(shift: ArrayLike | Sequence[float]) -> jax.Array:
    """Moves the sampling window by ``shift`` ``[..., 2]``, normalized (x, y). ``[..., 2, 3]``."""
    tx, ty = _pair("shift", shift)
    return _matrix(1.0, 0.0, tx, 0.0, 1.0, ty)


def scaling(scale: ArrayLike | Sequence[float]) -> jax.Array:
    """Makes the sampling window ``scale`` ``[..., 2]`` = (sx, sy) times as large. ``[..., 2, 3]``.

    A scalar applies to both axes.
    """
    (scale,) = numbers(scale)
    sx, sy = (scale, scale) if scale.ndim == 0 else _pair("scale", scale)
    return _matrix(sx, 0.0, 0.0, 0.0, sy, 0.0)


def shearing(shear: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """Shears along x: the window's x grows by ``shear`` times y.

    Args:
      shear: ``[...]``, pixels along x per pixel along y.
      aspect: the image's aspect ratio, ``[...]``; see the module's docstring.

    Returns:
      ``[..., 2, 3]``.
    """
    shear, aspect = numbers(shear, aspect)
    return _matrix(1.0, shear / aspect, 0.0, 0.0, 1.0, 0.0)


def from_parameters(
    angle: ArrayLike = 0.0,
    scale: ArrayLike | Sequence[float] = 1.0,
    shear: ArrayLike = 0.0,
    shift: ArrayLike | Sequence[float] = (0.0, 0.0),
    *,
    aspect: ArrayLike = 1.0,
) -> jax.Array:
    """Builds a theta as translation * rotation * shear * scaling.

    Args:
      angle: ``[...]``, degrees.
      scale: ``[..., 2]``, or a scalar for both axes.
      shear: ``[...]``.
      shift: ``[..., 2]``, normalized.
      aspect: the image's aspect ratio, ``[...]``; see the module's docstring.

    Returns:
      ``[..., 2, 3]``; :func:`decompose` reads the parameters back, given the same aspect.
    """
    return compose(
        translation(shift),
        rotation(angle, aspect=aspect),
        shearing(shear, aspect=aspect),
        scaling(scale),
    )


def compose(*thetas: ArrayLike) -> jax.Array:
    """The theta of successive warps, in order of application.

    ``affine_transform(affine_transform(image, a), b)`` and ``affine_transform(image, compose(a,
    b))`` sample the same positions; the second interpolates once. As a matrix product it is a * b.

    Args:
      *thetas: one or more, all ``[..., 2, 3]`` or all ``[..., 3, 4]``.

    Returns:
      A theta with the broadcast leading axes.

    Raises:
      ValueError: a theta's shape is not one of these, or they are mixed.
    """
    if not thetas:
        raise ValueError("compose needs at least one theta")
    result = _checked(thetas[0])
    for theta in thetas[1:]:
        result = _compose_two(result, _checked(theta, (result.shape[-2:],)))
    return result


def _compose_two(a: jax.Array, b: jax.Array) -> jax.Array:
    dims = a.shape[-2]
    turned = product(a[..., :dims], b)
    shift = same_ndim(a[..., dims:], turned)[0]
    return jnp.concatenate([turned[..., :dims], turned[..., dims:] + shift], axis=-1)


def invert(theta: ArrayLike) -> jax.Array:
    """The inverse of a theta: ``compose(theta, invert(theta))`` is the identity.

    A singular theta (which maps the image to a line or point) has no inverse; the result is then
    not finite.

    Args:
      theta: ``[..., 2, 3]`` or ``[..., 3, 4]``.
    """
    theta = _checked(theta)
    dims = theta.shape[-2]
    a = theta[..., :dims]
    if dims == 2:
        adjugate = stack_rows([[a[..., 1, 1], -a[..., 0, 1]], [-a[..., 1, 0], a[..., 0, 0]]])
    else:
        rows = [a[..., i, :] for i in range(3)]
        adjugate = jnp.stack([jnp.cross(rows[i - 2], rows[i - 1]) for i in range(3)], -1)
    inverse = adjugate / _determinant(a)[..., None, None]
    return jnp.concatenate([inverse, -product(inverse, theta[..., dims:])], axis=-1)


def _determinant(a: jax.Array) -> jax.Array:
    if a.shape[-1] == 2:
        return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    return jnp.sum(a[..., 0, :] * jnp.cross(a[..., 1, :], a[..., 2, :]), -1)


def angle(theta: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """The angle of the rotation nearest to a theta, in degrees, counter-clockwise positive.

    Nearest in the Frobenius norm, in coordinates with square pixels; with rows (a00 a01) and
    (a10 a11) there it is ``-atan2(a01 - a10, a00 + a11)``. For a :func:`rotation` of the same
    aspect, scaled or not, it is the rotation's angle.

    Args:
      theta: ``[..., 2, 3]``.
      aspect: the image's aspect ratio, ``[...]``; see the module's docstring.

    Returns:
      ``[...]`` in [-180, 180].
    """
    # Halved, so that the sums of huge entries do not overflow.
    a00, a01, a10, a11 = _square_pixels(0.5 * _checked(theta, ((2, 3),)), aspect)
    return -jnp.rad2deg(jnp.arctan2(a01 - a10, a00 + a11))


def _square_pixels(theta: jax.Array, aspect: ArrayLike) -> tuple[jax.Array, ...]:
    """A theta's entries a00, a01, a10, a11 in coordinates whose pixels are square."""
    aspect = jnp.asarray(aspect)  # a plain number does not widen float32
    a00, a01, a10, a11 = (theta[..., i, j] for i in (0, 1) for j in (0, 1))
    return a00, a01 * aspect, a10 / aspect, a11


def scale(theta: ArrayLike) -> jax.Array:
    """How much larger the sampling window is than the output: ``sqrt |det|``, ``[...]``."""
    theta = _checked(theta, ((2, 3),))
    return jnp.sqrt(jnp.abs(_determinant(theta[..., :2])))


def shift(theta: ArrayLike) -> jax.Array:
    """The sampling window's center: (x, y), normalized, ``[..., 2]``."""
    return _checked(theta, ((2, 3),))[..., 2]


def shear(theta: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """The shear along x that :func:`decompose` finds, ``[...]``."""
    return decompose(theta, aspect=aspect).shear


def decompose(theta: ArrayLike, *, aspect: ArrayLike = 1.0) -> AffineParameters:
    """The inverse of :func:`from_parameters`.

    The angle is that of the transformed x axis (a QR factorization), which differs from
    :func:`angle`, the nearest rotation, for a sheared or anisotropically scaled theta. scale_x is
    positive; a mirrored theta has a negative scale_y.

    Args:
      theta: ``[..., 2, 3]``.
      aspect: the image's aspect ratio, ``[...]``; see the module's docstring.

    Returns:
      :class:`AffineParameters`. If the x axis is mapped to a point, the angle is NaN.
    """
    theta = _checked(theta, ((2, 3),))
    a00, a01, a10, a11 = jnp.broadcast_arrays(*_square_pixels(theta, aspect))
    scale_x = jnp.hypot(a00, a10)
    scale_y = _determinant(theta[..., :2]) / scale_x
    return AffineParameters(
        angle=jnp.rad2deg(jnp.arctan2(a10, a00)),
        scale=jnp.stack([scale_x, scale_y], -1),
        shear=(a00 * a01 + a10 * a11) / (scale_x * scale_y),
        shift=jnp.broadcast_to(theta[..., 2], (*a00.shape, 2)),
    )
