"""What all families of transforms have in common."""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.sample import grid_sample


class Transform(abc.ABC):
    """A family of transforms; see the module's text.

    Attributes:
      rank: 2 where it warps images, 3 where it warps volumes.
      size: number of parameters.
      composable: whether two transforms in a row are one of the family, so that a transformer may
        look several times, or show a part of what it looks at.
    """

    rank: int = 2
    composable: bool = True

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of parameters."""

    @abc.abstractmethod
    def theta(self, params: ArrayLike) -> jax.Array:
        """What parameters ``[..., size]`` stand for: ``[..., 2, 3]`` or as the family says.

        Raises:
          TypeError: params is not of a floating-point type.
          ValueError: params' last axis is not size.
        """

    @abc.abstractmethod
    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The sampling grid of a theta ``[...]``: as :meth:`grid`."""

    @abc.abstractmethod
    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """The theta of several warps in a row, first one first, as :func:`affine.compose`.

        Raises:
          ValueError: the family is not composable, or a theta's shape is not the family's.
        """

    def windowed(self, theta: ArrayLike, share: float) -> jax.Array:
        """The theta of a warp that shows only the middle of what this one shows.

        Args:
          theta: ``[...]``, of the family.
          share: of each side: 1 is all of it.

        Raises:
          ValueError: the family is not composable.
        """
        theta = jnp.asarray(theta)
        # Output positions are what a matrix multiplies first: those of the window are smaller.
        return jnp.concatenate([share * theta[..., : self.rank], theta[..., self.rank :]], axis=-1)

    @abc.abstractmethod
    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """The affine transform ``[..., 2, 3]`` that stands for a theta, to read its pose from."""

    def grid(
        self, params: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The sampling grid of parameters, for :func:`stn_jax.grid_sample`.

        Args:
          params: ``[..., size]``, floating point.
          shape: spatial shape of the output: ``(H, W)``, or ``(D, H, W)`` for volumes.
          align_corners: whether -1 and 1 are the centres (True) or the outer edges (False) of the
            corner pixels.

        Returns:
          Grid ``[..., H, W, 2]`` of (x, y), or ``[..., D, H, W, 3]`` of (x, y, z).

        Raises:
          TypeError: params is not of a floating-point type, or shape is not a sequence of ints.
          ValueError: params' last axis is not size, or shape has not as many sizes as the family
            has axes.

        Example:
          >>> import jax.numpy as jnp
          >>> from stn_jax.warp import transforms
          >>> transforms.Projective().grid(jnp.zeros((5, 8)), (28, 28)).shape
          (5, 28, 28, 2)
        """
        return self.grid_of(self.theta(params), shape, align_corners=align_corners)

    def warp(
        self,
        image: ArrayLike,
        theta: ArrayLike,
        shape: Sequence[int],
        *,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
    ) -> jax.Array:
        """Warps an image by a theta: :meth:`grid_of`, then :func:`stn_jax.grid_sample`.

        Args:
          image: ``[..., H, W, C]``, or ``[..., D, H, W, C]``; broadcasts against theta.
          theta: ``[...]``, of the family.
          shape: the output's spatial shape.
          mode, padding_mode, align_corners: as in :func:`stn_jax.grid_sample`.

        Returns:
          ``[..., *shape, C]`` in the image's type.
        """
        grid = self.grid_of(theta, shape, align_corners=align_corners)
        return grid_sample(
            image, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners
        )

    def _params(self, params: ArrayLike) -> jax.Array:
        return validation.wide_floating("params", params, [(self.size,)])
