"""Sampling an image at the positions of a grid: the one place where interpolation lives."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import primitives, validation
from stn_jax.warp.products import lead_to
from stn_jax.warp.sampling import Sampling


def affine_transform(
    image: ArrayLike,
    theta: ArrayLike,
    shape: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> jax.Array:
    """Warps an image by an affine transform: :func:`affine_grid`, then :func:`grid_sample`.

    Args:
      image: ``[..., H, W, C]``, or ``[..., D, H, W, C]`` where theta is 3x4. Floating point.
      theta: ``[..., 2, 3]`` or ``[..., 3, 4]``, from *output* to *input* coordinates. Its leading
        axes broadcast against the image's: one theta serves a batch, one image many thetas.
      shape: the output's spatial shape; the image's own where None.
      mode: "nearest", "bilinear" or "bicubic" (images only).
      padding_mode: "zeros", "border" or "reflection".
      align_corners: whether -1 and 1 are the centres (True) or the outer edges (False) of the
        corner pixels, in input and output.

    Returns:
      The warped image ``[..., *shape, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`affine_grid` and :func:`grid_sample` do.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import affine_transform
      >>> image = jnp.arange(4.0).reshape(2, 2, 1)
      >>> mirrored = affine_transform(image, jnp.array([[-1.0, 0, 0], [0, 1, 0]]))
      >>> mirrored[..., 0].tolist()
      [[1.0, 0.0], [3.0, 2.0]]
    """
    theta = validation.floating("theta", theta)
    rank = validation.theta_rank(theta)
    image = validation.image(image, rank)
    shape = image.shape[-1 - rank : -1] if shape is None else shape
    shape = validation.spatial_shape(shape, rank)
    return _sample(image, theta, Sampling(rank, shape, mode, padding_mode, bool(align_corners)))


def grid_sample(
    image: ArrayLike,
    grid: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> jax.Array:
    """Samples an image at the positions that a grid holds.

    The counterpart of ``torch.nn.functional.grid_sample`` and of ONNX GridSample; the sampler of
    Jaderberg et al. 2015, Section 3.3. Differentiable in image and grid, in forward and reverse
    mode and any number of times; the gradient to the grid at whole-pixel positions is the slope
    towards the next pixel, so an identity initialisation can learn, and 0 where "border" or
    "reflection" stops a position at the edge (both as in PyTorch).

    Convention
        Channels last. Positions are (x, y) in images and (x, y, z) in volumes: x along W, y along
        H, z along D, with -1 and 1 at the outer edges of the first and last pixel or, with
        ``align_corners=True``, at their centres. Positions are computed in float32 or wider
        whatever the image's type; half-precision images are interpolated in float32.

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      grid: ``[..., H_out, W_out, 2]`` or ``[..., D_out, H_out, W_out, 3]``, floating point. The
        leading axes of image and grid broadcast against each other; nothing is copied for it.
      mode: "nearest" (halves go to the even pixel), "bilinear" (trilinear in volumes) or
        "bicubic" (the kernel with a = -0.75; images only).
      padding_mode: what lies outside: "zeros", "border" (the nearest edge pixel) or "reflection"
        (mirrored at the outer edges or, with ``align_corners=True``, at the corner centres).
      align_corners: see the convention.

    Returns:
      ``[..., H_out, W_out, C]`` or ``[..., D_out, H_out, W_out, C]`` in the image's type. A
      position that is NaN gives NaN; so does an infinite one with "reflection". Infinities and
      NaNs in pixels that the kernel does not reach never count; "bilinear" at a whole position
      reaches to the next pixel, with weight 0, as in PyTorch.

    Raises:
      TypeError: image or grid is not floating point.
      ValueError: shapes do not fit, the image has no pixels, or mode or padding_mode is unknown.
    """
    grid = validation.floating("grid", grid)
    rank = grid.shape[-1] if grid.ndim else 0
    if rank not in (2, 3) or grid.ndim < rank + 1:
        raise ValueError(
            f"grid has shape {grid.shape}; expected [..., H_out, W_out, 2] or "
            "[..., D_out, H_out, W_out, 3]"
        )
    image = validation.image(image, rank)
    return _sample(image, grid, Sampling(rank, None, mode, padding_mode, bool(align_corners)))


def _sample(image: jax.Array, where: jax.Array, sampling: Sampling) -> jax.Array:
    validation.known("mode", sampling.mode, validation.MODES)
    validation.known("padding_mode", sampling.padding_mode, validation.PADDING_MODES)
    if sampling.mode == "bicubic" and sampling.rank == 3:
        raise ValueError("mode is 'bicubic', which volumes do not have; use 'bilinear'")
    of_image, of_where = sampling.lead("image", image), sampling.lead("where", where)
    batch = _broadcast(image.shape, of_image, of_where)
    shape = (*batch, *sampling.out_shape(where), image.shape[-1])
    _check_pixels(image.shape, image.shape[len(of_image) : -1], shape)
    if _is_empty(shape):
        return jnp.zeros(shape, image.dtype)
    compute = validation.wide(image.dtype, where.dtype)
    core = image.ndim - len(of_image), where.ndim - len(of_where)
    found = primitives.sample(
        lead_to(image.astype(compute), len(batch) + core[0]),
        lead_to(where.astype(compute), len(batch) + core[1]),
        sampling,
    )
    return found.astype(image.dtype)


def _broadcast(image: Any, of_image: tuple[Any, ...], of_where: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        return jnp.broadcast_shapes(of_image, of_where)
    except ValueError:
        raise ValueError(
            f"the leading axes of image {image} and of the grid or theta do not broadcast: "
            f"{of_image} against {of_where}"
        ) from None


def _check_pixels(image: tuple[Any, ...], sizes: tuple[Any, ...], out: tuple[Any, ...]) -> None:
    if _is_empty(sizes) and not _is_empty(out):
        raise ValueError(f"image has shape {image}; there is no pixel to sample from")
    pixels = math.prod(sizes)
    if isinstance(pixels, int) and pixels >= 2**31:
        raise ValueError(f"the image has {pixels} pixels, more than 2**31 - 1; sample parts of it")


def _is_empty(shape: tuple[Any, ...]) -> bool:
    return any(isinstance(size, int) and size == 0 for size in shape)
