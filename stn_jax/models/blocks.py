"""Building blocks of classifiers; any module that is called as ``block(x, train)`` is one."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models.dropout import Dropout
from stn_jax.models.layers import conv_general_dilated, max_pool


class ConvBlock(nn.Module):
    """Convolution, optional max-pooling by 2, ReLU, dropout.

    Attributes:
      features: number of output channels.
      kernel_size: side of the square kernel.
      padding: "VALID" or "SAME".
      pool: whether to max-pool by 2.
      dropout: fraction of the outputs that training sets to 0.
      dtype: type to compute in; parameters stay float32.
    """

    features: int
    kernel_size: int
    padding: str = "VALID"
    pool: bool = False
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H', W', features]``."""
        size = self.kernel_size
        if self.padding == "VALID" and min(x.shape[1:3]) < size:
            raise ValueError(
                f"a map of {x.shape[1]}x{x.shape[2]} is too small for a {size}x{size} convolution "
                "without padding; use larger images or a lower depth"
            )
        x = nn.Conv(
            self.features,
            (size, size),
            padding=self.padding,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
        if self.pool:
            if min(x.shape[1:3]) < 2:
                raise ValueError(
                    f"a map of {x.shape[1]}x{x.shape[2]} is too small for pooling by 2; use larger "
                    "images or a lower depth"
                )
            x = max_pool(x)
        return Dropout(self.dropout)(nn.relu(x), train)


def flatten(x: jax.Array) -> jax.Array:
    """``[B, ...]`` to ``[B, n]``. Raises ValueError if n is 0."""
    if 0 in x.shape[1:]:
        raise ValueError(f"a map of shape {x.shape} holds no values; use larger images")
    # Not -1, which is ambiguous for an empty batch.
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Head(nn.Module):
    """A classifier's head: dense layers with ReLU and dropout, then logits.

    Attributes:
      classes: number of classes.
      positions: None for one label per image; otherwise the number of labels (the digits of a house
        number).
      hidden: widths of the dense layers before the last.
      dropout: fraction of each hidden layer that training sets to 0.
      dtype: type to compute in; parameters stay float32, and logits are at least float32.
    """

    classes: int
    positions: int | None = None
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, ...]`` to ``[B, classes]`` or ``[B, positions, classes]``."""
        x = flatten(x)
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x))
            x = Dropout(self.dropout)(x, train)
        shape = (self.classes,) if self.positions is None else (self.positions, self.classes)
        x = nn.Dense(math.prod(shape), dtype=self.dtype, name="logits")(x)
        return x.reshape(x.shape[0], *shape).astype(jnp.promote_types(x.dtype, jnp.float32))
