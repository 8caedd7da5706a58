"""Warps of images of bytes, for those who say so: numbers from 0 to 255, rounded and saturated."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def on_uint8(warp: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Makes a function of a floating-point image one of a uint8 image, with a uint8 result.

    The warps refuse integers, for most of them are an oversight. Here the image is computed with in
    float32, on the scale from 0 to 255 (a ``fill`` too), then rounded (halves to even), and what
    lies beyond 0 and 255 ("bicubic" overshoots) is set to these. NaN becomes 0. There is no
    gradient.

    Args:
      warp: a function of an image and anything else, such as :func:`stn_jax.warp_affine`.

    Returns:
      The function of a uint8 image. It raises a TypeError for images of another type.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax
      >>> photo = jnp.array([[[0], [255]]], jnp.uint8)
      >>> halfway = jnp.array([[[0.5, 0.0]]])
      >>> stn_jax.on_uint8(stn_jax.remap)(photo, halfway)
      Array([[[128]]], dtype=uint8)
    """

    @functools.wraps(warp)
    def warped(image: ArrayLike, *args: Any, **options: Any) -> jax.Array:
        pixels = jnp.asarray(image)
        if pixels.dtype != jnp.uint8:
            raise TypeError(
                f"image has type {pixels.dtype}; expected uint8 (floating-point images need no "
                "on_uint8)"
            )
        found = warp(pixels.astype(jnp.float32), *args, **options)
        return jnp.clip(jnp.round(jnp.nan_to_num(found, nan=0.0)), 0, 255).astype(jnp.uint8)

    return warped
