"""Targets of augmentation: images with masks, boxes and keypoints.

Convention
    Keypoints are (x, y) in pixels; (0, 0) is the center of the first pixel. Boxes are (x0, y0, x1,
    y1), the positions of edges in pixels; (0, 0) is the outer corner of the first pixel and (W, H)
    that of the last, as in :func:`stn_jax.crop_and_resize`. In volumes keypoints are (x, y, z), and
    boxes (x0, y0, z0, x1, y1, z1).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.products import lead_to


class Targets(NamedTuple):
    """One or more images, optionally with masks, boxes and keypoints; a pytree.

    Convention
        Keypoints are (x, y) in pixels; (0, 0) is the center of the first pixel. Boxes are (x0, y0,
        x1, y1), the positions of edges in pixels; (0, 0) is the outer corner of the first pixel.

    Attributes:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point. Each example along the
        leading axes is augmented independently.
      mask: ``[..., H, W]`` or ``[..., D, H, W]``, of any type; labels are never interpolated.
      boxes: ``[..., K, 4]``, or ``[..., K, 6]`` for volumes, floating point.
      keypoints: ``[..., K, 2]``, or ``[..., K, 3]`` for volumes, floating point.
    """

    image: jax.Array
    mask: jax.Array | None = None
    boxes: jax.Array | None = None
    keypoints: jax.Array | None = None


def checked(targets: Targets | ArrayLike, dims: int) -> tuple[Targets, tuple[int, ...]]:
    """Checks targets; returns them as arrays, and the image's leading axes."""
    if dims not in (2, 3):
        raise ValueError(f"num_spatial_dims is {dims}; expected 2 (images) or 3 (volumes)")
    if not isinstance(targets, Targets):
        raise TypeError(f"targets is a {type(targets).__name__}; expected stn_jax.augment.Targets")
    image = validation.image(targets.image, dims)
    lead, spatial = image.shape[: -1 - dims], image.shape[-1 - dims : -1]
    mask = None if targets.mask is None else jnp.asarray(targets.mask)
    if mask is not None and mask.shape != (*lead, *spatial):
        raise ValueError(f"mask has shape {mask.shape}; expected {(*lead, *spatial)}, as the image")
    coordinates: list[jax.Array | None] = []
    for name, size in (("boxes", 2 * dims), ("keypoints", dims)):
        value = getattr(targets, name)
        if value is None:
            coordinates.append(None)
            continue
        value = validation.floating(name, value)
        if value.ndim != len(lead) + 2 or value.shape[:-2] != lead or value.shape[-1] != size:
            raise ValueError(f"{name} has shape {value.shape}; expected [*{lead}, K, {size}]")
        coordinates.append(value)
    return Targets(image, mask, *coordinates), lead


def move(
    targets: Targets,
    shape: Sequence[int],
    sample: Callable[[jax.Array, bool], jax.Array],
    forward: Callable[[jax.Array], jax.Array],
    *,
    mask_fill: ArrayLike = 0,
    points_per_edge: int = 2,
) -> Targets:
    """Applies the same warp to image, mask, boxes and keypoints.

    Args:
      targets: checked targets.
      shape: the result's spatial shape.
      sample: function that warps an image ``[..., *S, C]``; its flag selects nearest-neighbor
        sampling with 0 outside.
      forward: function from positions ``[..., K, dims]`` in pixels to their new positions.
      mask_fill: the mask's value outside.
      points_per_edge: number of points on each edge of a box whose bounding box is the new box; 2
        are the corners.
    """
    mask = targets.mask
    if mask is not None:
        mask = _sample_labels(mask, sample, len(shape), mask_fill)
    boxes = targets.boxes
    if boxes is not None:
        boxes = _move_boxes(boxes, shape, forward, points_per_edge)
    keypoints = targets.keypoints
    if keypoints is not None:
        keypoints = forward(keypoints).astype(keypoints.dtype)
    return Targets(sample(targets.image, False), mask, boxes, keypoints)


def sampling_options(
    nearest: bool, mode: str, padding_mode: str, fill: ArrayLike, deterministic: bool
) -> dict[str, Any]:
    """The options of a warp: the image's, or nearest-neighbor sampling with 0 outside."""
    if nearest:
        return {"mode": "nearest", "padding_mode": padding_mode}
    return {
        "mode": mode,
        "padding_mode": padding_mode,
        "fill": fill,
        "deterministic": deterministic,
    }


def _sample_labels(
    mask: jax.Array, sample: Callable[[jax.Array, bool], jax.Array], dims: int, fill: ArrayLike
) -> jax.Array:
    """Samples labels at the nearest pixels, by warping the pixels' indices.

    Labels converted to floats could be rounded.
    """
    lead, sizes = mask.shape[: mask.ndim - dims], mask.shape[mask.ndim - dims :]
    axes = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in sizes), indexing="ij")
    numbers = jnp.broadcast_to(jnp.stack([a + 1 for a in axes], -1), (*lead, *sizes, dims))
    found = sample(numbers, True)  # 0: outside
    found = jnp.where(jnp.isnan(found), 0, found).astype(jnp.int32) - 1
    index = jnp.zeros((), jnp.int32)
    for k, size in enumerate(sizes):
        index = index * size + jnp.maximum(found[..., k], 0)
    flat = mask.reshape(*lead, -1)
    labels = jnp.take_along_axis(flat, index.reshape(*lead, -1), -1).reshape(index.shape)
    return jnp.where((found >= 0).all(-1), labels, jnp.asarray(fill).astype(mask.dtype))


def _move_boxes(
    boxes: jax.Array,
    shape: Sequence[int],
    forward: Callable[[jax.Array], jax.Array],
    points_per_edge: int,
) -> jax.Array:
    """The bounding boxes of the boxes' warped surfaces, clipped to the image."""
    dims = len(shape)
    low, high = boxes[..., :dims], boxes[..., dims:]
    parts = [k / (points_per_edge - 1) for k in range(points_per_edge)]
    corners = [
        part
        for part in itertools.product(parts, repeat=dims)
        if sum(0 < p < 1 for p in part) < dims  # on the surface
    ]
    part = lead_to(jnp.array(corners, boxes.dtype), boxes.ndim + 1)
    points = low[..., None, :] + (high - low)[..., None, :] * part
    moved = forward(points.reshape(*boxes.shape[:-2], -1, dims) - 0.5) + 0.5
    moved = moved.reshape(points.shape)
    around = jnp.concatenate([moved.min(-2), moved.max(-2)], -1)
    return clip_boxes(around, shape).astype(boxes.dtype)


def clip_boxes(boxes: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Clips boxes to an image of a spatial shape."""
    limit = jnp.array([*shape[::-1], *shape[::-1]], boxes.dtype)
    return jnp.clip(boxes, 0, lead_to(limit, boxes.ndim))
