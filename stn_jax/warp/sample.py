"""Sampling an image at the positions of a grid: the one place where interpolation lives."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp.grid import affine_coordinates, normalized_to_pixel, theta_rank
from stn_jax.warp.taps import gather, settled, wants_margin

MODES = ("nearest", "bilinear", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")


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
    image, theta = jnp.asarray(image), jnp.asarray(theta)
    if shape is None:
        rank = theta_rank(theta)
        if image.ndim < rank + 1:
            raise ValueError(_image_shape_message(image, rank))
        shape = image.shape[-1 - rank : -1]
    coordinates = affine_coordinates(theta, shape, align_corners=align_corners)
    return _sample(image, coordinates, theta.shape[:-2], mode, padding_mode, align_corners)


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
    image, grid = jnp.asarray(image), jnp.asarray(grid)
    _check_floating("grid", grid)
    if grid.ndim < 1 or grid.shape[-1] not in (2, 3) or grid.ndim < grid.shape[-1] + 1:
        raise ValueError(
            f"grid has shape {grid.shape}; expected [..., H_out, W_out, 2] or "
            "[..., D_out, H_out, W_out, 3]"
        )
    rank = grid.shape[-1]
    grid = grid.astype(jnp.promote_types(grid.dtype, jnp.float32))
    # The gradient of split is one concatenation, that of indexing a sum of padded arrays.
    coordinates = [x.squeeze(-1) for x in lax.split(grid, (1,) * rank, axis=-1)]
    lead = grid.shape[: -rank - 1]
    return _sample(image, coordinates, lead, mode, padding_mode, align_corners)


def _check_floating(name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} has type {array.dtype}; expected a floating-point array: cast it to "
            "float32 (and scale it, where it holds 0 to 255)"
        )


def _image_shape_message(image: jax.Array, rank: int) -> str:
    expected = "[..., D, H, W, C]" if rank == 3 else "[..., H, W, C]"
    return f"image has shape {image.shape}; expected {expected} (channels last)"


class _Tap(NamedTuple):
    """One of the pixels along one axis that a sample is made of."""

    pixel: jax.Array  # int32, within the image unless inside says that it is not
    weight: jax.Array
    inside: jax.Array | None  # False where the tap falls outside and counts 0; None: always inside
    offset: int = 0  # to add to pixel


def _sample(
    image: jax.Array,
    coordinates: list[jax.Array],
    lead: tuple[int, ...],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> jax.Array:
    """Samples at the positions x, y (and z), each ``[*lead, *S_out]``."""
    _check_floating("image", image)
    rank = len(coordinates)
    if image.ndim < rank + 1:
        raise ValueError(_image_shape_message(image, rank))
    for name, value, known in (
        ("mode", mode, MODES),
        ("padding_mode", padding_mode, PADDING_MODES),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    if mode == "bicubic" and rank == 3:
        raise ValueError("mode is 'bicubic', which volumes do not have; use 'bilinear'")
    image_lead, sizes = image.shape[: -rank - 1], image.shape[-rank - 1 : -1]
    try:
        batch = jnp.broadcast_shapes(image_lead, lead)
    except ValueError:
        raise ValueError(
            f"the leading axes of image {image.shape} and of the grid or theta do not broadcast: "
            f"{image_lead} against {lead}"
        ) from None
    shape = (*batch, *coordinates[0].shape[len(lead) :])
    channels = image.shape[-1]
    if 0 in (*shape, channels):
        return jnp.zeros((*shape, channels), image.dtype)
    if 0 in sizes:
        raise ValueError(f"image has shape {image.shape}; there is no pixel to sample from")

    margin = 2 if (mode, padding_mode) == ("bilinear", "zeros") and wants_margin(channels) else 0
    if margin:
        pads = [(0, 0)] * len(image_lead) + [(margin, margin)] * rank + [(0, 0)]
        image = jnp.pad(image, pads)
    axes = [
        _taps(x, size, mode, padding_mode, align_corners, margin)
        for x, size in zip(reversed(coordinates), sizes, strict=True)  # x is the last axis
    ]
    sizes = image.shape[-rank - 1 : -1]
    # Not promote_types, which refuses 8-bit floats.
    compute = image.dtype if image.dtype.itemsize > 4 else jnp.dtype(jnp.float32)
    # Axes along which images differ become one, and all others are samples of these images.
    own = [axis - len(image_lead) + len(batch) for axis in range(len(image_lead))]
    own = [axis for axis, size in zip(own, image_lead, strict=True) if size == batch[axis]]
    order = own + [axis for axis in range(len(shape)) if axis not in own]
    images = math.prod(image_lead)

    def samples(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, shape).transpose(order).reshape(images, -1)

    index: list[jax.Array] = []
    weights: list[jax.Array] = []
    offsets: list[int] = []
    for taps in itertools.product(*axes):
        weight = functools.reduce(jnp.multiply, [tap.weight for tap in taps])
        weights.append(samples(weight.astype(compute)))
        place, offset = jnp.int32(0), 0
        for tap, size in zip(taps, sizes, strict=True):
            place, offset = place * size + tap.pixel, offset * size + tap.offset
        if offset not in offsets:
            offsets.append(offset)
        if margin and index:
            continue  # a neighbour of the first tap
        inside = [tap.inside for tap in taps if tap.inside is not None]
        if inside:
            place = jnp.where(functools.reduce(jnp.logical_and, inside), place, -1)
        index.append(samples(place))
    out = gather(
        image.reshape(images, math.prod(sizes), channels).astype(compute),
        index,
        weights,
        offsets=tuple(offsets),
        bounded=bool(margin) or padding_mode != "zeros",
    )
    out = out.reshape(*(shape[axis] for axis in order), channels)
    out = out.transpose(*(order.index(axis) for axis in range(len(order))), len(order))
    return out.astype(image.dtype)


def _taps(
    coordinate: jax.Array,
    size: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    margin: int,
) -> list[_Tap]:
    """The taps along one axis of an image that has, around it, a margin of zeros or none."""
    x = normalized_to_pixel(coordinate, size, align_corners=align_corners)
    if mode == "bicubic":
        x = settled(x)
        if padding_mode != "reflection":
            # Beyond this every tap is outside; it also keeps infinities out of the fraction.
            x = _clamp(x, -3, size + 2)
        low = jnp.floor(x)
        t = x - low
        weights = [_cubic_far(t + 1), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)]
        return [
            _bounded_tap(
                _pad(low + k - 1, size, padding_mode, align_corners), size, w, padding_mode
            )
            for k, w in enumerate(weights)
        ]
    x = settled(_pad(x, size, padding_mode, align_corners))
    if padding_mode == "zeros":
        x = _clamp(x, -2, size)  # as above
    if mode == "nearest":
        weight = jnp.where(jnp.isnan(x), jnp.nan, jnp.ones_like(x))  # not a pixel in silence
        return [_bounded_tap(jnp.round(x), size, weight, padding_mode)]
    low = jnp.floor(x)
    t = x - low
    # floor and floor + 1, never ceil: at a whole position the slope must not vanish.
    if margin:
        pixel = low.astype(jnp.int32) + margin
        return [_Tap(pixel, 1 - t, None), _Tap(pixel, t, None, offset=1)]
    return [
        _bounded_tap(low, size, 1 - t, padding_mode),
        _bounded_tap(low + 1, size, t, padding_mode),
    ]


def _bounded_tap(position: jax.Array, size: int, weight: jax.Array, padding_mode: str) -> _Tap:
    inside = (position >= 0) & (position <= size - 1) if padding_mode == "zeros" else None
    if inside is None:
        position = jnp.clip(position, 0, size - 1)
    return _Tap(position.astype(jnp.int32), weight, inside)


def _pad(x: jax.Array, size: int, padding_mode: str, align_corners: bool) -> jax.Array:
    """Moves pixel coordinates from outside to where the padding takes its value."""
    if padding_mode == "reflection":
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        period = 2 * span or 1.0  # a lone pixel reflects onto itself
        x = span - jnp.abs(jnp.mod(jnp.abs(x - low), period) - span) + low
    return x if padding_mode == "zeros" else _clamp(x, 0, size - 1)


def _clamp(x: jax.Array, low: float, high: float) -> jax.Array:
    """Clamps; NaN stays NaN. The gradient at the bounds is 0, as in PyTorch (jnp.clip: half)."""
    return lax.clamp(jnp.asarray(low, x.dtype), x, jnp.asarray(high, x.dtype))


def _cubic_near(t: jax.Array, a: float = -0.75) -> jax.Array:
    """The cubic convolution kernel (Keys 1981) for distances up to 1."""
    return ((a + 2) * t - (a + 3)) * t * t + 1


def _cubic_far(t: jax.Array, a: float = -0.75) -> jax.Array:
    """The same for distances from 1 to 2."""
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
