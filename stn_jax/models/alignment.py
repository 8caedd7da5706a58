"""What a spatial transformer computes, apart from the module that predicts the parameters."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from stn_jax.warp import transforms
from stn_jax.warp.transforms import Transform


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The options of a spatial transformer and the mathematics that follows from them.

    The Linen and the NNX module hold the parameters; both compute with this.

    Attributes:
      shape, downsample, iterations, crop_fraction, mode, padding_mode, align_corners: as in
        :class:`stn_jax.SpatialTransformer`.
      transform, deterministic: likewise.
    """

    shape: Sequence[int] | None = None
    downsample: int = 1
    iterations: int = 1
    crop_fraction: float = 1.0
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    transform: Transform | str = "affine"
    deterministic: bool = False

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

    def theta(
        self,
        x: jax.Array,
        predict: Callable[[jax.Array, Transform], jax.Array],
        num_spatial_dims: int = 2,
    ) -> jax.Array:
        """The transforms of a single iteration, from the input of ``predict`` (see :meth:`align`).

        Raises:
          ValueError: there are several iterations, which need the image to be warped in between;
            or an option is out of range.
        """
        if self.iterations != 1:
            raise ValueError(
                f"iterations is {self.iterations}; predict expects 1: call the module itself for "
                "more"
            )
        family = self.family(num_spatial_dims)
        return self._cropped(family.theta(predict(x, family)), family)

    def align(
        self, image: jax.Array, predict: Callable[[jax.Array, Transform], jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Predicts transforms, in as many iterations as asked for, and warps by them.

        Args:
          image: ``[B, H, W, C]``, ``[B, D, H, W, C]``, or one image ``[H, W, C]``.
          predict: from a batch as it was warped so far, and the family of transforms, to the
            parameters of the next transform, ``[B, n]``.

        Returns:
          The warped batch ``[B, *shape, C]`` and theta; for one image, both without ``B``.

        Raises:
          ValueError: the image does not have three to five axes, or an option is out of range or
            incompatible with another.
        """
        if image.ndim == 3:
            warped, theta = self.align(image[None], predict)
            return warped[0], theta[0]
        shape = self._output_shape(image)
        family = self.family(image.ndim - 2)
        steps: list[jax.Array] = []
        view = image
        for i in range(self.iterations):
            steps.append(family.theta(predict(view, family)))
            theta = family.compose(*steps)
            if i < self.iterations - 1:
                view = self._sample(image, theta, image.shape[1:-1])
        theta = self._cropped(theta, family)
        return self._sample(image, theta, shape), theta

    def warp(self, image: jax.Array, theta: jax.Array) -> jax.Array:
        """Warps ``[B, H, W, C]``, ``[B, D, H, W, C]`` or ``[H, W, C]`` by given transforms.

        Raises:
          ValueError: as :meth:`align`.
        """
        return self._sample(image, theta, self._output_shape(image))

    def _cropped(self, theta: jax.Array, family: Transform) -> jax.Array:
        return theta if self.crop_fraction == 1 else family.cropped(theta, self.crop_fraction)

    def _sample(self, image: jax.Array, theta: jax.Array, shape: Sequence[int]) -> jax.Array:
        return self.family(_num_spatial_dims(image)).warp(
            image,
            theta,
            shape,
            mode=self.mode,
            padding_mode=self.padding_mode,
            align_corners=self.align_corners,
            deterministic=self.deterministic,
        )

    def _output_shape(self, image: jax.Array) -> tuple[int, ...]:
        """The output's spatial shape. Raises ValueError if an option is out of range."""
        if image.ndim not in (3, 4, 5):
            raise ValueError(
                f"image has shape {image.shape}; expected [B, H, W, C], [B, D, H, W, C], or "
                "[H, W, C] for one image"
            )
        for name in ("downsample", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 < self.crop_fraction < float("inf"):
            raise ValueError(
                f"crop_fraction is {self.crop_fraction}; expected a fraction of a side, such as 0.5"
            )
        sides = image.shape[-1 - _num_spatial_dims(image) : -1]
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


def as_features(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A localization network's output, checked, in float32 or wider: half is coarse for poses.

    Raises:
      ValueError: it is not a vector for each image.
    """
    if vector.ndim != 2 or vector.shape[1] == 0:
        raise ValueError(
            f"the localization network returned shape {vector.shape} for an input of shape "
            f"{x.shape}; expected a vector for each image, [B, n]"
        )
    return vector.astype(jnp.promote_types(vector.dtype, jnp.float32))


def _num_spatial_dims(image: jax.Array) -> int:
    return 3 if image.ndim == 5 else 2
