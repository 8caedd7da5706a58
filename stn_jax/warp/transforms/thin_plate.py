"""Thin-plate splines."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp import affine, validation
from stn_jax.warp.grid import affine_grid, axis_positions
from stn_jax.warp.products import lead_to
from stn_jax.warp.transforms.base import Transform


@dataclasses.dataclass(frozen=True)
class ThinPlateSpline(Transform):
    """Thin-plate splines: the smoothest warp with given control points (Bookstein 1989).

    The control points are a regular grid over the output, including the corners of [-1, 1].
    Parameters ``[..., 2 * points**2]``: their displacements in the input, normalized (x, y), row by
    row from the top left. Theta holds their input positions: ``[..., points, points, 2]``. The warp
    maps each control point to its input position with minimal bending energy in between; affine
    displacements have none.

    The spline is linear in the displacements, with coefficients that depend only on the shape. They
    are solved for in float64 while tracing; a program holds H * W * points**2 of them.

    The composition of two splines is not a spline: :meth:`compose` accepts only one.

    Attributes:
      points: number of control points along an axis; 4 in Jaderberg et al. 2015.
      smoothing: 0 interpolates the control points exactly; larger values bend less (Wahba 1990; as
        in ``scipy.interpolate.RBFInterpolator``).
    """

    points: int = 4
    smoothing: float = 0.0

    composable = False

    def __post_init__(self) -> None:
        if not isinstance(self.points, int) or self.points < 2:
            raise ValueError(f"points is {self.points!r}; expected a whole number of 2 or more")
        if not 0 <= self.smoothing < math.inf:
            raise ValueError(f"smoothing is {self.smoothing}; expected 0 or more, and finite")

    @property
    def size(self) -> int:
        return 2 * self.points**2

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 2 * points**2]`` to ``[..., points, points, 2]``."""
        params = self._params(params)
        displaced = params.reshape(*params.shape[:-1], self.points, self.points, 2)
        return self._control_points(displaced) + displaced

    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The grid ``[..., H, W, 2]`` of thetas ``[..., points, points, 2]``."""
        theta = validation.wide_floating("theta", theta, [(self.points, self.points, 2)])
        base = affine_grid(affine.identity(dtype=theta.dtype), shape, align_corners=align_corners)
        height, width, _ = base.shape
        weights = _spline_weights(self.points, self.smoothing, height, width, bool(align_corners))
        # Displacements rather than positions, so that zero displacement is exactly the identity.
        displaced = theta - self._control_points(theta)
        moved = jnp.einsum(
            "hwkl,...klc->...hwc",
            jnp.asarray(weights, theta.dtype),
            displaced,
            precision=lax.Precision.HIGHEST,
        )
        return lead_to(base, moved.ndim) + moved

    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """The only theta itself; ValueError for several, whose composition is not a spline."""
        if len(thetas) != 1:
            raise ValueError(
                f"the composition of {len(thetas)} thin-plate splines is not a spline; use "
                "iterations=1, or another family, such as 'affine' or 'projective'"
            )
        return validation.wide_floating("theta", thetas[0], [(self.points, self.points, 2)])

    def cropped(self, theta: ArrayLike, fraction: float) -> jax.Array:
        """ValueError: a cropped spline is not one with these control points."""
        raise ValueError(
            "a thin-plate spline cannot be cropped; use another family, such as 'affine'"
        )

    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """The affine transform that fits the control points best, by least squares."""
        theta = validation.wide_floating("theta", theta, [(self.points, self.points, 2)])
        control = self._control_points(theta)
        # The control points are centered and the same in x and y, so the normal equations are
        # diagonal.
        covariance = (theta[..., :, None] * control[..., None, :]).sum((-4, -3))
        slope = covariance / jnp.square(control[..., 0]).sum()
        return jnp.concatenate([slope, theta.mean((-3, -2))[..., None]], axis=-1)

    def _control_points(self, like: jax.Array) -> jax.Array:
        """The control points, with as many axes as an array of thetas has."""
        return lead_to(jnp.asarray(_control_points(self.points), like.dtype), like.ndim)


def _control_points(points: int) -> np.ndarray:
    """``[points, points, 2]`` of (x, y), from the top left, row by row."""
    axis = np.linspace(-1, 1, points)
    return np.stack(np.meshgrid(axis, axis), axis=-1)


@functools.lru_cache(maxsize=8)
def _spline_weights(
    points: int, smoothing: float, height: int, width: int, align_corners: bool
) -> np.ndarray:
    """How much each control point's displacement moves each pixel: ``[H, W, points, points]``.

    The spline is linear in the displacements, so these are the splines of displacements that are
    1 at one control point and 0 at the others.
    """
    from scipy.interpolate import RBFInterpolator  # a quarter of a second that other warps save

    control = _control_points(points).reshape(-1, 2)
    x, y = axis_positions(width, align_corners), axis_positions(height, align_corners)
    pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    spline = RBFInterpolator(
        control, np.eye(len(control)), smoothing=smoothing, kernel="thin_plate_spline", degree=1
    )
    weights = spline(pixels).reshape(height, width, points, points)
    weights.flags.writeable = False  # the cached array is shared
    return weights
