"""Affine transforms as 2x3 (or 3x4) matrices: build, compose, invert, read back.

Convention
    A theta maps *output* to *input* positions, both in normalised (x, y) with y downwards: it
    says where the sampling window lies, and the picture does the opposite. So

    - ``rotation(angle)`` turns the window clockwise and the picture counter-clockwise as one sees
      it, for a positive angle, in degrees;
    - ``translation((tx, ty))`` moves the window right and down, the picture left and up; 2 is the
      whole width or height;
    - ``scaling(s)`` makes the window s times as large: s < 1 magnifies.

    All functions take and give batches: leading axes broadcast.

Aspect
    Normalised coordinates are square, whatever the image's shape, so that a rotation of an oblong
    image is sheared in them. Functions that build or read an angle or a shear therefore take
    ``aspect``: width / height of the image, or (width - 1) / (height - 1) with
    ``align_corners=True``, above 0, ``[...]``. They work in coordinates with pixels as long as
    they are wide: ``diag(aspect, 1)`` times the normalised ones. The default, 1, is right for
    square images. Scales and shifts do not depend on it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp.products import product, same_rank, stack_rows
from stn_jax.warp.validation import MATRICES, check_core, check_rank, numbers


class AffineParameters(NamedTuple):
    """What :func:`decompose` reads from a theta; see :func:`from_parameters`."""

    angle: jax.Array  # [...], degrees
    scale: jax.Array  # [..., 2], along x and y
    shear: jax.Array  # [...]
    shift: jax.Array  # [..., 2], normalised


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


def identity(rank: int = 2, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """The theta that changes nothing: ``[2, 3]``, or ``[3, 4]`` for ``rank=3``."""
    check_rank(rank)
    return jnp.eye(rank, rank + 1, dtype=dtype)


def rotation(angle: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """Rotates about the image's centre.

    Args:
      angle: ``[...]``, degrees; positive turns the picture counter-clockwise.
      aspect: the image's, ``[...]``; see the module's text. Without it an oblong image would be
        sheared.

    Returns:
      ``[..., 2, 3]``.
    """
    angle, aspect = numbers(angle, aspect)
    radians = jnp.deg2rad(angle)
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    return _matrix(cos, -sin / aspect, 0.0, sin * aspect, cos, 0.0)


def translation(shift: ArrayLike | Sequence[float]) -> jax.Array:
    """Moves the sampling window by ``shift`` ``[..., 2]``, normalised (x, y). ``[..., 2, 3]``."""
    tx, ty = _pair("shift", shift)
    return _matrix(1.0, 0.0, tx, 0.0, 1.0, ty)


def scaling(scale: ArrayLike | Sequence[float]) -> jax.Array:
    """Makes the sampling window ``scale`` ``[..., 2]`` = (sx, sy) times as large. ``[..., 2, 3]``.

    A scalar scales both axes alike.
    """
    (scale,) = numbers(scale)
    sx, sy = (scale, scale) if scale.ndim == 0 else _pair("scale", scale)
    return _matrix(sx, 0.0, 0.0, 0.0, sy, 0.0)


def shearing(shear: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """Shears along x: the window's x grows by ``shear`` times y.

    Args:
      shear: ``[...]``, pixels along x for each along y.
      aspect: the image's, ``[...]``; see the module's text.

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
      shift: ``[..., 2]``, normalised.
      aspect: the image's, ``[...]``; see the module's text.

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
    """The theta of several warps in a row, first one first.

    ``affine_transform(affine_transform(image, a), b)`` and ``affine_transform(image, compose(a,
    b))`` look at the same places; the second interpolates once. As a matrix product it is a * b.

    Args:
      *thetas: one or more, all ``[..., 2, 3]`` or all ``[..., 3, 4]``.

    Returns:
      A theta of the broadcast leading axes.

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
    rank = a.shape[-2]
    turned = product(a[..., :rank], b)
    shift = same_rank(a[..., rank:], turned)[0]
    return jnp.concatenate([turned[..., :rank], turned[..., rank:] + shift], axis=-1)


def invert(theta: ArrayLike) -> jax.Array:
    """The theta that undoes one: ``compose(theta, invert(theta))`` is the identity.

    A singular theta (it folds the image onto a line or point) has no inverse; the result is then
    not finite.

    Args:
      theta: ``[..., 2, 3]`` or ``[..., 3, 4]``.
    """
    theta = _checked(theta)
    rank = theta.shape[-2]
    a = theta[..., :rank]
    if rank == 2:
        adjugate = stack_rows([[a[..., 1, 1], -a[..., 0, 1]], [-a[..., 1, 0], a[..., 0, 0]]])
    else:
        rows = [a[..., i, :] for i in range(3)]
        adjugate = jnp.stack([jnp.cross(rows[i - 2], rows[i - 1]) for i in range(3)], -1)
    inverse = adjugate / _determinant(a)[..., None, None]
    return jnp.concatenate([inverse, -product(inverse, theta[..., rank:])], axis=-1)


def _determinant(a: jax.Array) -> jax.Array:
    if a.shape[-1] == 2:
        return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    return jnp.sum(a[..., 0, :] * jnp.cross(a[..., 1, :], a[..., 2, :]), -1)


def angle(theta: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """The angle of the rotation nearest to a theta, in degrees, counter-clockwise positive.

    Nearest in the Frobenius norm, in coordinates with square pixels; with rows (a00 a01) and
    (a10 a11) there it is ``-atan2(a01 - a10, a00 + a11)``. It undoes :func:`rotation` of the same
    aspect, whatever the scale.

    Args:
      theta: ``[..., 2, 3]``.
      aspect: the image's, ``[...]``; see the module's text.

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
    """The factor by which the sampling window is larger than the output: sqrt |det|, ``[...]``."""
    theta = _checked(theta, ((2, 3),))
    return jnp.sqrt(jnp.abs(_determinant(theta[..., :2])))


def shift(theta: ArrayLike) -> jax.Array:
    """Where the sampling window's centre lies: (x, y), normalised, ``[..., 2]``."""
    return _checked(theta, ((2, 3),))[..., 2]


def shear(theta: ArrayLike, *, aspect: ArrayLike = 1.0) -> jax.Array:
    """The shear along x that :func:`decompose` finds, ``[...]``."""
    return decompose(theta, aspect=aspect).shear


def decompose(theta: ArrayLike, *, aspect: ArrayLike = 1.0) -> AffineParameters:
    """Reads back the parameters that :func:`from_parameters` made a theta of.

    The angle is that of the image of the x axis (a QR factorisation), which for a sheared or
    unevenly scaled theta differs from :func:`angle`, the nearest rotation. scale_x comes out
    positive; a mirrored theta has a negative scale_y.

    Args:
      theta: ``[..., 2, 3]``.
      aspect: the image's, ``[...]``; see the module's text.

    Returns:
      :class:`AffineParameters`. A theta that folds the x axis has no angle; it gives NaN.
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
