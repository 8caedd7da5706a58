"""Augmentation by displacement fields: elastic deformation, thin-plate splines."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.augment.targets import Targets, checked, move, sampling_options
from stn_jax.warp import validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.grid import normalized_to_pixel
from stn_jax.warp.products import lead_to
from stn_jax.warp.remapping import flow_warp, remap
from stn_jax.warp.transforms.thin_plate import ThinPlateSpline

# Iterations of the search for a point's new position. Each at least halves the error if the field
# does not fold, changing by less than half a pixel per pixel.
_STEPS = 20


@compiled("key", "targets")
def random_elastic(
    key: jax.Array,
    targets: Targets,
    *,
    magnitude: float = 2.0,
    smoothness: float = 8.0,
    num_spatial_dims: int = 2,
    mode: str = "bilinear",
    padding_mode: str = "border",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
    deterministic: bool = False,
) -> tuple[Targets, jax.Array]:
    """Displaces each pixel by a smooth random field.

    Args:
      key: a random key.
      targets: the examples.
      magnitude: standard deviation of the displacements along each axis, in pixels. Above about a
        third of the smoothness the field folds, and boxes and keypoints become inaccurate.
      smoothness: standard deviation of the Gaussian that smooths the field, in pixels.
      num_spatial_dims: 2 for images, 3 for volumes.
      mode, padding_mode, fill, deterministic: for the image, as in :func:`stn_jax.grid_sample`.
      mask_fill: the mask's value outside with "zeros".

    Returns:
      The augmented targets (for boxes and keypoints see :func:`apply_displacement`), and the
      displacements ``[..., H, W, 2]`` or ``[..., D, H, W, 3]``, in pixels.

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or magnitude or smoothness is out of range.

    References:
      Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied to
      visual document analysis", ICDAR 2003.
    """
    targets, lead = checked(targets, num_spatial_dims)
    dims = num_spatial_dims
    if not (magnitude >= 0 and smoothness > 0):
        raise ValueError(
            f"magnitude is {magnitude} and smoothness {smoothness}; expected a magnitude of at "
            "least 0 and a smoothness above 0"
        )
    sizes = targets.image.shape[-1 - dims : -1]
    field = jax.random.normal(key, (*lead, *sizes, dims))
    for axis, size in enumerate(sizes):
        smoother = jnp.asarray(_smoother(size, smoothness), field.dtype)
        moved = jnp.moveaxis(field, axis - 1 - dims, -2)
        moved = jnp.matmul(lead_to(smoother, moved.ndim), moved, precision=lax.Precision.HIGHEST)
        field = jnp.moveaxis(moved, -2, axis - 1 - dims)
    field = magnitude * field
    found = apply_displacement(
        targets,
        field,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        mask_fill=mask_fill,
        deterministic=deterministic,
    )
    return found, field


def _smoother(size: int, sigma: float) -> np.ndarray:
    """A Gaussian filter as a matrix; filtered white noise keeps its variance, even at the edges."""
    index = np.arange(size)
    weights = np.exp(-0.5 * ((index[:, None] - index) / sigma) ** 2)
    return weights / np.sqrt(np.square(weights).sum(1, keepdims=True))


@compiled("key", "targets")
def random_thin_plate(
    key: jax.Array,
    targets: Targets,
    *,
    points: int = 4,
    magnitude: float = 0.1,
    mode: str = "bilinear",
    padding_mode: str = "border",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
    deterministic: bool = False,
) -> tuple[Targets, jax.Array]:
    """Bends each image by a thin-plate spline through displaced control points.

    Args:
      key: a random key.
      targets: the examples, images only.
      points: number of control points along each axis.
      magnitude: the largest displacement of a control point along x and y, drawn uniformly; in
        normalized coordinates, in which the image's sides are 2. Above about half the distance of
        adjacent control points, 2 / (points - 1), splines fold.
      mode, padding_mode, fill, mask_fill, deterministic: as in :func:`random_elastic`.

    Returns:
      The augmented targets (for boxes and keypoints see :func:`apply_displacement`), and the
      parameters ``[..., 2 * points**2]`` of :class:`stn_jax.warp.transforms.ThinPlateSpline`.

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or points or magnitude is out of range.

    References:
      Bookstein, "Principal warps: thin-plate splines and the decomposition of deformations", IEEE
      TPAMI 11(6), 1989.
    """
    targets, lead = checked(targets, 2)
    if not 0 <= magnitude < math.inf:
        raise ValueError(f"magnitude is {magnitude}; expected 0 or more")
    spline = ThinPlateSpline(points)
    params = jax.random.uniform(key, (*lead, spline.size), jnp.float32, -magnitude, magnitude)
    height, width = targets.image.shape[-3:-1]
    grid = spline.grid(params, (height, width))
    own = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), -1).astype(grid.dtype)
    x, y = (normalized_to_pixel(grid[..., k], n) for k, n in enumerate((width, height)))
    field = jnp.stack([x, y], -1) - lead_to(own, grid.ndim)
    found = apply_displacement(
        targets,
        field,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        mask_fill=mask_fill,
        deterministic=deterministic,
    )
    return found, params


@compiled("targets", "field")
def apply_displacement(
    targets: Targets,
    field: ArrayLike,
    *,
    mode: str = "bilinear",
    padding_mode: str = "border",
    fill: ArrayLike = 0.0,
    mask_fill: ArrayLike = 0,
    deterministic: bool = False,
) -> Targets:
    """Warps targets by given displacement fields.

    Args:
      targets: the examples.
      field: ``[..., H, W, 2]`` of (dx, dy), or ``[..., D, H, W, 3]`` of (dx, dy, dz), in pixels,
        one field for each example. As in :func:`stn_jax.flow_warp`, the result at p is the image at
        p + field(p).
      mode, padding_mode, fill, deterministic: for the image, as in :func:`stn_jax.grid_sample`.
      mask_fill: the mask's value outside with "zeros".

    Returns:
      The warped targets. The new position of a keypoint q solves p + field(p) = q, by fixed-point
      iteration; a box becomes the bounding box of nine points on each of its edges.

    Raises:
      TypeError: the targets or the field have the wrong types.
      ValueError: their shapes do not match.
    """
    field = validation.positions("field", field)
    dims = field.shape[-1]
    targets, _ = checked(targets, dims)
    sizes = targets.image.shape[-1 - dims : -1]
    if field.shape[-1 - dims : -1] != sizes:
        raise ValueError(f"field has shape {field.shape}; expected [..., {sizes}, {dims}]")

    def sample(image: jax.Array, nearest: bool) -> jax.Array:
        options = sampling_options(nearest, mode, padding_mode, fill, deterministic)
        return flow_warp(image, field, **options)

    def forward(points: jax.Array) -> jax.Array:
        points = points.astype(validation.wide(points.dtype))
        between = tuple(range(-dims, -1))  # [..., K, r] -> [..., 1, K, r], as a map of positions

        def step(_: int, found: jax.Array) -> jax.Array:
            where = jnp.expand_dims(found, between)
            moved = remap(field, where, padding_mode="border", deterministic=deterministic)
            return points - moved.astype(found.dtype).squeeze(between)

        return lax.fori_loop(0, _STEPS, step, points)

    return move(targets, sizes, sample, forward, mask_fill=mask_fill, points_per_edge=9)
