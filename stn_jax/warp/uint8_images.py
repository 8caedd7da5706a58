"""Warps of uint8 images, on request: computed in float32, then rounded and clipped to 0 to 255."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def on_uint8(warp: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Converts a function of a floating-point image to one of a uint8 image, with a uint8 result.

    The warps reject integer images, since most of them are mistakes. The returned function computes
    in float32 on the scale from 0 to 255, which is also that of a ``fill``; then it rounds (halves
    to even) and clips to this range, as "bicubic" overshoots. NaN becomes 0. There is no gradient.

    Args:
      warp: a function of an image and anything else, such as :func:`stn_jax.warp_affine`.

    Returns:
      A function of a uint8 image and the other arguments, with a uint8 result. It raises TypeError
      if the image has any other type.

    Examples:
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
