"""The spatial transformer: a localization network predicts a transform, the input is warped."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from stn_jax.models.alignment import Alignment, as_features
from stn_jax.models.submodules import call
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
      transform: family of transforms: "rotation", "translation", "attention", "similarity",
        "affine", "projective", "tps" (only "affine" for volumes), or an object of
        :mod:`stn_jax.warp.transforms`. By name, rotations are for square images; for oblong ones
        use ``transforms.Rotation(aspect=width / height)``.
      param_dtype: type of the last layer's parameters. Poses are computed in float32, or float64 if
        the localization network's output or the parameters are: half precision is too coarse.
      deterministic: whether gradients through the warp have the same bits every time on a GPU, as
        in :func:`stn_jax.grid_sample`. (Not about dropout, which has ``train``.)

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
    param_dtype: Any = jnp.float32
    deterministic: bool = False

    def __post_init__(self) -> None:
        nnx = sys.modules.get("flax.nnx")
        if nnx is not None and isinstance(self.localization, nnx.Module):
            raise TypeError(
                f"localization is a {type(self.localization).__name__}, an nnx.Module, whose "
                "parameters a Linen module would never train; use stn_jax.nnx.SpatialTransformer"
            )
        super().__post_init__()

    def alignment(self) -> Alignment:
        """The options and the mathematics, without the parameters."""
        names = (field.name for field in dataclasses.fields(Alignment))
        return Alignment(**{name: getattr(self, name) for name in names})

    def family(self, num_spatial_dims: int = 2) -> Transform:
        """The family of transforms, for images (2 spatial dimensions) or volumes (3).

        Raises:
          TypeError, ValueError: as :func:`stn_jax.warp.transforms.resolve`; ValueError also if
            iterations or crop_fraction is not 1 and the family's transforms do not compose.
        """
        return self.alignment().family(num_spatial_dims)

    @nn.compact
    def parameters(
        self, x: jax.Array, family: Transform, train: bool = False, **localization_options: Any
    ) -> jax.Array:
        """The transform's parameters ``[B, n]``, predicted from features ``[B, ...]``."""
        vector = as_features(call(self.localization, x, train, **localization_options), x)
        dense = nn.Dense(
            family.size,
            kernel_init=nn.initializers.zeros,
            param_dtype=self.param_dtype,
            name="theta",
        )
        return dense(vector)

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
        predict = functools.partial(self.parameters, train=train, **localization_options)
        return self.alignment().theta(x, predict, num_spatial_dims)

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
        return self.alignment().warp(image, theta)

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        return_theta: Literal[False] = False,
        train: bool = False,
        **localization_options: Any,
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None,
        return_theta: Literal[True],
        train: bool = False,
        **localization_options: Any,
    ) -> tuple[jax.Array, jax.Array]: ...

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        *,
        return_theta: Literal[True],
        train: bool = False,
        **localization_options: Any,
    ) -> tuple[jax.Array, jax.Array]: ...

    @overload
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        return_theta: bool = False,
        train: bool = False,
        **localization_options: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]: ...

    # With positional flags, so that ``nn.remat(..., static_argnums=...)`` can name them.
    def __call__(
        self,
        image: jax.Array,
        features: Callable[[jax.Array], jax.Array] | None = None,
        return_theta: bool = False,
        train: bool = False,
        **localization_options: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Aligns a batch, or one image.

        Args:
          image: array to warp, ``[B, H, W, C]``, or ``[B, D, H, W, C]`` for volumes; or one image
            ``[H, W, C]``, which the localization network sees as a batch of one.
          features: function from a batch to the localization network's input; None: the batch
            itself. Use :meth:`predict` where a closure cannot be passed, as with ``nn.remat``.
          return_theta: whether to return the transform too.
          train: passed to the localization network if it takes that argument.
          **localization_options: passed to the localization network.

        Returns:
          The warped batch ``[B, *shape, C]`` in the image's type; with return_theta, a pair of it
          and theta in float32: ``[B, 2, 3]`` (``[B, 3, 4]`` for volumes), ``[B, 3, 3]`` for
          projective transforms, and for thin-plate splines ``[B, K, K, 2]``, the input coordinates
          of the control points. For one image, both come without ``B``.

        Raises:
          ValueError: the image does not have three to five axes, or an attribute is out of range or
            incompatible with another.
        """

        def predict(view: jax.Array, family: Transform) -> jax.Array:
            x = view if features is None else features(view)
            return self.parameters(x, family, train, **localization_options)

        warped, theta = self.alignment().align(image, predict)
        return (warped, theta) if return_theta else warped
