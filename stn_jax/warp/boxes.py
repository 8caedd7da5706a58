"""Crops of images and features, given by boxes.

Convention
    A box is (x0, y0, x1, y1) in pixels: the positions of its *edges*, where 0 is the left (upper)
    edge of the first pixel and W (H) the right (lower) edge of the last. So (0, 0, W, H) is the
    whole image, and (2, 1, 5, 3) covers columns 2 to 4 and rows 1 and 2. In volumes boxes are (x0,
    y0, z0, x1, y1, z1).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp import antialiasing, validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.products import lead_to
from stn_jax.warp.sample import affine_transform


@compiled("image", "boxes")
def crop_and_resize(
    image: ArrayLike,
    boxes: ArrayLike,
    shape: Sequence[int],
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill: ArrayLike = 0.0,
    antialias: bool = False,
    deterministic: bool = False,
) -> jax.Array:
    """Crops boxes from an image and resizes them.

    Convention
        A box is (x0, y0, x1, y1) in pixels: the positions of its *edges*, where 0 is the left
        (upper) edge of the first pixel and W (H) the right (lower) edge of the last.

    Args:
      image: ``[..., H, W, C]`` or ``[..., D, H, W, C]``, floating point.
      boxes: ``[..., K, 4]``, or ``[..., K, 6]`` of (x0, y0, z0, x1, y1, z1) for volumes, floating
        point. Boxes may extend beyond the image; x1 < x0 mirrors. Leading axes (without K)
        broadcast against the image's.
      shape: the spatial shape of each crop.
      mode: "nearest", "bilinear" or "bicubic" (images only).
      padding_mode, fill: values outside the *image*, as in :func:`stn_jax.grid_sample`.
      antialias: whether to average over details too fine for the result where a box is shrunk, see
        :mod:`stn_jax.warp.antialiasing`. The box of the whole image then gives the same as
        ``jax.image.resize(antialias=True)``. A NaN spreads along its row and column.
      deterministic: as in :func:`stn_jax.grid_sample`.

    Returns:
      ``[..., K, *shape, C]`` in the image's type.

    Raises:
      TypeError: image or boxes are not floating point.
      ValueError: the shapes do not match, or an option is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> image = jnp.arange(16.0).reshape(4, 4, 1)
      >>> boxes = jnp.array([[1.0, 1, 3, 3]])
      >>> stn_jax.crop_and_resize(image, boxes, (2, 2))[0, ..., 0].tolist()
      [[5.0, 6.0], [9.0, 10.0]]
    """
    boxes, dims = _boxes(boxes)
    image = validation.image(image, dims)
    shape = validation.spatial_shape(shape, dims)
    low, high = boxes[..., :dims], boxes[..., dims:]
    # An axis for the boxes, which share an image.
    image = jnp.expand_dims(image, -2 - dims)
    sizes = image.shape[-1 - dims : -1]
    if antialias and not any(n == 0 for n in (*boxes.shape, *shape, *image.shape)):
        steps = [(high[..., k] - low[..., k]) / shape[dims - 1 - k] for k in reversed(range(dims))]
        starts = [low[..., k] for k in reversed(range(dims))]
        return antialiasing.resample(
            image,
            [a + (step - 1) / 2 for a, step in zip(starts, steps, strict=True)],
            steps,
            [jnp.abs(step) for step in steps],
            shape,
            mode=mode,
            padding_mode=validation.known("padding_mode", padding_mode, validation.PADDING_MODES),
            outside=validation.fill(fill, image, padding_mode),
        ).astype(image.dtype)
    scale, shift = [], []
    for k in range(dims):
        size = max(sizes[dims - 1 - k], 1)
        scale.append((high[..., k] - low[..., k]) / size)
        shift.append((high[..., k] + low[..., k]) / size - 1)
    rows = [
        jnp.stack(
            [*(scale[k] if j == k else jnp.zeros_like(scale[k]) for j in range(dims)), shift[k]], -1
        )
        for k in range(dims)
    ]
    return affine_transform(
        image,
        jnp.stack(rows, -2),
        shape,
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        deterministic=deterministic,
    )


@compiled("image", "boxes")
def roi_align(
    image: ArrayLike,
    boxes: ArrayLike,
    shape: Sequence[int],
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
    deterministic: bool = False,
) -> jax.Array:
    """Averages a feature map over the bins of regions of interest.

    The counterpart of ``torchvision.ops.roi_align``. Every box is divided into ``shape`` bins; the
    value of a bin is the mean of bilinear samples at a grid of points inside it. Unlike
    torchvision's, it is also differentiable with respect to the boxes.

    Convention
        Boxes are (x0, y0, x1, y1) in pixels of the image that the map was computed from;
        ``spatial_scale`` converts them to the map's pixels. With ``aligned=True`` they are
        positions of edges, 0 being the outer edge of the first pixel. With ``aligned=False``
        (Detectron's first convention) they are shifted by half a pixel to the right and down, and
        are at least one pixel wide and high. Points up to one pixel outside the map take the value
        at its edge, those further away 0.

    Args:
      image: the feature map, ``[..., H, W, C]``, floating point.
      boxes: ``[..., K, 4]``, floating point; leading axes (without K) broadcast against the
        image's. Instead of torchvision's batch index, each image has its own boxes.
      shape: number of bins per box, ``(H_out, W_out)``.
      spatial_scale: see the convention.
      sampling_ratio: number of points in a bin along each axis. -1: the bin's size in pixels,
        rounded up; since this differs between boxes, each box then takes products with the whole
        map. For many boxes a fixed number such as 2 is much faster.
      aligned: see the convention.
      deterministic: as in :func:`stn_jax.grid_sample`.

    Returns:
      ``[..., K, *shape, C]`` in the image's type.

    Raises:
      TypeError: image or boxes are not floating point.
      ValueError: the shapes do not match, or sampling_ratio is neither -1 nor positive.

    References:
      He, Gkioxari, Dollar and Girshick, "Mask R-CNN", ICCV 2017, Section 3.
    """
    boxes, dims = _boxes(boxes, allowed_dims=(2,))
    image = validation.image(image, dims)
    height, width = validation.spatial_shape(shape, dims)
    if sampling_ratio != -1 and sampling_ratio < 1:
        raise ValueError(f"sampling_ratio is {sampling_ratio}; expected -1 or a positive int")
    boxes = boxes * spatial_scale
    if not aligned:
        low = boxes[..., :2] + 0.5
        boxes = jnp.concatenate([low, low + jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1)], -1)
    if sampling_ratio == -1:
        return _adaptive_roi_align(image, boxes, (height, width))
    fine = (height * sampling_ratio, width * sampling_ratio)
    samples = crop_and_resize(
        image, boxes, fine, padding_mode="border", deterministic=deterministic
    )
    inside = [
        _near(_points(boxes[..., k], boxes[..., k + 2], fine[1 - k]), image.shape[-2 - k])
        for k in range(2)
    ]
    both = (inside[1][..., :, None] & inside[0][..., None, :])[..., None]
    samples = jnp.where(lead_to(both, samples.ndim), samples, 0)
    lead, channels = samples.shape[:-3], samples.shape[-1]
    # One axis at a time: reshaping both at once would lose the sharding over a mesh.
    rows = samples.reshape(*lead, height, sampling_ratio, fine[1], channels).mean(-3)
    return rows.reshape(*lead, height, width, sampling_ratio, channels).mean(-2)


def _adaptive_roi_align(image: jax.Array, boxes: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """:func:`roi_align` with as many points as a bin has pixels, as weighted sums of rows, columns.

    Sums are in float32 or wider; pixels outside a box have weight 0.
    """
    weights = [
        _bin_weights(boxes[..., k], boxes[..., k + 2], shape[1 - k], image.shape[-2 - k])
        for k in range(2)
    ]
    dtype = validation.wide(image.dtype, boxes.dtype)
    lead = jnp.broadcast_shapes(image.shape[:-3], boxes.shape[:-2])
    pixels = lead_to(image, len(lead) + 3)[..., None, :, :, :].astype(dtype)
    columns, rows = (lead_to(w, len(lead) + 3).astype(dtype) for w in weights)
    # Rows first: [..., K, h, W * C], then columns.
    tall = jnp.einsum("...hi,...ijc->...hjc", rows, pixels, precision=lax.Precision.HIGHEST)
    found = jnp.einsum("...wj,...hjc->...hwc", columns, tall, precision=lax.Precision.HIGHEST)
    return found.astype(image.dtype)


def _bin_weights(low: jax.Array, high: jax.Array, bins: int, size: int) -> jax.Array:
    """The weight of each pixel of an axis in each bin: ``[..., K, bins, size]``.

    A bin of width b has n = ceil(b) points at distances of b / n, which is more than half a pixel
    for n > 1. So at most four points are less than one pixel away from any pixel, and their indices
    are computed, whatever n is.
    """
    step = ((high - low) / bins)[..., None, None]
    count = jnp.maximum(jnp.ceil(lax.stop_gradient(step)), 0)
    apart = step / jnp.maximum(count, 1)
    start = (low - 0.5)[..., None, None] + step * lead_to(
        jnp.arange(bins, dtype=low.dtype)[:, None], step.ndim
    )
    pixel = lead_to(jnp.arange(size, dtype=low.dtype), step.ndim)
    # A single point has index 0, however small its bin is.
    several = jnp.where(count > 1, lax.stop_gradient(apart), 1)
    first = jnp.floor((pixel - 1 - lax.stop_gradient(start)) / several - 0.5)
    first = jnp.where(count > 1, first, 0)
    total = jnp.zeros(jnp.broadcast_shapes(start.shape, pixel.shape), low.dtype)
    for k in range(6):  # four, and one more at each end because of rounding
        number = first + k
        point = start + (number + 0.5) * apart
        counts = (number >= 0) & (number < count) & _near(point, size)
        at = lax.clamp(jnp.zeros((), low.dtype), point, jnp.asarray(size - 1, low.dtype))
        total = total + jnp.where(counts, jnp.maximum(1 - jnp.abs(at - pixel), 0), 0)
    # NaN boxes have NaN weights.
    return total / jnp.maximum(count, 1) + 0 * step


def _points(low: jax.Array, high: jax.Array, count: int) -> jax.Array:
    """The centers of ``count`` equal parts of ``[low, high]``, from the first pixel's center."""
    part = (jnp.arange(count, dtype=low.dtype) + 0.5) / max(count, 1)
    part = lead_to(part, low.ndim + 1)
    return (low - 0.5)[..., None] + (high - low)[..., None] * part


def _near(point: jax.Array, size: int) -> jax.Array:
    """Whether a point is at most one pixel outside the map; true for NaN, which propagates."""
    return ~((point < -1) | (point > size))


def _boxes(boxes: ArrayLike, allowed_dims: Sequence[int] = (2, 3)) -> tuple[jax.Array, int]:
    array = validation.floating("boxes", boxes)
    if array.ndim < 2 or array.shape[-1] not in [2 * dims for dims in allowed_dims]:
        expected = " or ".join(f"[..., K, {2 * dims}]" for dims in allowed_dims)
        raise ValueError(f"boxes has shape {array.shape}; expected {expected}")
    return array.astype(validation.wide(array.dtype)), array.shape[-1] // 2
