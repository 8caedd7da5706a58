"""Building blocks of classifiers; any module that is called as ``block(x, train)`` is one."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models.dropout import Dropout
from stn_jax.models.layers import conv_general_dilated, max_pool


class ReLU(nn.Module):
    """The rectified linear unit; a module, so that its output can be captured by name."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Any shape to the same."""
        return nn.relu(x)


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

    @nn.nowrap
    def receptive_field(self) -> tuple[int, int]:
        """Side of the field of an output before pooling, and the padding before it, in pixels."""
        return self.kernel_size, 0 if self.padding == "VALID" else (self.kernel_size - 1) // 2

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
        return Dropout(self.dropout)(ReLU(name="relu")(_pooled(x, self.pool)), train)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, optional max-pooling by 2, ReLU, dropout.

    The last convolution starts at zero and the block as its shortcut, so that no normalization is
    needed (De and Smith 2020, arXiv:2002.10444). The shortcut is a 1x1 convolution where the number
    of channels changes.

    Attributes:
      features: number of output channels.
      kernel_size: side of the square kernels, odd.
      pool: whether to max-pool by 2.
      dropout: fraction of the outputs that training sets to 0.
      dtype: type to compute in; parameters stay float32.
    """

    features: int
    kernel_size: int = 3
    pool: bool = False
    dropout: float = 0.0
    dtype: Any = None

    @nn.nowrap
    def receptive_field(self) -> tuple[int, int]:
        """Side of the field of an output before pooling, and the padding before it, in pixels."""
        return 2 * self.kernel_size - 1, self.kernel_size - 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H', W', features]``."""
        y = ReLU(name="relu_0")(self._conv("conv_0", self.kernel_size)(x))
        y = self._conv("conv_1", self.kernel_size, kernel_init=nn.initializers.zeros)(y)
        shortcut = x if x.shape[-1] == self.features else self._conv("shortcut", 1)(x)
        y = ReLU(name="relu_1")(_pooled(y + shortcut, self.pool))
        return Dropout(self.dropout)(y, train)

    def _conv(self, name: str, size: int, **options: Any) -> nn.Conv:
        return nn.Conv(
            self.features,
            (size, size),
            padding="SAME",
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name=name,
            **options,
        )


def _pooled(x: jax.Array, pool: bool) -> jax.Array:
    """Max-pooled by 2, or unchanged. Raises ValueError if the map is too small."""
    if pool and min(x.shape[1:3]) < 2:
        raise ValueError(
            f"a map of {x.shape[1]}x{x.shape[2]} is too small for pooling by 2; use larger images "
            "or a lower depth"
        )
    return max_pool(x) if pool else x


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
      average: whether to average a map over its positions first.
    """

    classes: int
    positions: int | None = None
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: Any = None
    average: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, ...]`` to ``[B, classes]`` or ``[B, positions, classes]``."""
        x = x.mean((1, 2)) if self.average else flatten(x)
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x)
            x = ReLU(name=f"relu_{i}")(x)
            x = Dropout(self.dropout)(x, train)
        shape = (self.classes,) if self.positions is None else (self.positions, self.classes)
        x = nn.Dense(math.prod(shape), dtype=self.dtype, name="logits")(x)
        return x.reshape(x.shape[0], *shape).astype(jnp.promote_types(x.dtype, jnp.float32))
