"""The base class of all families of transforms."""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import validation
from stn_jax.warp.sample import grid_sample


class Transform(abc.ABC):
    """A family of transforms; see the module's docstring.

    Attributes:
      num_spatial_dims: 2 for images, 3 for volumes.
      size: number of parameters.
      composable: whether the composition of two transforms belongs to the family, as several
        iterations of a transformer and its crop_fraction require.
    """

    num_spatial_dims: int = 2
    composable: bool = True

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of parameters."""

    @abc.abstractmethod
    def theta(self, params: ArrayLike) -> jax.Array:
        """The transform of parameters ``[..., size]``: ``[..., 2, 3]``, or the family's shape.

        Raises:
          TypeError: params is not of a floating-point type.
          ValueError: the last axis of params is not of length size.
        """

    @abc.abstractmethod
    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The sampling grid of a theta ``[...]``, as :meth:`grid`."""

    @abc.abstractmethod
    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """The theta of successive warps, in order of application, as :func:`affine.compose`.

        Raises:
          ValueError: the family is not composable, or a theta's shape is not the family's.
        """

    def cropped(self, theta: ArrayLike, fraction: float) -> jax.Array:
        """The theta whose output is the central part of this one's output.

        Args:
          theta: ``[...]``, of the family.
          fraction: the part's sides, as a fraction of the output's; 1 is the whole output.

        Returns:
          A theta of the same shape.

        Raises:
          ValueError: the family is not composable.
        """
        theta = jnp.asarray(theta)
        # The same as composing with a scaling of the output positions.
        dims = self.num_spatial_dims
        return jnp.concatenate([fraction * theta[..., :dims], theta[..., dims:]], axis=-1)

    @abc.abstractmethod
    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """An affine approximation ``[..., 2, 3]`` of a theta, to read its pose from."""

    def grid(
        self, params: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The sampling grid of parameters, for :func:`stn_jax.grid_sample`.

        Args:
          params: ``[..., size]``, floating point.
          shape: spatial shape of the output: ``(H, W)``, or ``(D, H, W)`` for volumes.
          align_corners: whether -1 and 1 are the centers (True) or the outer edges (False) of the
            corner pixels.

        Returns:
          Grid ``[..., H, W, 2]`` of (x, y), or ``[..., D, H, W, 3]`` of (x, y, z).

        Raises:
          TypeError: params is not of a floating-point type, or shape is not a sequence of ints.
          ValueError: the last axis of params is not of length size, or shape does not have
            num_spatial_dims entries.

        Examples:
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
        deterministic: bool = False,
    ) -> jax.Array:
        """Warps an image by a theta: :meth:`grid_of`, then :func:`stn_jax.grid_sample`.

        Args:
          image: ``[..., H, W, C]``, or ``[..., D, H, W, C]``; broadcasts against theta.
          theta: ``[...]``, of the family.
          shape: the output's spatial shape.
          mode, padding_mode, align_corners, deterministic: as in :func:`stn_jax.grid_sample`.

        Returns:
          ``[..., *shape, C]`` in the image's type.
        """
        grid = self.grid_of(theta, shape, align_corners=align_corners)
        return grid_sample(
            image,
            grid,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            deterministic=deterministic,
        )

    def _params(self, params: ArrayLike) -> jax.Array:
        return validation.wide_floating("params", params, [(self.size,)])
