"""Homographies."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stn_jax.warp import affine, validation
from stn_jax.warp.grid import affine_grid
from stn_jax.warp.products import lead_to, product
from stn_jax.warp.transforms.base import Transform


@dataclasses.dataclass(frozen=True)
class Projective(Transform):
    """Homographies: perspective views of a plane.

    Parameters ``[..., 8]``: theta minus the 3x3 identity, row by row, without the last entry,
    which is 1. With homogeneous coordinates (u, v, w) = theta (x, y, 1), an output position (x, y)
    samples the input at (u / w, v / w).

    Theta is a homography up to a *positive* factor: positions with w > 0 lie in front of the
    horizon (the line w = 0). Those on or behind it sample a position far outside the image, so that
    the padding decides ("zeros": 0; "border": the top left pixel), and have no gradient. Composing
    multiplies the matrices and does not normalize the last entry to 1.
    """

    # w is a sum of rounded float32 terms: where it is less than this fraction of their size,
    # positions would be off by more than a thousandth.
    HORIZON = 1e-4
    NOWHERE = -1e4  # normalized; outside the image whatever its size

    @property
    def size(self) -> int:
        return 8

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 8]`` to ``[..., 3, 3]``."""
        params = self._params(params)
        delta = jnp.pad(params, [(0, 0)] * (params.ndim - 1) + [(0, 1)])
        delta = delta.reshape(*params.shape[:-1], 3, 3)
        return lead_to(jnp.eye(3, dtype=params.dtype), delta.ndim) + delta

    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The grid ``[..., H, W, 2]`` of thetas ``[..., 3, 3]``."""
        uv, w, scale = homogeneous_grid(theta, shape, align_corners=align_corners)
        # Written so that NaN compares as not behind, and stays NaN.
        behind = w <= self.HORIZON * scale
        # The inner where avoids a division by 0, which would make the gradient NaN.
        return jnp.where(behind, self.NOWHERE, uv / jnp.where(behind, 1, w))

    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """The matrix product of thetas ``[..., 3, 3]``."""
        if not thetas:
            raise ValueError("compose needs at least one theta")
        return functools.reduce(
            product, [validation.wide_floating("theta", each, [(3, 3)]) for each in thetas]
        )

    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """The first-order expansion at the output's center; not finite if w is 0 there."""
        theta = validation.wide_floating("theta", theta, [(3, 3)])
        w = theta[..., 2:, 2:]
        position = theta[..., :2, 2:] / w
        # The quotient rule, at (x, y) = 0.
        slope = (theta[..., :2, :2] - position * theta[..., 2:, :2]) / w
        return jnp.concatenate([slope, position], axis=-1)


def homogeneous_grid(
    theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Homogeneous positions of thetas ``[..., 3, 3]``, before the division.

    Returns:
      (u, v) ``[..., H, W, 2]``, w ``[..., H, W, 1]``, and the magnitude ``[..., 1, 1, 1]`` of the
      terms of w, which bounds its rounding error.
    """
    theta = validation.wide_floating("theta", theta, [(3, 3)])
    uv = affine_grid(theta[..., :2, :], shape, align_corners=align_corners)
    base = affine_grid(affine.identity(dtype=theta.dtype), shape, align_corners=align_corners)
    base = lead_to(base, uv.ndim)
    x, y = base[..., :1], base[..., 1:]
    # Not a matrix product, see stn_jax.warp.products.
    a, b, c = (theta[..., 2, k, None, None, None] for k in range(3))
    return uv, a * x + b * y + c, jnp.abs(a) + jnp.abs(b) + jnp.abs(c)
