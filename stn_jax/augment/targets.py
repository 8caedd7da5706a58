"""What is augmented together: an image and what is known about places in it.

Convention
    Keypoints are (x, y) in pixels, (0, 0) the center of the first pixel; boxes (x0, y0, x1, y1)
    are edges in pixels, (0, 0) the outer corner of the first pixel and (W, H) that of the last (as
    in :func:`stn_jax.crop_and_resize`). Volumes: (x, y, z), (x0, y0, z0, x1, y1, z1).
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
    """An image, or a batch of them, and what goes with it; a pytree.

    Attributes:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point. Each of the leading axes'
        examples is augmented by draws of its own.
      mask: ``[..., H, W]`` (``[..., D, H, W]``), of any type; what it holds is never mixed.
      boxes: ``[..., K, 4]`` (6), floating point; see the module's convention.
      keypoints: ``[..., K, 2]`` (3), floating point.
    """

    image: jax.Array
    mask: jax.Array | None = None
    boxes: jax.Array | None = None
    keypoints: jax.Array | None = None


def checked(targets: Targets | ArrayLike, rank: int) -> tuple[Targets, tuple[int, ...]]:
    """Targets as arrays, and the image's leading axes; errors where they do not fit."""
    if rank not in (2, 3):
        raise ValueError(f"num_spatial_dims is {rank}; expected 2 (images) or 3 (volumes)")
    if not isinstance(targets, Targets):
        raise TypeError(f"targets is a {type(targets).__name__}; expected stn_jax.augment.Targets")
    image = validation.image(targets.image, rank)
    lead, spatial = image.shape[: -1 - rank], image.shape[-1 - rank : -1]
    mask = None if targets.mask is None else jnp.asarray(targets.mask)
    if mask is not None and mask.shape != (*lead, *spatial):
        raise ValueError(f"mask has shape {mask.shape}; expected {(*lead, *spatial)}, as the image")
    places: list[jax.Array | None] = []
    for name, size in (("boxes", 2 * rank), ("keypoints", rank)):
        value = getattr(targets, name)
        if value is None:
            places.append(None)
            continue
        value = validation.floating(name, value)
        if value.ndim != len(lead) + 2 or value.shape[:-2] != lead or value.shape[-1] != size:
            raise ValueError(f"{name} has shape {value.shape}; expected [*{lead}, K, {size}]")
        places.append(value)
    return Targets(image, mask, *places), lead


def move(
    targets: Targets,
    shape: Sequence[int],
    sample: Callable[[jax.Array, bool], jax.Array],
    forward: Callable[[jax.Array], jax.Array],
    *,
    mask_fill: ArrayLike = 0,
    points_per_edge: int = 2,
) -> Targets:
    """Augments all targets alike.

    Args:
      targets: checked ones.
      shape: the result's spatial shape.
      sample: warps an image ``[..., *S, C]``; whether by the nearest pixel, with 0 outside.
      forward: gives where positions ``[..., K, r]`` in pixels come to lie.
      mask_fill: what a mask holds outside.
      points_per_edge: of a box's edges that are followed; 2 are its corners.
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
    nearest: bool, mode: str, padding_mode: str, fill: ArrayLike
) -> dict[str, Any]:
    """Options of a warp: those of the image, or for labels the nearest pixel with 0 outside."""
    if nearest:
        return {"mode": "nearest", "padding_mode": padding_mode}
    return {"mode": mode, "padding_mode": padding_mode, "fill": fill}


def _sample_labels(
    mask: jax.Array, sample: Callable[[jax.Array, bool], jax.Array], rank: int, fill: ArrayLike
) -> jax.Array:
    """Labels at the nearest pixels: by a warp of these pixels' numbers.

    Labels as floats would be rounded, and a fill is no label to subtract.
    """
    lead, sizes = mask.shape[: mask.ndim - rank], mask.shape[mask.ndim - rank :]
    axes = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in sizes), indexing="ij")
    numbers = jnp.broadcast_to(jnp.stack([a + 1 for a in axes], -1), (*lead, *sizes, rank))
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
    """The boxes around what the boxes' surfaces become, cut at the image's edges."""
    rank = len(shape)
    low, high = boxes[..., :rank], boxes[..., rank:]
    parts = [k / (points_per_edge - 1) for k in range(points_per_edge)]
    corners = [
        part
        for part in itertools.product(parts, repeat=rank)
        if sum(0 < p < 1 for p in part) < rank  # on the surface
    ]
    part = lead_to(jnp.array(corners, boxes.dtype), boxes.ndim + 1)
    points = low[..., None, :] + (high - low)[..., None, :] * part
    moved = forward(points.reshape(*boxes.shape[:-2], -1, rank) - 0.5) + 0.5
    moved = moved.reshape(points.shape)
    around = jnp.concatenate([moved.min(-2), moved.max(-2)], -1)
    return cut_boxes(around, shape).astype(boxes.dtype)


def cut_boxes(boxes: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Boxes cut at the edges of an image of a spatial shape."""
    limit = jnp.array([*shape[::-1], *shape[::-1]], boxes.dtype)
    return jnp.clip(boxes, 0, lead_to(limit, boxes.ndim))
