"""Warnings of arrays whose axes are probably in another order than channels last."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any


class AxesWarning(UserWarning):
    """An array has a shape that is allowed, but hardly meant."""


def warn_of_axes(shape: Sequence[Any], dims: int, lead: Sequence[Any] = ()) -> None:
    """Warns, once for each shape, of an image that is channels-first or lacks its channel axis.

    Args:
      shape: the image's shape, where channels should be last. Sizes that are not known before a
        program runs are not looked at.
      dims: number of its spatial axes.
      lead: leading axes of the transforms or grids that are applied to it.
    """
    if all(isinstance(side, int) for side in (*shape, *lead)):
        _warn(tuple(shape), dims, tuple(lead))


@functools.cache
def _warn(shape: tuple[int, ...], dims: int, lead: tuple[int, ...]) -> None:
    *_, channels = after = shape[-dims:]
    before = shape[-dims - 1]
    # Small maps with many channels are not meant, nor are images with a side of a few pixels.
    if len(shape) == dims + 2 and shape[1] < 5 < min(shape[2:]) and max(after) <= 8 * min(after):
        warnings.warn(
            f"an image of shape {shape} has {shape[1]} rows and {channels} channels, since the "
            "last axis holds channels; if the second does, use jnp.moveaxis(image, 1, -1)",
            AxesWarning,
            stacklevel=4,
        )
    elif len(shape) == dims + 1 and channels > 4 and lead == (before,):
        warnings.warn(
            f"an image of shape {shape} is a single one with {channels} channels, warped {before} "
            f"times; if it is a batch of {before} without channels (masks), use image[..., None]",
            AxesWarning,
            stacklevel=4,
        )
