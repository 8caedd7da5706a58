"""The spatial transformer for programs in Flax's NNX."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx

from stn_jax.models.alignment import Alignment, as_features
from stn_jax.warp.transforms import Transform

__all__ = ["SpatialTransformer"]


class SpatialTransformer(nnx.Module):
    """A spatial transformer (Jaderberg et al. 2015, Section 3), starting at the identity.

    The same as :class:`stn_jax.SpatialTransformer`, with its parameters held as NNX does: the
    localization network maps its input to a vector, and the layer ``theta``, whose weights and bias
    start at zero, maps that to the parameters of a transform.

    Convention:
      Images are channels-last. theta maps output to input coordinates, (x, y) in [-1, 1].

    Args:
      localization: ``nnx.Module``, or any function, from ``[B, H, W, C]`` to a vector
        ``[B, features]``.
      features: the length of that vector.
      shape: the output's spatial shape; None: the input's.
      downsample: the output's sides are the input's divided by this (if shape is None).
      iterations: how many times the localization network is applied, to the image as it was warped
        so far.
      crop_fraction: the output shows the central part of the transformed image, this fraction of
        each side.
      mode, padding_mode, align_corners: as in :func:`stn_jax.grid_sample`.
      transform: "rotation", "translation", "attention", "similarity", "affine", "projective",
        "tps" (only "affine" for volumes), or an object of :mod:`stn_jax.warp.transforms`.
      num_spatial_dims: 2 for images, 3 for volumes.
      param_dtype: type of the last layer's parameters. Poses are computed in float32, or float64 if
        the localization network's output or the parameters are.
      deterministic: whether gradients through the warp have the same bits every time on a GPU, as
        in :func:`stn_jax.grid_sample`. (Not about dropout.)
      rngs: as in other NNX modules. No random number is drawn.

    Raises:
      TypeError, ValueError: features or num_spatial_dims is out of range, or the transform is
        unknown or incompatible with another argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import stn_jax.nnx
      >>> rngs = nnx.Rngs(0)
      >>> localization = nnx.Sequential(
      ...     lambda x: x.reshape(len(x), -1), nnx.Linear(28 * 28, 32, rngs=rngs), nnx.relu
      ... )
      >>> transformer = stn_jax.nnx.SpatialTransformer(localization, 32, rngs=rngs)
      >>> images = jnp.ones((8, 28, 28, 1))
      >>> aligned, theta = transformer(images, return_theta=True)
      >>> aligned.shape, theta.shape
      ((8, 28, 28, 1), (8, 2, 3))
      >>> transformer.warp(images, transformer.predict(images)).shape
      (8, 28, 28, 1)
    """

    def __init__(
        self,
        localization: Callable[..., jax.Array],
        features: int,
        *,
        shape: Sequence[int] | None = None,
        downsample: int = 1,
        iterations: int = 1,
        crop_fraction: float = 1.0,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        transform: Transform | str = "affine",
        num_spatial_dims: int = 2,
        param_dtype: Any = jnp.float32,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ):
        if features < 1:
            raise ValueError(f"features is {features}; expected 1 or more")
        if num_spatial_dims not in (2, 3):
            raise ValueError(f"num_spatial_dims is {num_spatial_dims}; expected 2 or 3")
        self.alignment = Alignment(
            shape=None if shape is None else tuple(shape),
            downsample=downsample,
            iterations=iterations,
            crop_fraction=crop_fraction,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            transform=transform,
            deterministic=deterministic,
        )
        self.num_spatial_dims = num_spatial_dims
        self.localization = localization
        self.theta = nnx.Linear(
            features,
            self.alignment.family(num_spatial_dims).size,
            kernel_init=nnx.initializers.zeros_init(),
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def predict(self, x: jax.Array, **localization_options: Any) -> jax.Array:
        """Predicts the transforms in a single iteration.

        ``warp(image, predict(image))`` equals ``__call__(image)``, and ``warp(image,
        predict(features(image)))`` equals ``__call__(image, features)``.

        Args:
          x: input of the localization network, ``[B, ...]``.
          **localization_options: passed to the localization network.

        Returns:
          theta, as :meth:`__call__` returns it.

        Raises:
          ValueError: there are several iterations, which need the image to be warped in between.
        """
        predict = functools.partial(self._parameters, **localization_options)
        return self.alignment.theta(x, predict, self.num_spatial_dims)

    def warp(self, image: jax.Array, theta: jax.Array) -> jax.Array:
        """Warps by given transforms.

        Args:
          image: ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes; or one image ``[H, W, C]``.
          theta: as :meth:`predict` returns it; for one image, with or without its batch axis.

        Returns:
          ``[B, *shape, C]``, in the image's type; ``[*shape, C]`` if neither argument has a batch
          axis.

        Raises:
          ValueError: as :meth:`__call__`.
        """
        return self.alignment.warp(image, theta)

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        *,
        return_theta: Literal[False] = False,
        **localization_options: Any,
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        *,
        return_theta: Literal[True],
        **localization_options: Any,
    ) -> tuple[jax.Array, jax.Array]: ...

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        *,
        return_theta: bool = False,
        **localization_options: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]: ...

    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        *,
        return_theta: bool = False,
        **localization_options: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Aligns a batch, or one image.

        Args:
          image: array to warp, ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes; or one image
            ``[H, W, C]``, which the localization network sees as a batch of one.
          features: function from a batch to the localization network's input; None: the batch
            itself.
          return_theta: whether to return the transform too.
          **localization_options: passed to the localization network.

        Returns:
          The warped batch ``[B, *shape, C]`` in the image's type; with return_theta, a pair of it
          and theta in float32: ``[B, 2, 3]`` (``[B, 3, 4]`` for volumes), ``[B, 3, 3]`` for
          projective transforms, and for thin-plate splines ``[B, K, K, 2]``, the input coordinates
          of the control points. For one image, both come without ``B``.

        Raises:
          ValueError: the image does not have the axes of num_spatial_dims, or the localization
            network does not return ``[B, features]``.
        """
        if (image.ndim == 5) != (self.num_spatial_dims == 3):
            raise ValueError(
                f"image has shape {image.shape}, and num_spatial_dims is {self.num_spatial_dims}; "
                "expected [B, H, W, C] for 2, and [B, D, H, W, C] for 3"
            )

        def predict(view: jax.Array, family: Transform) -> jax.Array:
            x = view if features is None else features(view)
            return self._parameters(x, family, **localization_options)

        warped, theta = self.alignment.align(image, predict)
        return (warped, theta) if return_theta else warped

    def _parameters(self, x: jax.Array, family: Transform, **localization_options: Any) -> Any:
        """The transform's parameters ``[B, n]``, predicted from features ``[B, ...]``."""
        vector = as_features(self.localization(x, **localization_options), x)
        if vector.shape[1] != self.theta.in_features:
            raise ValueError(
                f"the localization network returned shape {vector.shape}; expected "
                f"[B, {self.theta.in_features}], as features says"
            )
        return self.theta(vector)
