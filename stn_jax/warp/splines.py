"""Spline interpolation of arrays with any number of axes, as in ``scipy.ndimage``.

Convention
    Coordinates are in samples, 0 being the first one; there is one array for each axis, in the
    order of the axes (not x, y). The modes continue an array (a b c d) as follows:

    - "reflect", "grid-mirror": (d c b a | a b c d | d c b a)
    - "mirror":                 (d c b | a b c d | c b a)
    - "nearest":                (a a a a | a b c d | d d d d)
    - "grid-wrap":              (a b c d | a b c d | a b c d)
    - "wrap":                   as "grid-wrap" with period n - 1: the last sample is on the first
    - "grid-constant":          (k k k k | a b c d | k k k k) with k = cval, interpolated
    - "constant":               k beyond the first and last sample, without interpolation
"""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.compiled import compiled
from stn_jax.warp.gathering import rows
from stn_jax.warp.spline_filters import POLES, spline_coefficients

SPLINE_MODES = (
    *("reflect", "grid-mirror", "constant", "grid-constant", "nearest", "mirror", "grid-wrap"),
    "wrap",
)

# In modes without an exact filter boundary, SciPy pads this many samples.
_MARGIN = 12
# The boundary condition of the filter, by mode.
_FILTER_BOUNDARY = {
    "reflect": "reflect",
    "nearest": "reflect",
    "grid-wrap": "grid-wrap",
    **dict.fromkeys(("mirror", "constant", "grid-constant", "wrap"), "mirror"),
}


@compiled("input", "coordinates")
def map_coordinates(
    input: ArrayLike,
    coordinates: ArrayLike | Sequence[ArrayLike],
    order: int = 3,
    *,
    mode: str = "constant",
    cval: ArrayLike = 0.0,
    prefilter: bool = True,
    deterministic: bool = False,
) -> jax.Array:
    """Interpolates an array by splines at given coordinates.

    The counterpart of ``scipy.ndimage.map_coordinates``, differentiable with respect to input,
    coordinates and cval, in forward and reverse mode. A spline of order n has n - 1 continuous
    derivatives; at whole-number coordinates, the slope for order 1 is the one towards the next
    sample. Use ``jax.vmap`` for batches.

    Convention
        Coordinates are in samples, 0 being the first one, in the order of the axes (not x, y).

    Args:
      input: an array with N axes, floating point.
      coordinates: N arrays of the same shape, or one array ``[N, ...]``.
      order: order of the spline, from 0 (nearest sample) to 5.
      mode: how the input continues outside: "reflect", "grid-mirror", "constant", "grid-constant",
        "nearest", "mirror", "grid-wrap" or "wrap", see :mod:`stn_jax.warp.splines`.
      cval: the constant of "constant" and "grid-constant".
      prefilter: whether the input holds samples (True) or the coefficients that
        :func:`spline_filter` computes (False).
      deterministic: as in :func:`stn_jax.grid_sample`.

    Returns:
      Values of the coordinates' shape in the input's type; half precision is computed in float32.
      NaN coordinates yield NaN, with a gradient of 0.

    Raises:
      TypeError: the input is not floating point.
      ValueError: the number of coordinates differs from the input's axes, the input is empty but
        the coordinates are not, or an option is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> squares = jnp.arange(6.0) ** 2
      >>> found = stn_jax.map_coordinates(squares, [jnp.array([2.0, 2.5])], 3, mode="mirror")
      >>> [round(float(value), 2) for value in found]
      [4.0, 6.36]

    References:
      Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Processing
      Magazine 16(6), 1999.
    """
    samples = validation.floating("input", input)
    axes: Any = coordinates
    where = validation.numbers(*(axes[k] for k in range(len(axes))))
    _check(samples, where, order, mode)
    dtype = validation.wide(samples.dtype, *(x.dtype for x in where))
    where = [x.astype(dtype) for x in jnp.broadcast_arrays(*where)]
    if where[0].size == 0 or samples.ndim == 0:
        return jnp.zeros(where[0].shape, samples.dtype)
    coefficients, margin = samples.astype(dtype), 0
    outside = jnp.asarray(cval, dtype)
    if prefilter and order > 1:
        margin = _MARGIN if mode in ("nearest", "grid-constant") else 0
        coefficients = _pad(coefficients, margin, mode, outside)
        coefficients = spline_coefficients(
            coefficients, order, _FILTER_BOUNDARY.get(mode, "reflect")
        )
    known = ~jnp.isnan(sum(where))
    where = [jnp.where(known, x, 0) for x in where]
    values = _interpolate(coefficients, where, order, mode, margin, outside, deterministic)
    if mode == "constant":
        for x, size in zip(where, samples.shape, strict=True):
            values = jnp.where((x >= 0) & (x <= size - 1), values, outside)
    return jnp.where(known, values, jnp.nan).astype(samples.dtype)


@compiled("input")
def spline_filter(
    input: ArrayLike,
    order: int = 3,
    *,
    mode: str = "mirror",
) -> jax.Array:
    """Computes the coefficients of the spline through an array's samples, along all axes.

    The counterpart of ``scipy.ndimage.spline_filter``. It is linear, so that every mode of
    differentiation costs the same. The recursive filter takes six doubling steps instead of one
    step per sample.

    Args:
      input: an array with any number of axes, floating point.
      order: order of the spline, from 0 to 5. Up to order 1 the coefficients are the samples.
      mode: how the samples continue outside, as in :func:`map_coordinates`. As in SciPy,
        "constant", "grid-constant" and "wrap" are treated as "mirror", and "nearest" as "reflect".

    Returns:
      Coefficients of the input's shape and type; half precision is computed in float32.

    Raises:
      TypeError: the input is not floating point.
      ValueError: order or mode is unknown.

    References:
      As :func:`map_coordinates`.
    """
    samples = validation.floating("input", input)
    _check_options(order, mode)
    if samples.size == 0:
        return samples
    found = spline_coefficients(
        samples.astype(validation.wide(samples.dtype)), order, _FILTER_BOUNDARY.get(mode, "reflect")
    )
    return found.astype(samples.dtype)


def _check(samples: jax.Array, where: Sequence[jax.Array], order: int, mode: str) -> None:
    _check_options(order, mode)
    if len(where) != samples.ndim or not where:
        raise ValueError(
            f"coordinates has {len(where)} arrays and input {samples.ndim} axes; expected one "
            "array for each axis, and at least one axis"
        )
    if samples.size == 0 and all(x.size for x in where):
        raise ValueError(f"input has shape {samples.shape}; there is no sample to interpolate")


def _check_options(order: int, mode: str) -> None:
    if order not in POLES:
        raise ValueError(f"order is {order!r}; expected an int from 0 to 5")
    validation.known("mode", mode, SPLINE_MODES)


def _pad(samples: jax.Array, margin: int, mode: str, outside: jax.Array) -> jax.Array:
    if margin == 0:
        return samples
    if mode == "nearest":
        return jnp.pad(samples, margin, "edge")
    return jnp.pad(samples, margin, constant_values=outside)


# --- coefficients to values ----------------------------------------------------------------------


def _interpolate(
    coefficients: jax.Array,
    where: Sequence[jax.Array],
    order: int,
    mode: str,
    margin: int,
    outside: jax.Array,
    deterministic: bool,
) -> jax.Array:
    """Sums over the ``(order + 1) ** N`` coefficients around each position."""
    axes = []  # for each axis its taps: index, weight, inside
    for x, size in zip(where, coefficients.shape, strict=True):
        x = _position(x + margin, size, mode)
        low = jnp.floor(x if order % 2 else x + 0.5)
        weights = _basis(x - low + (0.0 if order % 2 else 0.5), order)
        first = low.astype(jnp.int32) - order // 2
        at = [first + k for k in range(order + 1)]
        index = [_inside(k, size, _tap_boundary(mode)) for k in at]
        inside = [(k >= 0) & (k < size) for k in at]
        axes.append(list(zip(index, weights, inside, strict=True)))
    total = jnp.zeros_like(where[0])
    combinations = list(itertools.product(*axes))
    indices = [tuple(tap[0] for tap in taps) for taps in combinations]
    samples = _samples(coefficients, indices, deterministic)
    # One tap at a time, not stacked, so that XLA computes each weight only once.
    for taps, found in zip(combinations, samples, strict=True):
        if mode == "grid-constant":
            found = jnp.where(
                functools.reduce(jnp.logical_and, [t[2] for t in taps]), found, outside
            )
        total = total + found * functools.reduce(jnp.multiply, [tap[1] for tap in taps])
    return total


def _samples(
    coefficients: jax.Array, indices: Sequence[tuple[jax.Array, ...]], deterministic: bool
) -> Iterable[jax.Array]:
    """The coefficients at indices, which have an array for each axis."""
    if not deterministic:
        return (coefficients.at[index].get(mode="promise_in_bounds") for index in indices)
    # All in one array, so that their gradients are summed in one order.
    flat = jnp.zeros((), jnp.int32)
    for k, size in enumerate(coefficients.shape):
        flat = flat * size + jnp.stack([index[k] for index in indices])
    image = coefficients.reshape(-1)[None, :, None]
    gather = functools.partial(rows, image, flat.reshape(-1)[None])
    found = lax.platform_dependent(
        cpu=gather,  # there a scatter has an order
        default=functools.partial(gather, ordered=True),
    )
    return found.squeeze((0, 2)).reshape(flat.shape)


def _tap_boundary(mode: str) -> str:
    return "mirror" if mode in ("constant", "wrap") else mode


def _position(x: jax.Array, size: int, mode: str) -> jax.Array:
    """Maps a position into the array, by the symmetry of its continuation."""
    if mode in ("nearest", "grid-constant", "constant"):
        # Beyond this all taps are outside. ("constant" is handled by the caller.)
        return lax.clamp(jnp.asarray(-8, x.dtype), x, jnp.asarray(size + 7, x.dtype))
    if size == 1:
        return jnp.zeros_like(x)
    # Positions inside are unchanged, bit by bit.
    return jnp.where((x >= 0) & (x <= size - 1), x, _folded(x, size, mode))


def _folded(x: jax.Array, size: int, mode: str) -> jax.Array:
    if mode == "grid-wrap":
        return jnp.mod(x, size)
    if mode == "wrap":
        period = size - 1
        return jnp.where(x < 0, period - jnp.mod(-x, period), jnp.mod(x, period))
    low, span = (0.0, size - 1) if mode == "mirror" else (-0.5, size)
    return span - jnp.abs(jnp.mod(x - low, 2 * span) - span) + low


def _inside(index: jax.Array, size: int, mode: str) -> jax.Array:
    """Maps integer positions into the array."""
    if mode in ("nearest", "grid-constant") or size == 1:
        return jnp.clip(index, 0, size - 1)
    if mode == "grid-wrap":
        return index % size
    if mode == "mirror":
        return size - 1 - abs(index % (2 * size - 2) - (size - 1))
    rest = index % (2 * size)
    return jnp.minimum(rest, 2 * size - 1 - rest)


def _basis(t: jax.Array, order: int) -> list[jax.Array]:
    """The non-zero B-splines in a knot interval, at t in [0, 1], from left to right.

    Computed by the recursion of de Boor and Cox.
    """
    values = [jnp.ones_like(t)]
    for k in range(1, order + 1):
        padded = [None, *values, None]
        values = []
        for j in range(k + 1):
            left, right = padded[j], padded[j + 1]
            terms = [] if left is None else [(t + (k - j)) * left]
            terms += [] if right is None else [((j + 1) - t) * right]
            values.append(sum(terms[1:], terms[0]) / k)
    return values
