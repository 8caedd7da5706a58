"""The static description of a sampling operation, and the layout of its arrays."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """The static parameters of a sampling operation.

    Attributes:
      num_spatial_dims: number of spatial dimensions: 2 for images, 3 for volumes.
      shape: the output's spatial shape if positions come from a theta; None: from a grid.
      mode, padding_mode, align_corners: as in :func:`stn_jax.grid_sample`.
      implementation: None (the fastest for the platform), "xla" or "native".
      deterministic: whether gradients are summed in a fixed order on every platform.
    """

    num_spatial_dims: int
    shape: tuple[Any, ...] | None
    mode: str
    padding_mode: str
    align_corners: bool
    implementation: str | None = None
    deterministic: bool = False

    def out_shape(self, where: Any) -> tuple[Any, ...]:
        """The output's spatial shape O."""
        return (
            self.shape if self.shape is not None else where.shape[-1 - self.num_spatial_dims : -1]
        )

    def lead(self, name: str, array: Any) -> tuple[Any, ...]:
        """The leading axes of an array: an "image" (or one of its shape) or a "where"."""
        theta = name == "where" and self.shape is not None
        return array.shape[: array.ndim - (2 if theta else self.num_spatial_dims + 1)]


class Layout(NamedTuple):
    """How leading axes are flattened to images and samples, without copying images.

    The axes along which images differ are flattened to one axis of I images; all others, including
    the output's spatial axes, to the N samples of each image.
    """

    own: tuple[int, ...]  # leading axes along which images differ
    batch: tuple[Any, ...]  # L
    out: tuple[Any, ...]  # O
    sizes: tuple[Any, ...]  # S
    channels: Any

    @classmethod
    def of(cls, image: Any, where: Any, sampling: Sampling) -> "Layout":
        of_image, of_where = (
            sampling.lead(name, x) for name, x in (("image", image), ("where", where))
        )
        own = tuple(axis for axis, size in enumerate(of_image) if not _is_one(size))
        batch = tuple(b if _is_one(a) else a for a, b in zip(of_image, of_where, strict=True))
        sizes = image.shape[len(of_image) : -1]
        return cls(own, batch, sampling.out_shape(where), sizes, image.shape[-1])

    @property
    def _order(self) -> tuple[int, ...]:
        axes = range(len(self.batch) + len(self.out))
        return (*self.own, *(axis for axis in axes if axis not in self.own))

    @property
    def images(self) -> Any:
        return math.prod(self.batch[axis] for axis in self.own)

    def flatten(self, x: jax.Array, *, channels: bool = False) -> jax.Array:
        """``[*Lw, *O]`` to ``[I, N]``; with channels ``[*L, *O, C]`` to ``[I, N, C]``."""
        shape, last = (*self.batch, *self.out), x.shape[x.ndim - channels :]
        order = (*self._order, *range(len(shape), len(shape) + channels))
        samples = math.prod(shape[axis] for axis in self._order[len(self.own) :])
        x = jnp.broadcast_to(x, (*shape, *last)).transpose(order)
        return x.reshape(self.images, samples, *last)

    def unflatten(self, x: jax.Array) -> jax.Array:
        """``[I, N, C]`` to ``[*L, *O, C]``."""
        order, shape = self._order, (*self.batch, *self.out)
        x = x.reshape(*(shape[axis] for axis in order), self.channels)
        return x.transpose(*(order.index(axis) for axis in range(len(order))), len(order))

    def pixels(self, image: jax.Array) -> jax.Array:
        """An image as ``[I, P, C]``."""
        return image.reshape(self.images, math.prod(self.sizes), self.channels)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
