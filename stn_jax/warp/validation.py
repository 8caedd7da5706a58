"""Shared checks of arguments: types and shapes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

MATRICES = ((2, 3), (3, 4))
MODES = ("nearest", "bilinear", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")


def wide(*dtypes: Any) -> Any:
    """The widest of some types, at least float32: half precision is too coarse for positions."""
    known = [jnp.dtype(dtype) for dtype in dtypes]
    floats = [dtype for dtype in known if jnp.issubdtype(dtype, jnp.floating)]
    return max([jnp.dtype(jnp.float32), *floats], key=lambda dtype: dtype.itemsize)


def numbers(*values: ArrayLike | Sequence[float]) -> list[jax.Array]:
    """Numbers as arrays of one type, float32 or wider; Python numbers do not widen arrays."""
    arrays = [jnp.asarray(value) for value in values]
    typed = [a.dtype for a, v in zip(arrays, values, strict=True) if hasattr(v, "dtype")]
    dtype = wide(*(typed or [array.dtype for array in arrays]))
    return [array.astype(dtype) for array in arrays]


def floating(name: str, value: ArrayLike, hint: str = "") -> jax.Array:
    """A floating-point array in its own type. Raises TypeError for any other type."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} has type {array.dtype}; expected a floating-point array: cast it to float32"
            + hint
        )
    return array


def wide_floating(name: str, value: ArrayLike, cores: Sequence[tuple[int, ...]]) -> jax.Array:
    """A floating-point array in float32 or wider whose last axes are one of several shapes."""
    array = floating(name, value)
    check_core(name, array.shape, cores)
    return array.astype(wide(array.dtype))


def check_core(name: str, shape: tuple[int, ...], cores: Sequence[tuple[int, ...]]) -> None:
    """Raises ValueError if a shape does not end in one of several."""
    if not any(
        len(shape) >= len(core) and shape[len(shape) - len(core) :] == core for core in cores
    ):
        expected = " or ".join(f"[..., {', '.join(map(str, core))}]" for core in cores)
        raise ValueError(f"{name} has shape {shape}; expected {expected}")


def check_num_spatial_dims(num_spatial_dims: int) -> None:
    """Raises ValueError for anything but 2 (images) and 3 (volumes)."""
    if num_spatial_dims not in (2, 3):
        raise ValueError(
            f"num_spatial_dims is {num_spatial_dims}; expected 2 (images) or 3 (volumes)"
        )


def theta_dims(theta: jax.Array) -> int:
    """The number of spatial dimensions of a theta, 2 or 3. Raises ValueError for other shapes."""
    if theta.ndim < 2 or theta.shape[-2:] not in MATRICES:
        raise ValueError(
            f"theta has shape {theta.shape}; expected [..., 2, 3] for images or [..., 3, 4] for "
            "volumes"
        )
    return theta.shape[-2]


def image(value: ArrayLike, dims: int) -> jax.Array:
    """Checks an image ``[..., H, W, C]`` (2 dims) or volume ``[..., D, H, W, C]`` (3 dims)."""
    array = floating("image", value, " (and scale it if it holds 0 to 255)")
    if array.ndim < dims + 1:
        expected = "[..., D, H, W, C]" if dims == 3 else "[..., H, W, C]"
        raise ValueError(f"image has shape {array.shape}; expected {expected} (channels last)")
    return array


def positions(name: str, value: ArrayLike) -> jax.Array:
    """Positions ``[..., H, W, 2]`` or ``[..., D, H, W, 3]`` (grids, maps, flows)."""
    array = floating(name, value)
    dims = array.shape[-1] if array.ndim else 0
    if dims not in (2, 3) or array.ndim < dims + 1:
        raise ValueError(
            f"{name} has shape {array.shape}; expected [..., H_out, W_out, 2] or "
            "[..., D_out, H_out, W_out, 3]"
        )
    return array


def fill(value: ArrayLike, image: jax.Array, padding_mode: str) -> jax.Array | None:
    """The value outside an image, an array ``[]`` or ``[C]``; None for a constant 0."""
    number = isinstance(value, (int, float, np.ndarray, np.generic))
    if number and not np.any(value):
        return None
    if padding_mode != "zeros":
        raise ValueError(
            f"padding_mode is {padding_mode!r} and fill {value}; a fill needs padding_mode 'zeros'"
        )
    (array,) = numbers(value)
    channels = image.shape[-1]
    if array.ndim > 1 or array.shape not in ((), (channels,)):
        raise ValueError(
            f"fill has shape {array.shape}; expected a number, or one per channel, [{channels}]"
        )
    if number and not np.all(np.isfinite(value)):
        raise ValueError(
            f"fill is {value}; expected finite numbers (to find the pixels outside the image, also "
            "warp an image of ones)"
        )
    return array


def spatial_shape(shape: Sequence[Any], dims: int) -> tuple[Any, ...]:
    """Checks an output's spatial shape; a tuple of ints or symbolic sizes."""
    names = "(D, H, W)" if dims == 3 else "(H, W)"
    try:
        sizes = tuple(
            size if is_symbolic(size) else int(np.asarray(size).__index__()) for size in shape
        )
    except TypeError:
        raise TypeError(f"shape is {shape!r}; expected a tuple of ints {names}") from None
    if len(sizes) != dims:
        raise ValueError(
            f"shape is {sizes}; expected the output's spatial shape {names}, without batch and "
            "channels"
        )
    if any(size < 0 for size in sizes if not is_symbolic(size)):
        raise ValueError(f"shape is {sizes}; sizes must not be negative")
    return sizes


def is_symbolic(size: Any) -> bool:
    """Whether a size is a symbolic dimension, as in shape-polymorphic export."""
    return jax.export.is_symbolic_dim(size)


def known(name: str, value: str, values: Sequence[str]) -> str:
    """Returns an option; raises ValueError if it is not one of the allowed values."""
    if value not in values:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(values)}")
    return value
