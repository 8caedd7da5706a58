"""The spatial transformer: look, decide on a pose, warp."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.warp import grid_sample, transforms
from stn_jax.warp.transforms import Transform


class SpatialTransformer(nn.Module):
    """A spatial transformer (Jaderberg et al. 2015, Section 3), starting at the identity.

    The localization network turns what it looks at into a vector; a dense layer of zero weights
    and zero bias turns that into the parameters of a transform, 0 for the identity; the input is
    warped by it. With several iterations the same localization network looks at the
    warped input again and its transforms compose; the *input* is resampled each time, so nothing
    is blurred twice (Lin and Lucey 2017; Jansson et al., arXiv 2004.11678).

    Attributes:
      localization: module from ``[B, H, W, C]`` to a vector ``[B, n]``.
      shape: the output's spatial shape; the input's own where None.
      downsample: the output's sides are the input's divided by this (where shape is None).
      iterations: how many times the localization network looks.
      window: the output shows the middle of the transformed image, this share of each side: with
        downsample=2 a window of 0.5 starts with the image's own resolution, and one of 1 with the
        whole image, shrunk. Other than 1 it is no longer the identity that it starts at.
      mode, padding_mode, align_corners: as in :func:`stn_jax.grid_sample`.
      transform: what the transformer may do: "rotation", "attention", "similarity", "affine",
        "projective", "tps" (only "affine" for volumes), or a family of one's own settings; see
        :mod:`stn_jax.warp.transforms`.
      clip: in training, an image's gradient with respect to the parameters of its transform is
        shortened to this many times the batch's mean norm (few images have by far the longest
        ones, and drown what the others ask for); 0: never. Such networks have no forward-mode
        derivatives.

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
    window: float = 1.0
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    transform: Transform | str = "affine"
    clip: float = 0.0

    def family(self, rank: int = 2) -> Transform:
        """The family of transforms, for images (rank 2) or volumes (rank 3).

        Raises:
          TypeError, ValueError: as :func:`stn_jax.warp.transforms.resolve`; ValueError also where
            several iterations, or a window, are asked of a family that does not compose.
        """
        family = transforms.resolve(self.transform, rank)
        for name in ("iterations", "window"):
            if (value := getattr(self, name)) != 1 and not family.composable:
                raise ValueError(
                    f"transform is {self.transform!r}, which does not compose, and {name} is "
                    f"{value}; expected 1, or another transform"
                )
        return family

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
          theta in float32: ``[B, 2, 3]`` (``[B, 3, 4]`` for volumes), ``[B, 3, 3]`` where the
          transform is projective, and for thin-plate splines ``[B, K, K, 2]``, where the control
          points look.

        Raises:
          ValueError: the image has not four or five axes, or an attribute is out of range or does
            not fit the others.
        """
        if image.ndim not in (4, 5):
            raise ValueError(
                f"image has shape {image.shape}; expected [B, H, W, C] or [B, D, H, W, C]"
            )
        for name in ("downsample", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not self.window > 0:
            raise ValueError(f"window is {self.window}; expected a share of a side, such as 0.5")
        if not self.clip >= 0:
            raise ValueError(f"clip is {self.clip}; expected a factor, or 0 for no clipping")
        rank = image.ndim - 2
        shape = self.shape or tuple(side // self.downsample for side in image.shape[1:-1])
        family = self.family(rank)
        to_params = nn.Dense(family.size, kernel_init=nn.initializers.zeros, name="theta")
        steps: list[jax.Array] = []
        view = image
        for i in range(self.iterations):
            seen = view if features is None else features(view)
            vector = self.localization(seen, **localization_options)
            # Half precision is too coarse for poses.
            vector = vector.astype(jnp.promote_types(vector.dtype, jnp.float32))
            params = to_params(vector)
            if self.clip:
                params = _with_short_gradients(params, self.clip)
            steps.append(family.theta(params))
            theta = family.compose(*steps)
            last = i == self.iterations - 1
            if last and self.window != 1:
                theta = family.windowed(theta, self.window)
            grid = family.grid_of(
                theta, shape if last else image.shape[1:-1], align_corners=self.align_corners
            )
            view = grid_sample(
                image,
                grid,
                mode=self.mode,
                padding_mode=self.padding_mode,
                align_corners=self.align_corners,
            )
        return (view, theta) if return_theta else view


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _with_short_gradients(params: jax.Array, clip: float) -> jax.Array:
    """The identity of ``[B, n]``; rows of its gradient are clipped at ``clip`` mean norms."""
    return params


def _forward(params: jax.Array, clip: float) -> tuple[jax.Array, None]:
    return params, None


def _backward(clip: float, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    norms = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
    longest = clip * norms.mean()
    return (jnp.where(norms > longest, longest / norms, 1) * gradient,)


_with_short_gradients.defvjp(_forward, _backward)
