"""Augmentation by random crops."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax.augment.targets import Targets, checked, clip_boxes, move, sampling_options
from stn_jax.warp import validation
from stn_jax.warp.boxes import crop_and_resize
from stn_jax.warp.compiled import compiled
from stn_jax.warp.products import lead_to


@compiled("key", "targets")
def random_crop(
    key: jax.Array, targets: Targets, shape: Sequence[int], *, num_spatial_dims: int = 2
) -> tuple[Targets, jax.Array]:
    """Crops each example at a random whole-pixel position, without interpolation.

    Args:
      key: a random key.
      targets: the examples.
      shape: the crop's spatial shape, at most the image's.
      num_spatial_dims: 2 for images, 3 for volumes.

    Returns:
      The cropped targets, with boxes clipped to the crop, and the crops' first pixels: int32
      ``[..., 2]`` of (x, y), or ``[..., 3]`` of (x, y, z).

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or shape exceeds the image's.
    """
    targets, lead = checked(targets, num_spatial_dims)
    dims = num_spatial_dims
    shape = validation.spatial_shape(shape, dims)
    sizes = targets.image.shape[-1 - dims : -1]
    room = [size - part for size, part in zip(sizes, shape, strict=True)]
    if min(room) < 0:
        raise ValueError(f"shape is {shape}; expected at most the image's, {sizes}")
    ends = jnp.broadcast_to(jnp.array(room[::-1]) + 1, (*lead, dims))
    start = jax.random.randint(key, (*lead, dims), 0, ends)
    count = math.prod(lead)

    def cut(x: jax.Array, rest: int) -> jax.Array:
        """Crops an array ``[..., *S]`` followed by ``rest`` more axes."""
        flat = x.reshape(count, *x.shape[len(lead) :])
        own = x.shape[x.ndim - rest :]

        def one(x: jax.Array, start: jax.Array) -> jax.Array:
            begin = [*start[::-1], *(jnp.zeros((), start.dtype) for _ in own)]
            return lax.dynamic_slice(x, begin, (*shape, *own))

        return jax.vmap(one)(flat, start.reshape(count, dims)).reshape(*lead, *shape, *own)

    image, mask, boxes, keypoints = targets
    image = cut(image, 1)
    mask = None if mask is None else cut(mask, 0)
    moved = start[..., None, :]
    if boxes is not None:
        offset = moved.astype(boxes.dtype)
        boxes = clip_boxes(boxes - jnp.concatenate([offset, offset], -1), shape)
    if keypoints is not None:
        keypoints = keypoints - moved.astype(keypoints.dtype)
    return Targets(image, mask, boxes, keypoints), start


@compiled("key", "targets")
def random_resized_crop(
    key: jax.Array,
    targets: Targets,
    shape: Sequence[int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    mode: str = "bilinear",
    antialias: bool = True,
    deterministic: bool = False,
) -> tuple[Targets, jax.Array]:
    """Crops each image at a random position, size and aspect ratio, and resizes the crop.

    Args:
      key: a random key.
      targets: the examples, images only.
      shape: the result's ``(H, W)``.
      scale: range of the crop's area as a fraction of the image's, drawn uniformly.
      ratio: range of the crop's width divided by its height, drawn log-uniformly. A crop that would
        be wider or higher than the image is reduced to its size.
      mode, antialias, deterministic: as in :func:`stn_jax.crop_and_resize`.

    Returns:
      The resized crops, and the crops' boxes ``[..., 4]``: (x0, y0, x1, y1), edges in pixels.

    Raises:
      TypeError: the targets have the wrong types.
      ValueError: the targets' shapes do not match, or a range is invalid.

    References:
      Szegedy et al., "Going deeper with convolutions", CVPR 2015, Section 6.
    """
    targets, lead = checked(targets, 2)
    shape = validation.spatial_shape(shape, 2)
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(
            f"scale is {scale} and ratio {ratio}; expected ranges above 0, scale at most 1"
        )
    keys = jax.random.split(key, 3)
    limit = jnp.array(targets.image.shape[-2:-4:-1], jnp.float32)
    area = jax.random.uniform(keys[0], lead, jnp.float32, *scale) * limit.prod()
    shown = jnp.log(jnp.array(ratio, jnp.float32))
    aspect = jnp.exp(jax.random.uniform(keys[1], lead, jnp.float32, *shown))
    size = jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], -1)
    limit = lead_to(limit, size.ndim)
    size = jnp.minimum(size, limit)
    low = jax.random.uniform(keys[2], (*lead, 2)) * (limit - size)
    box = jnp.concatenate([low, low + size], -1)
    out = jnp.array(shape[::-1], jnp.float32)

    def sample(image: jax.Array, nearest: bool) -> jax.Array:
        options = sampling_options(nearest, mode, "border", 0.0, deterministic)
        smooth = antialias and not nearest
        found = crop_and_resize(image, box[..., None, :], shape, antialias=smooth, **options)
        return found.squeeze(-4)

    def forward(points: jax.Array) -> jax.Array:
        part = (points + 0.5 - low[..., None, :]) / size[..., None, :]
        return part * lead_to(out, part.ndim) - 0.5

    return move(targets, shape, sample, forward), box
