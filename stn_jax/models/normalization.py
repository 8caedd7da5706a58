"""Normalization of images to a network's training distribution."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.models.images import channels_hint


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Normalizes images as in a network's training: ``normalize(images)``.

    Attributes:
      mean, deviation: mean and standard deviation of the training images' pixels in [0, 1]; a
        number, or one per channel.
      shape: height, width and channels of the network's input.
    """

    mean: Any
    deviation: Any
    shape: tuple[int, int, int]

    def __call__(self, images: ArrayLike) -> jax.Array:
        """Normalizes images.

        Args:
          images: ``[..., H, W, C]``, floats in [0, 1] or uint8.

        Returns:
          The network's input, in float32 and of the same shape.

        Raises:
          ValueError: the height, width or number of channels differs from the network's.
          TypeError: the images are neither floats nor uint8.
        """
        images = jnp.asarray(images)
        if images.shape[-3:] != self.shape:
            height, width, channels = self.shape
            raise ValueError(
                f"images have shape {images.shape}; this network takes [..., {height}, {width}, "
                f"{channels}]" + (channels_hint(images.shape, channels) or ": resize or pad them")
            )
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        elif not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images have type {images.dtype}; expected floats in [0, 1] or uint8")
        mean, deviation = (jnp.asarray(x, jnp.float32) for x in (self.mean, self.deviation))
        return (images.astype(jnp.float32) - mean) / deviation

    @classmethod
    def of(cls, stored: Mapping[str, Any], shape: Sequence[int]) -> "Normalize":
        """From a network's stored ``mean`` and ``deviation`` (0 and 1 if absent), and its shape."""
        mean, deviation = (
            np.asarray(stored.get(name, default), np.float32)
            for name, default in (("mean", 0), ("deviation", 1))
        )
        height, width, channels = map(int, shape)
        return cls(mean, deviation, (height, width, channels))
