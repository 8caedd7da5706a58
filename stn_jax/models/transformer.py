"""The spatial transformer: look, decide on a pose, warp."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.warp import affine, affine_transform


class SpatialTransformer(nn.Module):
    """A spatial transformer (Jaderberg et al. 2015, Section 3), starting at the identity.

    The localization network turns what it looks at into a vector; a dense layer of zero weights
    and zero bias turns that into an affine transform, as a difference from the identity; the
    input is warped by it. With several iterations the same localization network looks at the
    warped input again and its transforms compose; the *input* is resampled each time, so nothing
    is blurred twice (Lin and Lucey 2017; Jansson et al., arXiv 2004.11678).

    Attributes:
      localization: module from ``[B, H, W, C]`` to a vector ``[B, n]``.
      shape: the output's spatial shape; the input's own where None.
      downsample: the output's sides are the input's divided by this (where shape is None).
      iterations: how many times the localization network looks.
      mode, padding_mode, align_corners: as in :func:`stn_jax.grid_sample`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from stn_jax import SpatialTransformer
      >>> look = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(32), nn.relu])
      >>> images = jnp.ones((8, 28, 28, 1))
      >>> aligned, variables = SpatialTransformer(look).init_with_output(jax.random.key(0), images)
      >>> aligned.shape
      (8, 28, 28, 1)
    """

    localization: nn.Module
    shape: Sequence[int] | None = None
    downsample: int = 1
    iterations: int = 1
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        *,
        features: Callable[[jax.Array], jax.Array] | None = None,
        return_theta: bool = False,
        **localization_options: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Warps a batch.

        Args:
          image: ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes: what is warped.
          features: function from an image to what the localization network looks at; the image
            itself where None.
          return_theta: whether the transform comes back too.
          **localization_options: passed to the localization network.

        Returns:
          The warped batch ``[B, *shape, C]`` in the image's type or, with return_theta, it and
          theta ``[B, 2, 3]`` (``[B, 3, 4]`` for volumes) in float32.

        Raises:
          ValueError: the image has not four or five axes, or an attribute is out of range.
        """
        if image.ndim not in (4, 5):
            raise ValueError(
                f"image has shape {image.shape}; expected [B, H, W, C] or [B, D, H, W, C]"
            )
        for name in ("downsample", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        rank = image.ndim - 2
        shape = self.shape or tuple(side // self.downsample for side in image.shape[1:-1])
        to_delta = nn.Dense(rank * (rank + 1), kernel_init=nn.initializers.zeros, name="theta")
        theta, view = affine.identity(rank), image
        for i in range(self.iterations):
            seen = view if features is None else features(view)
            vector = self.localization(seen, **localization_options)
            # Half precision is too coarse for poses.
            vector = vector.astype(jnp.promote_types(vector.dtype, jnp.float32))
            delta = to_delta(vector).reshape(-1, rank, rank + 1)
            theta = affine.compose(theta, affine.identity(rank) + delta)
            last = i == self.iterations - 1
            view = affine_transform(
                image,
                theta,
                shape if last else None,
                mode=self.mode,
                padding_mode=self.padding_mode,
                align_corners=self.align_corners,
            )
        return (view, theta) if return_theta else view
