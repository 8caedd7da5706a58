"""Sampling an image at the positions of a grid: the one place where interpolation lives."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp.grid import affine_grid, normalized_to_pixel, theta_rank

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
    grid = affine_grid(theta, shape, align_corners=align_corners)
    return grid_sample(
        image, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )


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
    for name, array in (("image", image), ("grid", grid)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{name} has type {array.dtype}; expected a floating-point array: cast it to "
                "float32 (and scale it, where it holds 0 to 255)"
            )
    if grid.ndim < 1 or grid.shape[-1] not in (2, 3) or grid.ndim < grid.shape[-1] + 1:
        raise ValueError(
            f"grid has shape {grid.shape}; expected [..., H_out, W_out, 2] or "
            "[..., D_out, H_out, W_out, 3]"
        )
    rank = grid.shape[-1]
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
    lead = (image.shape[: -rank - 1], grid.shape[: -rank - 1])
    try:
        batch = jnp.broadcast_shapes(*lead)
    except ValueError:
        raise ValueError(
            f"the leading axes of image {image.shape} and grid {grid.shape} do not broadcast: "
            f"{lead[0]} against {lead[1]}"
        ) from None
    if 0 in (*batch, *grid.shape[-rank - 1 : -1], image.shape[-1]):
        return jnp.zeros((*batch, *grid.shape[-rank - 1 : -1], image.shape[-1]), image.dtype)
    if 0 in image.shape[-rank - 1 : -1]:
        raise ValueError(f"image has shape {image.shape}; there is no pixel to sample from")

    grid = grid.astype(jnp.promote_types(grid.dtype, jnp.float32))
    sample: Callable[[jax.Array, jax.Array], jax.Array] = functools.partial(
        _sample, mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )
    return _map_broadcast(sample, batch, image, rank + 1, grid, rank + 1)


def _image_shape_message(image: jax.Array, rank: int) -> str:
    expected = "[..., D, H, W, C]" if rank == 3 else "[..., H, W, C]"
    return f"image has shape {image.shape}; expected {expected} (channels last)"


def _map_broadcast(
    fn: Callable[[jax.Array, jax.Array], jax.Array],
    batch: tuple[int, ...],
    a: jax.Array,
    a_core: int,
    b: jax.Array,
    b_core: int,
) -> jax.Array:
    """Maps fn over the broadcast leading axes of a and b, without a copy of the smaller one."""
    mapped = fn
    squeeze: list[list[int]] = [[], []]
    for back, size in enumerate(reversed(batch)):  # innermost first
        axes: list[int | None] = []
        for which, (x, core) in enumerate(((a, a_core), (b, b_core))):
            axis = x.ndim - core - 1 - back
            present = axis >= 0
            shared = present and x.shape[axis] == 1 and size != 1
            if shared:
                squeeze[which].append(axis)
            axes.append(0 if present and not shared else None)
        mapped = jax.vmap(mapped, in_axes=tuple(axes))
    return mapped(jnp.squeeze(a, tuple(squeeze[0])), jnp.squeeze(b, tuple(squeeze[1])))


class _Tap(NamedTuple):
    """One of the pixels along one axis that a sample is made of."""

    pixel: jax.Array  # int32, always within the image
    weight: jax.Array
    inside: jax.Array | None  # False where the tap falls outside and counts 0; None: always inside


def _sample(
    image: jax.Array, grid: jax.Array, *, mode: str, padding_mode: str, align_corners: bool
) -> jax.Array:
    """One image [*S, C] at the positions [*S_out, len(S)]."""
    *sizes, channels = image.shape
    compute = jnp.promote_types(image.dtype, jnp.float32)
    axes = [
        _taps(grid[..., -1 - axis], size, mode, padding_mode, align_corners)
        for axis, size in enumerate(sizes)  # the grid names x first, and x is the last axis
    ]
    pixels = image.reshape(math.prod(sizes), channels)
    terms = []
    for taps in itertools.product(*axes):
        flat = jnp.int32(0)
        for tap, size in zip(taps, sizes, strict=True):
            flat = flat * size + tap.pixel
        value = pixels.at[flat].get(mode="promise_in_bounds").astype(compute)
        # A product with 0 would let an infinity or NaN at the clamped index through.
        inside = [tap.inside for tap in taps if tap.inside is not None]
        if inside:
            value = jnp.where(functools.reduce(jnp.logical_and, inside)[..., None], value, 0)
        weight = functools.reduce(jnp.multiply, [tap.weight for tap in taps])
        value = value * weight.astype(compute)[..., None]
        terms.append(value)
    return functools.reduce(jnp.add, terms).astype(image.dtype)


def _taps(
    coordinate: jax.Array, size: int, mode: str, padding_mode: str, align_corners: bool
) -> list[_Tap]:
    x = normalized_to_pixel(coordinate, size, align_corners=align_corners)
    if mode == "bicubic":
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
    x = _pad(x, size, padding_mode, align_corners)
    if padding_mode == "zeros":
        x = _clamp(x, -2, size + 1)  # as above
    if mode == "nearest":
        weight = jnp.where(jnp.isnan(x), jnp.nan, jnp.ones_like(x))  # not a pixel in silence
        return [_bounded_tap(jnp.round(x), size, weight, padding_mode)]
    low = jnp.floor(x)
    t = x - low
    # floor and floor + 1, never ceil: at a whole position the slope must not vanish.
    return [
        _bounded_tap(low, size, 1 - t, padding_mode),
        _bounded_tap(low + 1, size, t, padding_mode),
    ]


def _bounded_tap(position: jax.Array, size: int, weight: jax.Array, padding_mode: str) -> _Tap:
    inside = (position >= 0) & (position <= size - 1) if padding_mode == "zeros" else None
    return _Tap(jnp.clip(position, 0, size - 1).astype(jnp.int32), weight, inside)


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
