"""The families whose thetas are affine."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import affine, validation
from stn_jax.warp.grid import affine_grid
from stn_jax.warp.products import lead_to
from stn_jax.warp.sample import affine_transform
from stn_jax.warp.transforms.base import Transform


class _AffineTransform(Transform):
    """Base of the families whose thetas are those of :mod:`stn_jax.warp.affine`."""

    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """:func:`stn_jax.affine_grid`."""
        return affine_grid(theta, shape, align_corners=align_corners)

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
        """:func:`stn_jax.affine_transform`, which does not store a grid."""
        return affine_transform(
            image,
            theta,
            shape,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            deterministic=deterministic,
        )

    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """:func:`stn_jax.warp.affine.compose`."""
        return affine.compose(*thetas)

    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """Theta itself."""
        return jnp.asarray(theta)


@dataclasses.dataclass(frozen=True)
class _WithRotation(_AffineTransform):
    """Base of the families with a rotation, which depends on the image's aspect ratio."""

    aspect: float = 1.0

    def __post_init__(self) -> None:
        _check_aspect(self.aspect)


@dataclasses.dataclass(frozen=True)
class Rotation(_WithRotation):
    """Rotations about the image's center.

    Parameters ``[..., 1]``: the angle in radians; positive turns the image counter-clockwise.

    Attributes:
      aspect: the image's aspect ratio, as in :func:`stn_jax.warp.affine.rotation`; 1 for square
        images.
    """

    @property
    def size(self) -> int:
        return 1

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 1]`` to ``[..., 2, 3]``."""
        return affine.rotation(jnp.rad2deg(self._params(params)[..., 0]), aspect=self.aspect)


@dataclasses.dataclass(frozen=True)
class Translation(_AffineTransform):
    """Shifts of the sampling window.

    Parameters ``[..., 2]``: the window's center (x, y), normalized.
    """

    @property
    def size(self) -> int:
        return 2

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 2]`` to ``[..., 2, 3]``."""
        return affine.translation(self._params(params))


@dataclasses.dataclass(frozen=True)
class Attention(_AffineTransform):
    """Isotropic scale and shift (Jaderberg et al. 2015, Eq. 2).

    Parameters ``[..., 3]``: the natural logarithm of the sampling window's scale (below 0 it
    magnifies; the scale cannot become 0 or negative), and its center (x, y), normalized.
    """

    @property
    def size(self) -> int:
        return 3

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 3]`` to ``[..., 2, 3]``."""
        params = self._params(params)
        return affine.compose(affine.translation(params[..., 1:]), _log_scaling(params[..., 0]))


@dataclasses.dataclass(frozen=True)
class Similarity(_WithRotation):
    """Rotation, isotropic scale and shift.

    Parameters ``[..., 4]``: the angle in radians as in :class:`Rotation`, then the logarithm of
    the sampling window's scale and its center (x, y) as in :class:`Attention`.

    Attributes:
      aspect: the image's aspect ratio, as in :func:`stn_jax.warp.affine.rotation`; 1 for square
        images.
    """

    @property
    def size(self) -> int:
        return 4

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 4]`` to ``[..., 2, 3]``."""
        params = self._params(params)
        return affine.compose(
            affine.translation(params[..., 2:]),
            affine.rotation(jnp.rad2deg(params[..., 0]), aspect=self.aspect),
            _log_scaling(params[..., 1]),
        )


@dataclasses.dataclass(frozen=True)
class Affine(_AffineTransform):
    """All affine transforms.

    Parameters ``[..., 6]`` (``[..., 12]`` for volumes): theta minus the identity, row by row.

    Attributes:
      num_spatial_dims: 2 for images, 3 for volumes.
    """

    num_spatial_dims: int = 2

    def __post_init__(self) -> None:
        validation.check_num_spatial_dims(self.num_spatial_dims)

    @property
    def size(self) -> int:
        return self.num_spatial_dims * (self.num_spatial_dims + 1)

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 6]`` to ``[..., 2, 3]``; ``[..., 12]`` to ``[..., 3, 4]`` for volumes."""
        params = self._params(params)
        dims = self.num_spatial_dims
        delta = params.reshape(*params.shape[:-1], dims, dims + 1)
        return lead_to(affine.identity(dims, delta.dtype), delta.ndim) + delta


def _check_aspect(aspect: float) -> None:
    if not 0 < aspect < math.inf:
        raise ValueError(f"aspect is {aspect}; expected width / height, positive and finite")


def _log_scaling(log_scale: jax.Array) -> jax.Array:
    scale = jnp.exp(log_scale)
    return affine.scaling(jnp.stack([scale, scale], -1))
