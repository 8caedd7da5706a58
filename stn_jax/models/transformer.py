"""The spatial transformer: a localization network predicts a transform, the input is warped."""

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

    The localization network maps its input to a vector; a dense layer with zero weights and zero
    bias maps that to the parameters of a transform, 0 for the identity; the input is warped by it.
    With several iterations the same localization network is applied to the warped input again and
    its transforms are composed; the *input* is resampled each time, so that interpolation does not
    blur repeatedly (Lin and Lucey 2017; Jansson et al., arXiv 2004.11678).

    Attributes:
      localization: module from ``[B, H, W, C]`` to a vector ``[B, n]``; it is passed ``train=`` if
        it takes that argument.
      shape: the output's spatial shape; None: the input's.
      downsample: the output's sides are the input's divided by this (if shape is None).
      iterations: how many times the localization network is applied.
      crop_fraction: the output shows the central part of the transformed image, this fraction of
        each side. With downsample=2, a crop_fraction of 0.5 starts at the image's own resolution,
        and 1 at the whole image, shrunk. Training starts at the identity only if it is 1.
      mode, padding_mode, align_corners: as in :func:`stn_jax.grid_sample`.
      transform: family of transforms: "rotation", "attention", "similarity", "affine",
        "projective", "tps" (only "affine" for volumes), or an object of
        :mod:`stn_jax.warp.transforms`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from stn_jax import SpatialTransformer
      >>> localization = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(32), nn.relu])
      >>> transformer = SpatialTransformer(localization)
      >>> images = jnp.ones((8, 28, 28, 1))
      >>> aligned, variables = transformer.init_with_output(jax.random.key(0), images)
      >>> aligned.shape
      (8, 28, 28, 1)

      The same in two steps, as methods that ``nn.remat``, ``nn.jit`` and ``module.apply`` can use
      separately (see :meth:`predict` and :meth:`warp`):

      >>> theta = transformer.apply(variables, images, method="predict")
      >>> transformer.apply(variables, images, theta, method="warp").shape
      (8, 28, 28, 1)
    """

    localization: nn.Module
    shape: Sequence[int] | None = None
    downsample: int = 1
    iterations: int = 1
    crop_fraction: float = 1.0
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    transform: Transform | str = "affine"

    def family(self, num_spatial_dims: int = 2) -> Transform:
        """The family of transforms, for images (2 spatial dimensions) or volumes (3).

        Raises:
          TypeError, ValueError: as :func:`stn_jax.warp.transforms.resolve`; ValueError also if
            iterations or crop_fraction is not 1 and the family's transforms do not compose.
        """
        family = transforms.resolve(self.transform, num_spatial_dims)
        for name in ("iterations", "crop_fraction"):
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
        """The transform's parameters ``[B, n]``, predicted from features ``[B, ...]``."""
        vector = call(self.localization, x, train, **localization_options)
        if vector.ndim != 2 or vector.shape[1] == 0:
            raise ValueError(
                f"the localization network returned shape {vector.shape} for an input of shape "
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
        """Predicts the transform in a single iteration.

        ``warp(image, predict(image))`` equals ``__call__(image)``, and ``warp(image,
        predict(features(image)))`` equals ``__call__(image, features)``.

        Args:
          x: input of the localization network, ``[B, ...]``.
          train: passed to the localization network if it takes that argument.
          num_spatial_dims: 2 for images, 3 for volumes.
          **localization_options: passed to the localization network.

        Returns:
          theta, as :meth:`__call__` returns it.

        Raises:
          ValueError: there are several iterations, which need the image to be warped in between;
            or an attribute is out of range.
        """
        if self.iterations != 1:
            raise ValueError(
                f"iterations is {self.iterations}; predict expects 1: call the module itself for "
                "more"
            )
        family = self.family(num_spatial_dims)
        theta = family.theta(self.parameters(x, family, train, **localization_options))
        return self._cropped(theta, family)

    def warp(self, image: jax.Array, theta: jax.Array) -> jax.Array:
        """Warps a batch by given transforms.

        Args:
          image: ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes.
          theta: as :meth:`predict` returns it.

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
          image: array to warp, ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes.
          features: function from an image to the localization network's input; None: the image
            itself. Use :meth:`predict` where a closure cannot be passed, as with ``nn.remat``.
          return_theta: whether to return the transform too.
          train: passed to the localization network if it takes that argument.
          **localization_options: passed to the localization network.

        Returns:
          The warped batch ``[B, *shape, C]`` in the image's type; with return_theta, a pair of it
          and theta in float32: ``[B, 2, 3]`` (``[B, 3, 4]`` for volumes), ``[B, 3, 3]`` for
          projective transforms, and for thin-plate splines ``[B, K, K, 2]``, the input coordinates
          of the control points.

        Raises:
          ValueError: the image does not have four or five axes, or an attribute is out of range or
            incompatible with another.
        """
        shape = self._output_shape(image)
        family = self.family(image.ndim - 2)
        steps: list[jax.Array] = []
        view = image
        for i in range(self.iterations):
            x = view if features is None else features(view)
            parameters = self.parameters(x, family, train, **localization_options)
            steps.append(family.theta(parameters))
            theta = family.compose(*steps)
            if i < self.iterations - 1:
                view = self._sample(image, theta, image.shape[1:-1])
        theta = self._cropped(theta, family)
        warped = self._sample(image, theta, shape)
        return (warped, theta) if return_theta else warped

    def _cropped(self, theta: jax.Array, family: Transform) -> jax.Array:
        return theta if self.crop_fraction == 1 else family.cropped(theta, self.crop_fraction)

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
        """The output's spatial shape. Raises ValueError if an attribute is out of range."""
        if image.ndim not in (4, 5):
            raise ValueError(
                f"image has shape {image.shape}; expected [B, H, W, C] or [B, D, H, W, C]"
            )
        for name in ("downsample", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 < self.crop_fraction < float("inf"):
            raise ValueError(
                f"crop_fraction is {self.crop_fraction}; expected a fraction of a side, such as 0.5"
            )
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
                f"downsample is {self.downsample}, too much for an image of "
                f"{'x'.join(map(str, sides))}; expected at most {min(sides)}"
            )
        return shape
