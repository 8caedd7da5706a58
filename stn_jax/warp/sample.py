"""Sampling of an image at given positions: the public functions."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import antialiasing, primitives, validation
from stn_jax.warp.axes import warn_of_axes
from stn_jax.warp.compiled import compiled
from stn_jax.warp.products import lead_to
from stn_jax.warp.sampling import Sampling


@compiled("image", "theta")
def affine_transform(
    image: ArrayLike,
    theta: ArrayLike,
    shape: Sequence[int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
    antialias: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Warps an image by an affine transform: :func:`affine_grid`, then :func:`grid_sample`.

    Args:
      image: ``[..., H, W, C]``, or ``[..., D, H, W, C]`` if theta is 3x4. Floating point.
      theta: ``[..., 2, 3]`` or ``[..., 3, 4]``, from *output* to *input* coordinates. Its leading
        axes broadcast against the image's: one theta serves a batch, one image many thetas.
      shape: the output's spatial shape; None: the image's.
      mode: "nearest", "bilinear" or "bicubic" (images only).
      padding_mode: "zeros", "border" or "reflection".
      fill: the value outside the image with "zeros", as in :func:`grid_sample`.
      align_corners: whether -1 and 1 are the centers (True) or the outer edges (False) of the
        corner pixels, in input and output.
      antialias: whether to average over details too fine for the output where the warp shrinks the
        image ("bilinear" and "bicubic" only), see :mod:`stn_jax.warp.antialiasing`. A pure scaling
        then gives the same as ``jax.image.resize(antialias=True)``.
      deterministic: as in :func:`grid_sample`.

    Returns:
      The warped image ``[..., *shape, C]`` in the image's type.

    Raises:
      TypeError, ValueError: as :func:`affine_grid` and :func:`grid_sample`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from stn_jax import affine_transform
      >>> image = jnp.arange(4.0).reshape(2, 2, 1)
      >>> mirrored = affine_transform(image, jnp.array([[-1.0, 0, 0], [0, 1, 0]]))
      >>> mirrored[..., 0].tolist()
      [[1.0, 0.0], [3.0, 2.0]]
    """
    theta = validation.floating("theta", theta)
    dims = validation.theta_dims(theta)
    image = validation.image(image, dims)
    warn_of_axes(image.shape, dims, theta.shape[:-2])
    shape = image.shape[-1 - dims : -1] if shape is None else shape
    shape = validation.spatial_shape(shape, dims)
    sampling = Sampling(
        dims, shape, mode, padding_mode, bool(align_corners), deterministic=bool(deterministic)
    )
    warp = _sample_shrunk if antialias else _sample
    return warp(image, theta, sampling, fill)


@compiled("image", "grid")
def grid_sample(
    image: ArrayLike,
    grid: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    align_corners: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Samples an image at the positions of a grid.

    The counterpart of ``torch.nn.functional.grid_sample`` and of ONNX GridSample; the sampler of
    Jaderberg et al. 2015, Section 3.3. Differentiable in image and grid, in forward and reverse
    mode and any number of times. At whole-pixel positions the gradient to the grid is the slope
    towards the next pixel, so that an identity initialization can learn; it is 0 where "border" or
    "reflection" clamps a position to the edge (both as in PyTorch).

    Convention
        Channels last. Positions are (x, y) in images and (x, y, z) in volumes: x along W, y along
        H, z along D, with -1 and 1 at the outer edges of the first and last pixel or, with
        ``align_corners=True``, at their centers. Positions are computed in float32 or wider
        whatever the image's type; half-precision images are interpolated in float32.

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      grid: ``[..., H_out, W_out, 2]`` or ``[..., D_out, H_out, W_out, 3]``, floating point. The
        leading axes of image and grid broadcast against each other, without copies.
      mode: "nearest" (ties go to the even pixel), "bilinear" (trilinear in volumes) or
        "bicubic" (the kernel with a = -0.75; images only).
      padding_mode: values outside the image: "zeros", "border" (the nearest edge pixel) or
        "reflection" (mirrored at the outer edges or, with ``align_corners=True``, at the centers of
        the edge pixels).
      fill: the value outside the image with "zeros": a number, or one per channel ``[C]``. Must be
        finite, and should be of the pixels' magnitude: it is subtracted before and added after
        sampling, so a large fill costs precision.
      align_corners: see the convention.
      deterministic: whether gradients to images have the same bits every time on a GPU too, where
        they are otherwise sums in no fixed order. They then take a sort, and more time and memory.
        On a CPU they are the same every time in any case.

    Returns:
      ``[..., H_out, W_out, C]`` or ``[..., D_out, H_out, W_out, C]`` in the image's type. NaN
      positions yield NaN, and so do infinite ones with "reflection". Infinities and NaNs in pixels
      outside the kernel's support have no effect; "bilinear" at a whole-pixel position includes the
      next pixel, with weight 0, as in PyTorch.

    Raises:
      TypeError: image or grid is not floating point.
      ValueError: the shapes do not match, the image has no pixels, mode or padding_mode is
        unknown, or there is a fill with a padding other than "zeros".
    """
    grid = validation.positions("grid", grid)
    dims = grid.shape[-1]
    image = validation.image(image, dims)
    warn_of_axes(image.shape, dims, grid.shape[: -dims - 1])
    sampling = Sampling(
        dims, None, mode, padding_mode, bool(align_corners), deterministic=bool(deterministic)
    )
    return _sample(image, grid, sampling, fill)


def _sample_shrunk(
    image: jax.Array, theta: jax.Array, sampling: Sampling, fill: ArrayLike
) -> jax.Array:
    """Samples by a theta without aliasing, from a smoothed image."""
    _check(sampling)
    assert sampling.shape is not None
    of_theta = sampling.lead("where", theta)
    shape = (*_broadcast(image.shape, sampling.lead("image", image), of_theta), *sampling.shape)
    if _is_empty(shape) or _is_empty(image.shape):
        return _sample(image, theta, sampling, fill)
    outside = validation.fill(fill, image, sampling.padding_mode)
    smooth, residual = antialiasing.prefilter(image, theta, sampling, outside)
    # All positions are inside the smoothed image.
    inner = sampling._replace(mode="bilinear", padding_mode="border", align_corners=False)
    return _sample(smooth, residual, inner, 0.0).astype(image.dtype)


def _check(sampling: Sampling) -> None:
    validation.known("mode", sampling.mode, validation.MODES)
    validation.known("padding_mode", sampling.padding_mode, validation.PADDING_MODES)
    if sampling.mode == "bicubic" and sampling.num_spatial_dims == 3:
        raise ValueError("mode is 'bicubic', which does not support volumes; use 'bilinear'")


def _sample(image: jax.Array, where: jax.Array, sampling: Sampling, fill: ArrayLike) -> jax.Array:
    _check(sampling)
    outside = validation.fill(fill, image, sampling.padding_mode)
    of_image, of_where = sampling.lead("image", image), sampling.lead("where", where)
    batch = _broadcast(image.shape, of_image, of_where)
    shape = (*batch, *sampling.out_shape(where), image.shape[-1])
    _check_pixels(image.shape, image.shape[len(of_image) : -1], shape)
    if _is_empty(shape):
        return jnp.zeros(shape, image.dtype)
    compute = validation.wide(image.dtype, where.dtype)
    core = image.ndim - len(of_image), where.ndim - len(of_where)
    pixels = lead_to(image.astype(compute), len(batch) + core[0])
    if outside is not None:
        outside = lead_to(outside.astype(compute), pixels.ndim)
        pixels = pixels - outside
    found = primitives.sample(
        pixels, lead_to(where.astype(compute), len(batch) + core[1]), sampling
    )
    if outside is not None:
        found = found + outside
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
