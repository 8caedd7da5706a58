"""Checks of a network's images, with what to do."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from stn_jax.warp.axes import warn_of_axes


def check_images(images: jax.Array, variables: Mapping[str, Any], *, copies: int = 1) -> None:
    """Checks images ``[B, H, W, C]`` for a network with these variables; none before its init.

    Args:
      images: the network's input.
      variables: as ``apply`` takes them.
      copies: how many images the first block sees, stacked along the channels.

    Raises:
      TypeError: the images are not floating point.
      ValueError: they do not have four axes, or another number of channels than the network.
    """
    if images.ndim != 4:
        raise ValueError(
            f"images has shape {images.shape}; expected [B, H, W, C]: one image is images[None]"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images has type {images.dtype}; expected floating point: normalize it first"
        )
    warn_of_axes(images.shape, 2)
    found, expected = images.shape[-1], _channels(variables, copies)
    if expected not in (None, found):
        raise ValueError(
            f"images has shape {images.shape}, with {found} channels; this network takes "
            f"{expected}" + channels_hint(images.shape, expected)
        )


def channels_hint(shape: tuple[int, ...], channels: int) -> str:
    """What may help where images of a shape do not fit a network."""
    if len(shape) < 3:
        return ": single-channel images need a last axis of 1"
    if shape[-1] == 3 and channels == 1:
        return ": convert colors to gray, images.mean(-1, keepdims=True)"
    if shape[-1] == 1 and channels == 3:
        return ": repeat gray, jnp.repeat(images, 3, -1)"
    if shape[-3] == channels != shape[-1]:
        return ": the channels must be the last axis"
    return ""


def _channels(variables: Mapping[str, Any], copies: int) -> int | None:
    """The input channels of a first convolution of this package; None for other blocks."""
    block = variables.get("params", {}).get("blocks_0", {})
    kernel = block.get("conv", block.get("conv_0", {})).get("kernel")
    return None if kernel is None or kernel.ndim != 4 else kernel.shape[2] // copies
