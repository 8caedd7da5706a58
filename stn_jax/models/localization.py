"""Localization networks: from an image or feature map to a vector of pose features."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

from stn_jax.models.blocks import ReLU, flatten
from stn_jax.models.layers import conv_general_dilated, max_pool


class DenseLocalization(nn.Module):
    """Dense layers with ReLU.

    Attributes:
      widths: number of units of each layer.
      dtype: type to compute in.
    """

    widths: Sequence[int] = (32, 32, 32)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, ...]`` to ``[B, widths[-1]]``."""
        x = flatten(x)
        for i, width in enumerate(self.widths):
            x = ReLU(name=f"relu_{i}")(nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x))
        return x


class ConvLocalization(nn.Module):
    """Convolutions, each with max-pooling by 2 and ReLU; then dense layers.

    Pooling is skipped if its result would be smaller than the kernel, so that one network handles
    images and the smaller maps of deeper layers.

    Attributes:
      features: number of channels of each convolution.
      kernel_size: side of the square kernels.
      pools: the first this many convolutions are followed by pooling.
      widths: number of units of each dense layer.
      dtype: type to compute in.
      padding: of the convolutions: "VALID" or "SAME".
      pool_input: whether the input is max-pooled by 2 before the first convolution.
    """

    features: Sequence[int] = (20, 20)
    kernel_size: int = 5
    pools: int = 2
    widths: Sequence[int] = (20,)
    dtype: Any = None
    padding: str = "VALID"
    pool_input: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, widths[-1]]``."""
        size = self.kernel_size
        if self.pool_input:
            x = max_pool(x)
        for i, features in enumerate(self.features):
            if self.padding == "VALID" and min(x.shape[1:3]) < size:
                raise ValueError(
                    f"a map of {x.shape[1]}x{x.shape[2]} is too small for the localization "
                    f"network's {size}x{size} convolution; use a lower depth or larger images"
                )
            x = nn.Conv(
                features,
                (size, size),
                padding=self.padding,
                dtype=self.dtype,
                conv_general_dilated=conv_general_dilated,
                name=f"conv_{i}",
            )(x)
            if i < self.pools and min(x.shape[1:3]) // 2 >= size:
                x = max_pool(x)
            x = ReLU(name=f"relu_{i}")(x)
        return DenseLocalization(self.widths, self.dtype, name="dense")(x)
