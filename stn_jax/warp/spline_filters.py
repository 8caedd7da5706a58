"""The B-spline prefilter: from samples to the coefficients of the spline through them."""

import jax
import jax.numpy as jnp
from jax import lax

# The poles of the B-spline prefilter, by order (Unser 1999, Table 1).
POLES: dict[int, tuple[float, ...]] = {
    0: (),
    1: (),
    2: (8**0.5 - 3,),
    3: (3**0.5 - 2,),
    4: (
        (664 - 438976**0.5) ** 0.5 + 304**0.5 - 19,
        (664 + 438976**0.5) ** 0.5 - 304**0.5 - 19,
    ),
    5: (
        (67.5 - 4436.25**0.5) ** 0.5 + 26.25**0.5 - 6.5,
        (67.5 + 4436.25**0.5) ** 0.5 - 26.25**0.5 - 6.5,
    ),
}
# The largest pole to this power is below 1e-23, so samples further away are negligible.
_REACH = 64


def spline_coefficients(samples: jax.Array, order: int, boundary: str) -> jax.Array:
    """The coefficients along all axes, of the samples' shape.

    Args:
      samples: of any floating-point type.
      order: from 0 to 5.
      boundary: how the samples continue: "reflect", "mirror" or "grid-wrap".
    """
    for axis, size in enumerate(samples.shape):
        if size > 1:
            samples = _filter_axis(samples, axis, order, boundary)
    return samples


def _filter_axis(samples: jax.Array, axis: int, order: int, boundary: str) -> jax.Array:
    """Along one axis: for each pole, a causal and an anticausal recursion.

    The samples are extended so far that the recursions' initial values are negligible.
    """
    size = samples.shape[axis]
    longer = _extended(samples, axis, boundary)
    gain = 1.0
    for pole in POLES[order]:
        longer = _recursion(longer, pole, axis, 1)
        longer = _recursion(longer, pole, axis, -1)
        gain *= (1 - pole) ** 2  # preserves constants
    return gain * lax.slice_in_dim(longer, _REACH, _REACH + size, axis=axis)


def _extended(samples: jax.Array, axis: int, boundary: str) -> jax.Array:
    """The samples with ``_REACH`` more on both sides.

    Not by indices, since the gradient of a gather is a scatter.
    """
    before = after = samples
    if boundary != "grid-wrap":
        ends = int(boundary == "mirror")  # the samples at both ends are not repeated
        size = samples.shape[axis]
        back = lax.slice_in_dim(jnp.flip(samples, axis), ends, size - ends, axis=axis)
        before = jnp.concatenate([samples, back], axis)
        after = jnp.concatenate([back, samples], axis)
    length = after.shape[axis]
    repeats = [-(-_REACH // length) if k == axis else 1 for k in range(samples.ndim)]
    before, after = jnp.tile(before, repeats), jnp.tile(after, repeats)
    length = after.shape[axis]
    before = lax.slice_in_dim(before, length - _REACH, length, axis=axis)
    after = lax.slice_in_dim(after, 0, _REACH, axis=axis)
    return jnp.concatenate([before, samples, after], axis)


def _recursion(x: jax.Array, pole: float, axis: int, direction: int) -> jax.Array:
    """y[k] = x[k] + pole * y[k - direction], by doubling: shifts times pole, pole^2, pole^4, ..."""
    step = 1
    while step < _REACH:
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (direction * step, -direction * step, 0)
        x = x + pole**step * lax.pad(x, jnp.zeros((), x.dtype), padding)
        step *= 2
    return x
