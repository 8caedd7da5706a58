"""The spatial transformer: look, decide on a pose, warp."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models.submodules import call
from stn_jax.warp import transforms
from stn_jax.warp.transforms import Transform


class SpatialTransformer(nn.Module):
    """A spatial transformer (Jaderberg et al. 2015, Section 3), starting at the identity.

    The localization network turns what it looks at into a vector; a dense layer of zero weights
    and zero bias turns that into the parameters of a transform, 0 for the identity; the input is
    warped by it. With several iterations the same localization network looks at the
    warped input again and its transforms compose; the *input* is resampled each time, so nothing
    is blurred twice (Lin and Lucey 2017; Jansson et al., arXiv 2004.11678).

    Attributes:
      localization: module from ``[B, H, W, C]`` to a vector ``[B, n]``; it is told ``train=`` where
        it has such an argument.
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

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from stn_jax import SpatialTransformer
      >>> look = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(32), nn.relu])
      >>> images = jnp.ones((8, 28, 28, 1))
      >>> aligned, variables = SpatialTransformer(look).init_with_output(jax.random.key(0), images)
      >>> aligned.shape
      (8, 28, 28, 1)

      The same in two steps, each a method that ``nn.remat``, ``nn.jit`` and ``module.apply`` can
      take alone (see :meth:`predict` and :meth:`warp`):

      >>> theta = SpatialTransformer(look).apply(variables, images, method="predict")
      >>> SpatialTransformer(look).apply(variables, images, theta, method="warp").shape
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
    def parameters(
        self, x: jax.Array, family: Transform, train: bool = False, **localization_options: Any
    ) -> jax.Array:
        """The parameters of the transform that one look at ``[B, ...]`` asks for, ``[B, n]``."""
        vector = call(self.localization, x, train, **localization_options)
        if vector.ndim != 2 or vector.shape[1] == 0:
            raise ValueError(
                f"the localization network gave an array of shape {vector.shape} for one of "
                f"{x.shape}; expected a vector for each image, [B, n]"
            )
        # Half precision is too coarse for poses.
        vector = vector.astype(jnp.promote_types(vector.dtype, jnp.float32))
        return nn.Dense(family.size, kernel_init=nn.initializers.zeros, name="theta")(vector)

    def predict(
        self,
        x: jax.Array,
        train: bool = False,
        *,
        num_spatial_dims: int = 2,
        **localization_options: Any,
    ) -> jax.Array:
        """Looks once, and says how to warp.

        ``warp(image, predict(image))`` is ``__call__(image)``, and with another x, computed as one
        likes, what ``features`` is for there.

        Args:
          x: what the localization network looks at, ``[B, ...]``.
          train: passed to the localization network, where it has such an argument.
          num_spatial_dims: 2 for images, 3 for volumes.
          **localization_options: passed to the localization network.

        Returns:
          theta, as :meth:`__call__` gives it.

        Raises:
          ValueError: there are several iterations, in which the images have to be warped between
            the looks; or an attribute is out of range.
        """
        if self.iterations != 1:
            raise ValueError(
                f"iterations is {self.iterations}, and predict looks once; expected 1: call the "
                "module itself for more"
            )
        family = self.family(num_spatial_dims)
        theta = family.theta(self.parameters(x, family, train, **localization_options))
        return self._cropped(theta, family)

    def warp(self, image: jax.Array, theta: jax.Array) -> jax.Array:
        """Warps a batch by transforms that are known.

        Args:
          image: ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes.
          theta: as :meth:`predict` gives it.

        Returns:
          ``[B, *shape, C]``, in the image's type.

        Raises:
          ValueError: as :meth:`__call__`.
        """
        return self._sample(image, theta, self._output_shape(image))

    # With positional flags, so that ``nn.remat(..., static_argnums=...)`` can name them.
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        return_theta: bool = False,
        train: bool = False,
        **localization_options: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Warps a batch.

        Args:
          image: ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes: what is warped.
          features: function from an image to what the localization network looks at; the image
            itself where None. Where a closure will not do, as in ``nn.remat``: :meth:`predict`.
          return_theta: whether the transform comes back too.
          train: passed to the localization network, where it has such an argument.
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
        shape = self._output_shape(image)
        family = self.family(image.ndim - 2)
        steps: list[jax.Array] = []
        view = image
        for i in range(self.iterations):
            seen = view if features is None else features(view)
            parameters = self.parameters(seen, family, train, **localization_options)
            steps.append(family.theta(parameters))
            theta = family.compose(*steps)
            if i < self.iterations - 1:
                view = self._sample(image, theta, image.shape[1:-1])
        theta = self._cropped(theta, family)
        warped = self._sample(image, theta, shape)
        return (warped, theta) if return_theta else warped

    def _cropped(self, theta: jax.Array, family: Transform) -> jax.Array:
        return theta if self.window == 1 else family.windowed(theta, self.window)

    def _sample(self, image: jax.Array, theta: jax.Array, shape: Sequence[int]) -> jax.Array:
        return self.family(image.ndim - 2).warp(
            image,
            theta,
            shape,
            mode=self.mode,
            padding_mode=self.padding_mode,
            align_corners=self.align_corners,
        )

    def _output_shape(self, image: jax.Array) -> tuple[int, ...]:
        """The output's spatial shape for an image. ValueError where there is none."""
        if image.ndim not in (4, 5):
            raise ValueError(
                f"image has shape {image.shape}; expected [B, H, W, C] or [B, D, H, W, C]"
            )
        for name in ("downsample", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 < self.window < float("inf"):
            raise ValueError(f"window is {self.window}; expected a share of a side, such as 0.5")
        sides = image.shape[1:-1]
        if 0 in sides:
            raise ValueError(f"image has shape {image.shape}; expected sides of 1 or more")
        if self.shape is not None:
            if len(self.shape) != len(sides) or any(side < 1 for side in self.shape):
                raise ValueError(
                    f"shape is {tuple(self.shape)}; expected {len(sides)} sides of 1 or more"
                )
            return tuple(self.shape)
        shape = tuple(side // self.downsample for side in sides)
        if 0 in shape:
            raise ValueError(
                f"downsample is {self.downsample}, which leaves nothing of an image of "
                f"{'x'.join(map(str, sides))}; expected no more than {min(sides)}"
            )
        return shape
