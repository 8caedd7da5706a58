"""Matrices in pixels, as in kornia and OpenCV, and warps by them.

Convention
    A pixel matrix acts on (x, y) or (x, y, z) in pixels: x along the width, y downwards; (0, 0) is
    the center of the first pixel. It maps *input* to *output* positions, so the content moves as
    the matrix says. With ``inverse=True`` it maps output to input positions, as with OpenCV's
    WARP_INVERSE_MAP. Thetas map output to input positions, both normalized.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import affine, validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.products import product
from stn_jax.warp.sample import affine_transform, grid_sample
from stn_jax.warp.transforms.projective import Projective, homogeneous_grid

_MATRICES = (*validation.MATRICES, (3, 3))


@compiled("matrix")
def pixel_matrix_to_theta(
    matrix: ArrayLike,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    *,
    inverse: bool = False,
    align_corners: bool = False,
) -> jax.Array:
    """Converts a matrix in pixels to a theta.

    Args:
      matrix: ``[..., 2, 3]``, ``[..., 3, 4]`` (volumes) or ``[..., 3, 3]`` (a homography); see the
        module's convention.
      shape_in: the input's spatial shape, ``(H, W)`` or ``(D, H, W)``.
      shape_out: the output's.
      inverse: whether the matrix maps output to input positions.
      align_corners: the theta's convention: -1 and 1 are the centers (True) or the outer edges
        (False) of the corner pixels.

    Returns:
      A theta of the matrix's shape, in float32 or wider; not finite if the matrix is singular.

    Raises:
      TypeError: the matrix is not floating point, or a shape is not a sequence of ints.
      ValueError: the matrix or a shape has the wrong number of axes or entries.

    Examples:
      >>> import jax.numpy as jnp
      >>> from stn_jax.warp import pixel_matrix_to_theta
      >>> shift_right = jnp.array([[1.0, 0, 2], [0, 1, 0]])  # by two pixels
      >>> pixel_matrix_to_theta(shift_right, (8, 8), (8, 8)).tolist()
      [[1.0, 0.0, -0.5], [0.0, 1.0, 0.0]]
    """
    matrix = validation.wide_floating("matrix", matrix, _MATRICES)
    shape_in, shape_out = (
        validation.spatial_shape(s, _num_spatial_dims(matrix)) for s in (shape_in, shape_out)
    )
    back = matrix if inverse else _invert(matrix)
    return _compose(
        _to_normalized(shape_in, align_corners, matrix),
        back,
        _to_pixels(shape_out, align_corners, matrix),
    )


@compiled("theta")
def theta_to_pixel_matrix(
    theta: ArrayLike,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    *,
    inverse: bool = False,
    align_corners: bool = False,
) -> jax.Array:
    """Converts a theta to a matrix in pixels; the inverse of :func:`pixel_matrix_to_theta`.

    With ``align_corners=True`` an axis of a single pixel makes the matrix singular.

    Args:
      theta: ``[..., 2, 3]``, ``[..., 3, 4]`` (volumes) or ``[..., 3, 3]`` (a homography), from
        normalized output to input positions.
      shape_in, shape_out, align_corners: as in :func:`pixel_matrix_to_theta`.
      inverse: whether the result maps output to input positions.

    Returns:
      A matrix of theta's shape, in float32 or wider, from input to output positions in pixels; with
      ``inverse=True`` from output to input positions.

    Raises:
      TypeError, ValueError: as :func:`pixel_matrix_to_theta`.
    """
    theta = validation.wide_floating("theta", theta, _MATRICES)
    shape_in, shape_out = (
        validation.spatial_shape(s, _num_spatial_dims(theta)) for s in (shape_in, shape_out)
    )
    back = _compose(
        _to_pixels(shape_in, align_corners, theta),
        theta,
        _to_normalized(shape_out, align_corners, theta),
    )
    return back if inverse else _invert(back)


@compiled("image", "matrix")
def warp_affine(
    image: ArrayLike,
    matrix: ArrayLike,
    shape: Sequence[int],
    *,
    inverse: bool = False,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
    antialias: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Warps an image by an affine matrix in pixels.

    The counterpart of ``kornia.geometry.warp_affine`` and OpenCV's ``warpAffine`` (which rounds
    positions to 1/32 pixel).

    Convention
        The matrix maps *input* to *output* positions (x, y) in pixels, (0, 0) being the center of
        the first pixel; with ``inverse=True`` it maps output to input positions.

    Args:
      image: ``[..., H, W, C]``, or ``[..., D, H, W, C]`` if the matrix is 3x4. Floating point.
      matrix: ``[..., 2, 3]`` or ``[..., 3, 4]``; leading axes broadcast against the image's.
      shape: the output's spatial shape.
      inverse: see the convention.
      mode, padding_mode, fill, antialias, deterministic: as in
        :func:`stn_jax.affine_transform`.
      align_corners: whether "reflection" mirrors at the first and last pixel's centers (True) or
        outer edges (False); nothing else depends on it.

    Returns:
      ``[..., *shape, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`pixel_matrix_to_theta` and :func:`stn_jax.affine_transform`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> image = jnp.arange(3.0).reshape(1, 3, 1)
      >>> shift_right = jnp.array([[1.0, 0, 1], [0, 1, 0]])  # by one pixel
      >>> stn_jax.warp_affine(image, shift_right, (1, 3))[0, :, 0].tolist()
      [0.0, 0.0, 1.0]
    """
    matrix = validation.wide_floating("matrix", matrix, validation.MATRICES)
    dims = validation.theta_dims(matrix)
    sizes = validation.image(image, dims).shape[-1 - dims : -1]
    corners = bool(align_corners) and padding_mode == "reflection"
    theta = pixel_matrix_to_theta(matrix, sizes, shape, inverse=inverse, align_corners=corners)
    return affine_transform(
        image,
        theta,
        shape,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        align_corners=corners,
        antialias=antialias,
        deterministic=deterministic,
    )


@compiled("image", "matrix")
def warp_perspective(
    image: ArrayLike,
    matrix: ArrayLike,
    shape: Sequence[int],
    *,
    inverse: bool = False,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Warps an image by a homography in pixels.

    The counterpart of ``kornia.geometry.warp_perspective`` and OpenCV's ``warpPerspective``.

    Convention
        The matrix maps homogeneous *input* positions (x, y, 1) to *output* ones in pixels, (0, 0)
        being the center of the first pixel; with ``inverse=True`` it maps output to input
        positions. Its scale and sign are irrelevant. As in kornia and OpenCV, positions behind the
        horizon are sampled too, unlike with :class:`stn_jax.warp.transforms.Projective`. Positions
        on the horizon lie outside the image, so the padding applies.

    Args:
      image: ``[..., H, W, C]``, floating point.
      matrix: ``[..., 3, 3]``; leading axes broadcast against the image's.
      shape: the output's ``(H, W)``.
      inverse: see the convention.
      mode, padding_mode, fill, deterministic: as in :func:`stn_jax.grid_sample`.
      align_corners: as in :func:`warp_affine`.

    Returns:
      ``[..., *shape, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`pixel_matrix_to_theta` and :func:`stn_jax.grid_sample`.
    """
    matrix = validation.wide_floating("matrix", matrix, [(3, 3)])
    sizes = validation.image(image, 2).shape[-3:-1]
    corners = bool(align_corners) and padding_mode == "reflection"
    theta = pixel_matrix_to_theta(matrix, sizes, shape, inverse=inverse, align_corners=corners)
    uv, w, scale = homogeneous_grid(theta, shape, align_corners=corners)
    # NaN compares as not on the horizon, and propagates. The inner where keeps gradients finite.
    horizon = jnp.abs(w) <= jnp.finfo(w.dtype).eps * scale
    grid = jnp.where(horizon, Projective.NOWHERE, uv / jnp.where(horizon, 1, w))
    return grid_sample(
        image,
        grid,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        align_corners=corners,
        deterministic=deterministic,
    )


def _num_spatial_dims(matrix: jax.Array) -> int:
    return 3 if matrix.shape[-1] == 4 else 2


def _is_homography(matrix: jax.Array) -> bool:
    return matrix.shape[-2:] == (3, 3)


def _compose(outer: jax.Array, matrix: jax.Array, inner: jax.Array) -> jax.Array:
    if _is_homography(matrix):
        return product(product(_homogeneous(outer), matrix), _homogeneous(inner))
    return affine.compose(outer, matrix, inner)


def _homogeneous(matrix: jax.Array) -> jax.Array:
    return jnp.concatenate([matrix, jnp.array([[0, 0, 1]], matrix.dtype)], -2)


def _invert(matrix: jax.Array) -> jax.Array:
    """The inverse; for a homography the adjugate, up to a positive factor."""
    if not _is_homography(matrix):
        return affine.invert(matrix)
    rows = [matrix[..., i, :] for i in range(3)]
    adjugate = jnp.stack([jnp.cross(rows[i - 2], rows[i - 1]) for i in range(3)], -1)
    # Scaled to the order of 1, so that products do not overflow.
    return adjugate / jnp.abs(adjugate).max((-2, -1), keepdims=True)


def _to_pixels(shape: Sequence[int], align_corners: bool, like: jax.Array) -> jax.Array:
    """From normalized to pixel positions."""
    return _diagonal([_half(n, align_corners) for n in shape], [(n - 1) / 2 for n in shape], like)


def _to_normalized(shape: Sequence[int], align_corners: bool, like: jax.Array) -> jax.Array:
    """From pixel to normalized positions; an axis without an extent maps everything to 0."""
    factors = [1 / half if (half := _half(n, align_corners)) else 0.0 for n in shape]
    shifts = [-(n - 1) / 2 * f for n, f in zip(shape, factors, strict=True)]
    return _diagonal(factors, shifts, like)


def _half(size: int, align_corners: bool) -> float:
    return (size - 1 if align_corners else size) / 2


def _diagonal(factors: Sequence[float], shifts: Sequence[float], like: jax.Array) -> jax.Array:
    """The affine matrix with a factor and a shift per axis, given in the order of the axes."""
    matrix = jnp.diag(jnp.array(factors[::-1], like.dtype))
    return jnp.concatenate([matrix, jnp.array(shifts[::-1], like.dtype)[:, None]], -1)
