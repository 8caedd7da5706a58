"""Sampling and its derivatives in plain JAX: positions, taps, weighted sums.

A sample is a weighted sum of a few pixels, its taps. With tap k of sample n at pixel
``index[k][n]``,

    sample(image, where)[n]        = sum over k of weight[k][n] * image[index[k][n]]
    gradient to the image at p     = sum over k, n with index[k][n] = p of weight[k][n] * g[n]
    gradient to weight[k][n]       = inner product of g[n] and image[index[k][n]]

where g is the cotangent. JAX differentiates the weights with respect to the positions.

Derivatives of any order reduce to these definitions, and platforms without a native kernel use
them directly. They are called when a program is lowered (see :mod:`stn_jax.warp.primitives`), so
the platform is known.

Shapes: image ``[*Li, *S, C]``; where ``[*Lw, r, r + 1]`` (a theta) or ``[*Lw, *O, r]`` (a grid);
samples ``[*L, *O, C]``. Li, Lw and L have the same number of axes, and each size in Li and Lw
equals that in L or is 1.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax.warp.gathering import ordered_sums, rows
from stn_jax.warp.grid import affine_coordinates, normalized_to_pixel
from stn_jax.warp.sampling import Layout, Sampling

# Up to this many pixels and samples, and with at least this many channels, an image's gradient is
# computed by a dense matrix product: on accelerators that is faster than a scatter.
_DENSE_PIXELS, _DENSE_CHANNELS = 256, 16


class Tap(NamedTuple):
    """One of the pixels along one axis that contribute to a sample."""

    pixel: jax.Array  # int32, within the image
    weight: jax.Array
    inside: jax.Array  # bool; False: outside the image, does not count


@dataclasses.dataclass(frozen=True)
class Taps:
    """All taps of all samples, K arrays ``[I, N]`` each: see :class:`Layout`."""

    index: list[jax.Array]  # int32, within the image
    inside: list[jax.Array]
    weights: list[jax.Array]

    def each(self) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        """Iterates over (index, inside, weight) of the taps."""
        return zip(self.index, self.inside, self.weights, strict=True)


def sample(image: jax.Array, where: jax.Array, sampling: Sampling, *, cpu: bool) -> jax.Array:
    """Samples ``[*L, *O, C]``."""
    layout = Layout.of(image, where, sampling)
    taps = _taps(where, layout, sampling, cpu)
    pixels, ordered = layout.pixels(image), _is_ordered(sampling, cpu)
    terms = [
        jnp.where(inside[..., None], rows(pixels, index, ordered=ordered), 0) * weight[..., None]
        for index, inside, weight in taps.each()
    ]
    return layout.unflatten(_total(terms))


def adjoint(
    image: jax.Array,
    where: jax.Array,
    cotangent: jax.Array,
    sampling: Sampling,
    wanted: Sequence[bool],
    *,
    cpu: bool,
) -> list[jax.Array]:
    """The wanted gradients, to the image and to where."""
    layout = Layout.of(image, where, sampling)
    values = layout.flatten(cotangent, channels=True)
    ordered = _is_ordered(sampling, cpu)

    def weights_of(where: jax.Array) -> tuple[list[jax.Array], Any]:
        taps = _taps(where, layout, sampling, cpu, gradient=True)
        return taps.weights, (taps.index, taps.inside)

    weights, pull_back, (index, inside) = jax.vjp(weights_of, where, has_aux=True)
    gradients = []
    if wanted[0]:
        taps = Taps(index, inside, weights)
        to_pixels = _ordered_to_pixels if ordered else functools.partial(_to_pixels, cpu=cpu)
        gradients.append(to_pixels(values, taps, layout).reshape(image.shape))
    if wanted[1]:
        pixels = layout.pixels(image)
        to_weights = [
            jnp.where(within, (rows(pixels, i, ordered=ordered) * values).sum(-1), 0)
            for i, within in zip(index, inside, strict=True)
        ]
        gradients.append(pull_back(to_weights)[0])
    return gradients


def _taps(
    where: jax.Array, layout: Layout, sampling: Sampling, cpu: bool, *, gradient: bool = False
) -> Taps:
    """All taps; for a gradient, taps of NaN positions count as outside."""
    if sampling.shape is not None:
        coordinates = affine_coordinates(
            where, sampling.shape, align_corners=sampling.align_corners
        )
    else:
        # The gradient of split is a single concatenation; that of indexing sums padded arrays.
        split = lax.split(where, (1,) * sampling.num_spatial_dims, axis=where.ndim - 1)
        coordinates = [x.squeeze(-1) for x in split]
    axes = [
        axis_taps(x, size, sampling, cpu, gradient)
        for x, size in zip(reversed(coordinates), layout.sizes, strict=True)  # x is the last axis
    ]
    found = Taps([], [], [])
    for taps in itertools.product(*axes):
        index = jnp.int32(0)
        for tap, size in zip(taps, layout.sizes, strict=True):
            index = index * jnp.int32(size) + tap.pixel
        found.index.append(layout.flatten(index))
        inside = functools.reduce(jnp.logical_and, [tap.inside for tap in taps])
        found.inside.append(layout.flatten(inside))
        weight = functools.reduce(jnp.multiply, [tap.weight for tap in taps])
        found.weights.append(layout.flatten(weight))
    return found


def axis_taps(
    coordinate: jax.Array, size: Any, sampling: Sampling, cpu: bool, gradient: bool
) -> list[Tap]:
    """The taps along one axis of an image, for normalized coordinates."""
    x = normalized_to_pixel(coordinate, size, align_corners=sampling.align_corners)
    if not gradient:
        return _pixel_taps(x, size, sampling, cpu)
    known = jnp.isfinite(x) if sampling.padding_mode == "reflection" else ~jnp.isnan(x)
    taps = _pixel_taps(jnp.where(known, x, 0), size, sampling, cpu)
    return [tap._replace(inside=tap.inside & known) for tap in taps]


def _pixel_taps(x: jax.Array, size: Any, sampling: Sampling, cpu: bool) -> list[Tap]:
    padding_mode, corners = sampling.padding_mode, sampling.align_corners
    if sampling.mode == "bicubic":
        x = _materialized(x, cpu)
        if padding_mode != "reflection":
            # Beyond this every tap is outside; clamping also keeps infinities out of the fraction.
            x = _clamp(x, -3, size + 2)
        low = jnp.floor(x)
        t = x - low
        weights = [_cubic_far(t + 1), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)]
        pixels = [_pad(low + (k - 1), size, padding_mode, corners) for k in range(4)]
        return [_tap(pixel, size, w) for pixel, w in zip(pixels, weights, strict=True)]
    x = _materialized(_pad(x, size, padding_mode, corners), cpu)
    if padding_mode == "zeros":
        x = _clamp(x, -2, size)  # as above
    if sampling.mode == "nearest":
        return [_tap(jnp.round(x), size, jnp.where(jnp.isnan(x), jnp.nan, jnp.ones_like(x)))]
    # floor and floor + 1, never ceil: the slope must not vanish at whole-pixel positions.
    low = jnp.floor(x)
    t = x - low
    return [_tap(low, size, 1 - t), _tap(low + 1, size, t)]


def _tap(position: jax.Array, size: Any, weight: jax.Array) -> Tap:
    inside = (position >= 0) & (position <= _number(size - 1, position))  # so a NaN is outside
    return Tap(jnp.where(inside, position, 0).astype(jnp.int32), weight, inside)


def _pad(x: jax.Array, size: Any, padding_mode: str, align_corners: bool) -> jax.Array:
    """Maps pixel coordinates outside the image to where the padding takes its value."""
    if padding_mode == "reflection":
        low, span = (0.0, size - 1) if align_corners else (-0.5, size)
        span = _number(span, x)
        # A single pixel is reflected to itself.
        period = jnp.where(span > 0, 2 * span, jnp.ones_like(span))
        x = span - jnp.abs(jnp.mod(jnp.abs(x - low), period) - span) + low
    return x if padding_mode == "zeros" else _clamp(x, 0, size - 1)


def _clamp(x: jax.Array, low: Any, high: Any) -> jax.Array:
    """Clamps; NaN stays NaN. The gradient at the bounds is 0, as in PyTorch (jnp.clip: half)."""
    return lax.clamp(_number(low, x), x, _number(high, x))


def _number(value: Any, like: jax.Array) -> jax.Array:
    """A (possibly symbolic) size as a scalar of an array's type."""
    return jnp.asarray(value).astype(like.dtype)


def _cubic_near(t: jax.Array, a: float = -0.75) -> jax.Array:
    """The cubic convolution kernel (Keys 1981) for distances up to 1."""
    return ((a + 2) * t - (a + 3)) * t * t + 1


def _cubic_far(t: jax.Array, a: float = -0.75) -> jax.Array:
    """The same for distances from 1 to 2."""
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _materialized(x: jax.Array, cpu: bool) -> jax.Array:
    """x, computed once, so that all its uses have the same bits.

    When XLA fuses a value into several uses, it may round it differently in each (with or without a
    fused multiply-add). If the floor of a position then differs between a tap's index and its
    weight, the sample is off by a whole pixel.
    """
    if not cpu:
        return lax.optimization_barrier(x)
    # XLA on CPU drops optimization_barrier, but does not fuse across a conditional. The second
    # branch is never taken, which XLA cannot know.
    first = lax.bitcast_convert_type(x[(0,) * x.ndim], f"int{8 * x.dtype.itemsize}")
    return lax.cond(lax.population_count(first) < 65, lambda x: x, jnp.zeros_like, x)


@_materialized.defjvp
def _materialized_jvp(cpu, primals, tangents):
    return _materialized(*primals, cpu), tangents[0]


# --- weighted sums -------------------------------------------------------------------------------


def _to_pixels(values: jax.Array, taps: Taps, layout: Layout, cpu: bool) -> jax.Array:
    """The gradient ``[I, P, C]`` to the images of cotangents ``[I, N, C]``."""
    size, samples = math.prod(layout.sizes), values.shape[1]
    small = all(isinstance(n, int) and n <= _DENSE_PIXELS for n in (size, samples))
    if not cpu and small and layout.channels >= _DENSE_CHANNELS:
        return _dense(values, taps, size)
    total = jnp.zeros((*values.shape[:1], size, layout.channels), values.dtype)
    for index, inside, weight in taps.each():
        total = lax.scatter_add(
            total,
            jnp.where(inside, index, -1)[..., None],
            values * weight[..., None],
            lax.ScatterDimensionNumbers((2,), (1,), (1,), (0,), (0,)),
            mode=lax.GatherScatterMode.FILL_OR_DROP,  # drops what is outside
        )
    return total


def _ordered_to_pixels(values: jax.Array, taps: Taps, layout: Layout) -> jax.Array:
    """As :func:`_to_pixels`, without a scatter."""
    size = math.prod(layout.sizes)
    index = [jnp.where(inside, index, size) for index, inside, _ in taps.each()]
    weighted = [values * weight[..., None] for weight in taps.weights]
    return ordered_sums(jnp.concatenate(weighted, 1), jnp.concatenate(index, 1), size)


def _is_ordered(sampling: Sampling, cpu: bool) -> bool:
    """Whether sums need an order of their own; on a CPU a scatter has one."""
    return sampling.deterministic and not cpu


def _dense(values: jax.Array, taps: Taps, size: int) -> jax.Array:
    position = jnp.arange(size, dtype=jnp.int32)[None, :, None]
    matrix = [
        jnp.where((index[:, None] == position) & inside[:, None], weight[:, None], 0)
        for index, inside, weight in taps.each()
    ]
    return lax.dot_general(
        _total(matrix),
        values,
        (((2,), (1,)), ((0,), (0,))),
        precision=lax.Precision.HIGHEST,  # TF32 would be off by 1e-3
    )


def _total(terms: Sequence[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)
