"""Families of transforms: from a vector of parameters to a sampling grid.

A family says what a spatial transformer may do (Jaderberg et al. 2015, Section 3.2). It is a small
object without parameters of its own; parameters ``[..., size]`` come from a network, or from the
user. Parameters 0 are exactly the identity, in every family.

| name | class | parameters | theta |
|---|---|---|---|
| rotation | :class:`Rotation` | angle in radians | 2x3 |
| attention | :class:`Attention` | log of the scale, shift x, y | 2x3 |
| similarity | :class:`Similarity` | angle in radians, log of the scale, shift x, y | 2x3 |
| affine | :class:`Affine` | theta minus the identity, row by row | 2x3, volumes 3x4 |
| projective | :class:`Projective` | theta minus the identity, without the last entry | 3x3 |
| tps | :class:`ThinPlateSpline` | displacements of the control points, row by row, (x, y) | KxKx2 |

Theta is what the parameters stand for: a matrix, or the places of the control points. It can be
composed, looked at, and turned into a grid at any resolution (:meth:`Transform.grid_of`).

Convention
    As in :mod:`stn_jax.warp.affine` and :mod:`stn_jax.warp.grid`: *output* to *input* positions,
    normalised (x, y) with y downwards. Parameters, thetas and grids are float32 (half precision
    is too coarse), or float64 where the parameters are.

Example:
  >>> import jax.numpy as jnp
  >>> from stn_jax import grid_sample
  >>> from stn_jax.warp import transforms
  >>> image = jnp.arange(4.0).reshape(2, 2, 1)
  >>> half_turn = transforms.Rotation().grid(jnp.array([jnp.pi]), (2, 2))
  >>> grid_sample(image, half_turn)[..., 0].round().tolist()
  [[3.0, 2.0], [1.0, 0.0]]
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.warp import affine
from stn_jax.warp.grid import affine_grid, axis_positions


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

    def _params(self, params: ArrayLike) -> jax.Array:
        return _floating("params", params, (self.size,))


class _AffineTransform(Transform):
    """What the families have in common whose thetas are those of :mod:`stn_jax.warp.affine`."""

    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """:func:`stn_jax.affine_grid`."""
        return affine_grid(theta, shape, align_corners=align_corners)

    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """:func:`stn_jax.warp.affine.compose`."""
        return affine.compose(*thetas)

    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """Theta itself."""
        return jnp.asarray(theta)


@dataclasses.dataclass(frozen=True)
class _Turning(_AffineTransform):
    """What the families have in common that turn the picture as a rigid thing."""

    aspect: float = 1.0

    def __post_init__(self) -> None:
        _check_aspect(self.aspect)


@dataclasses.dataclass(frozen=True)
class Rotation(_Turning):
    """Rotations about the image's centre.

    Parameters ``[..., 1]``: the angle in radians; positive turns the picture counter-clockwise.

    Attributes:
      aspect: the image's, as in :func:`stn_jax.warp.affine.rotation`: 1 for square images.
    """

    @property
    def size(self) -> int:
        return 1

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 1]`` to ``[..., 2, 3]``."""
        return affine.rotation(jnp.rad2deg(self._params(params)[..., 0]), aspect=self.aspect)


@dataclasses.dataclass(frozen=True)
class Attention(_AffineTransform):
    """Windows of the image's own shape: isotropic scale and shift (Jaderberg et al. 2015, Eq. 2).

    Parameters ``[..., 3]``: the natural logarithm of the window's scale (below 0 it magnifies;
    the scale cannot become 0 or negative), and the window's centre (x, y), normalised.
    """

    @property
    def size(self) -> int:
        return 3

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 3]`` to ``[..., 2, 3]``."""
        params = self._params(params)
        return affine.compose(affine.translation(params[..., 1:]), _log_scaling(params[..., 0]))


@dataclasses.dataclass(frozen=True)
class Similarity(_Turning):
    """Rotation, isotropic scale and shift.

    Parameters ``[..., 4]``: the angle in radians as in :class:`Rotation`, then the logarithm of
    the window's scale and its centre (x, y) as in :class:`Attention`.

    Attributes:
      aspect: the image's, as in :func:`stn_jax.warp.affine.rotation`: 1 for square images.
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
      rank: 2 for images, 3 for volumes.
    """

    rank: int = 2

    def __post_init__(self) -> None:
        affine.identity(self.rank)  # refuses other ranks

    @property
    def size(self) -> int:
        return self.rank * (self.rank + 1)

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 6]`` to ``[..., 2, 3]``; ``[..., 12]`` to ``[..., 3, 4]`` for volumes."""
        params = self._params(params)
        delta = params.reshape(*params.shape[:-1], self.rank, self.rank + 1)
        return affine.identity(self.rank, delta.dtype) + delta


@dataclasses.dataclass(frozen=True)
class Projective(Transform):
    """Homographies: what a camera sees of a plane.

    Parameters ``[..., 8]``: theta minus the 3x3 identity, row by row, without the last entry,
    which is 1. With homogeneous coordinates (u, v, w) = theta (x, y, 1), an output position (x, y)
    looks at (u / w, v / w).

    Theta is a homography up to a *positive* factor: what has w > 0 lies in front of the horizon
    (the line w = 0). What lies on it or behind it sees nothing: its position is one far outside of
    the image, so that the padding decides ("zeros": 0; "border": the top left pixel), and it has
    no gradient. Composing multiplies the matrices and does not normalise the last entry to 1.
    """

    # w is a sum of terms that float32 rounds: where it is less than this part of them, positions
    # would be off by more than a thousandth.
    HORIZON = 1e-4
    NOWHERE = -1e4  # normalised; outside whatever the image's size

    @property
    def size(self) -> int:
        return 8

    def theta(self, params: ArrayLike) -> jax.Array:
        """``[..., 8]`` to ``[..., 3, 3]``."""
        params = self._params(params)
        delta = jnp.pad(params, [(0, 0)] * (params.ndim - 1) + [(0, 1)])
        return jnp.eye(3, dtype=params.dtype) + delta.reshape(*params.shape[:-1], 3, 3)

    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The grid ``[..., H, W, 2]`` of thetas ``[..., 3, 3]``."""
        theta = _floating("theta", theta, (3, 3))
        uv = affine_grid(theta[..., :2, :], shape, align_corners=align_corners)
        base = affine_grid(affine.identity(dtype=theta.dtype), shape, align_corners=align_corners)
        x, y = base[..., :1], base[..., 1:]
        # By hand, not as a matrix product: see affine_grid.
        a, b, c = (theta[..., 2, k, None, None, None] for k in range(3))
        w = a * x + b * y + c
        # So written, a NaN is not behind, and stays one.
        behind = w <= self.HORIZON * (jnp.abs(a) + jnp.abs(b) + jnp.abs(c))
        # Twice where: a division by 0 that is not chosen would make the gradient NaN.
        return jnp.where(behind, self.NOWHERE, uv / jnp.where(behind, 1, w))

    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """The matrix product of thetas ``[..., 3, 3]``."""
        if not thetas:
            raise ValueError("compose needs at least one theta")
        return functools.reduce(_product, [_floating("theta", each, (3, 3)) for each in thetas])

    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """The first-order expansion at the output's centre; not finite where that is horizon."""
        theta = _floating("theta", theta, (3, 3))
        w = theta[..., 2:, 2:]
        position = theta[..., :2, 2:] / w
        # The quotient rule, at (x, y) = 0.
        slope = (theta[..., :2, :2] - position * theta[..., 2:, :2]) / w
        return jnp.concatenate([slope, position], axis=-1)


@dataclasses.dataclass(frozen=True)
class ThinPlateSpline(Transform):
    """Thin-plate splines: the smoothest warp that moves control points as told (Bookstein 1989).

    The control points are a regular grid over the output, corners of [-1, 1] included.
    Parameters ``[..., 2 * points**2]``: how far from there each looks, normalised (x, y), row by
    row from the top left. Theta is where they look: ``[..., points, points, 2]``. The warp takes
    each control point there and bends as little as possible in between; displacements that are
    affine bend nothing.

    The spline is linear in the displacements, with coefficients that depend on the shape alone:
    these are solved for in float64 while tracing, and a program holds H * W * points**2 numbers
    of them.

    Two splines in a row are not a spline: :meth:`compose` refuses more than one.

    Attributes:
      points: number of control points along an axis; Jaderberg et al. 2015 take 4.
      smoothing: 0 meets the control points exactly; more bends less (Wahba 1990; as in
        ``scipy.interpolate.RBFInterpolator``).
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
        return self._control_points(params.dtype) + displaced

    def grid_of(
        self, theta: ArrayLike, shape: Sequence[int], *, align_corners: bool = False
    ) -> jax.Array:
        """The grid ``[..., H, W, 2]`` of thetas ``[..., points, points, 2]``."""
        theta = _floating("theta", theta, (self.points, self.points, 2))
        base = affine_grid(affine.identity(dtype=theta.dtype), shape, align_corners=align_corners)
        height, width, _ = base.shape
        weights = _spline_weights(self.points, self.smoothing, height, width, bool(align_corners))
        # Displacements, not positions, so that none is exactly the identity.
        displaced = theta - self._control_points(theta.dtype)
        moved = jnp.einsum(
            "hwkl,...klc->...hwc",
            jnp.asarray(weights, theta.dtype),
            displaced,
            precision=lax.Precision.HIGHEST,
        )
        return base + moved

    def compose(self, *thetas: ArrayLike) -> jax.Array:
        """A lone theta as it is; ValueError for more, which do not make a spline."""
        if len(thetas) != 1:
            raise ValueError(
                f"{len(thetas)} thin-plate splines do not compose to one; use iterations=1, or a "
                "family of matrices, such as 'affine' or 'projective'"
            )
        return _floating("theta", thetas[0], (self.points, self.points, 2))

    def windowed(self, theta: ArrayLike, share: float) -> jax.Array:
        """ValueError: part of a spline is a spline of other control points."""
        raise ValueError("a part of a thin-plate spline is none; use a family of matrices")

    def as_affine(self, theta: ArrayLike) -> jax.Array:
        """The affine transform that comes nearest to the control points, by least squares."""
        theta = _floating("theta", theta, (self.points, self.points, 2))
        control = self._control_points(theta.dtype)
        # The control points are centred and alike in x and y, so the normal equations are
        # diagonal.
        covariance = (theta[..., :, None] * control[..., None, :]).sum((-4, -3))
        slope = covariance / jnp.square(control[..., 0]).sum()
        return jnp.concatenate([slope, theta.mean((-3, -2))[..., None]], axis=-1)

    def _control_points(self, dtype: jnp.dtype) -> jax.Array:
        return jnp.asarray(_control_points(self.points), dtype)


FAMILIES: dict[str, type[Transform]] = {
    "rotation": Rotation,
    "attention": Attention,
    "similarity": Similarity,
    "affine": Affine,
    "projective": Projective,
    "tps": ThinPlateSpline,
}


def resolve(transform: Transform | str, rank: int = 2) -> Transform:
    """A family by its name, or as it is given, for images (rank 2) or volumes (rank 3).

    Raises:
      TypeError: transform is neither a name nor a :class:`Transform`.
      ValueError: the name is unknown, or the family is not one for this rank.

    Example:
      >>> from stn_jax.warp import transforms
      >>> transforms.resolve("tps")
      ThinPlateSpline(points=4, smoothing=0.0)
    """
    if isinstance(transform, str):
        if transform not in FAMILIES:
            raise ValueError(f"transform is {transform!r}; expected one of {', '.join(FAMILIES)}")
        family = FAMILIES[transform]
        found: Transform = Affine(rank) if family is Affine else family()
    elif isinstance(transform, Transform):
        found = transform
    else:
        raise TypeError(
            f"transform is {transform!r}; expected a Transform or one of {', '.join(FAMILIES)}"
        )
    if found.rank != rank:
        kinds = {2: "images", 3: "volumes"}
        raise ValueError(
            f"transform is {transform!r}, which is for {kinds[found.rank]}; for {kinds[rank]} use "
            "'affine'"
        )
    return found


def _floating(name: str, value: ArrayLike, core: tuple[int, ...]) -> jax.Array:
    """An array ``[..., *core]`` in float32 or wider; else an error that names it."""
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{name} has type {value.dtype}; expected a floating-point array: cast it to float32"
        )
    if value.shape[max(value.ndim - len(core), 0) :] != core:
        expected = ", ".join(map(str, core))
        raise ValueError(f"{name} has shape {value.shape}; expected [..., {expected}]")
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _check_aspect(aspect: float) -> None:
    if not 0 < aspect < math.inf:
        raise ValueError(f"aspect is {aspect}; expected width / height, more than 0 and finite")


def _log_scaling(log_scale: jax.Array) -> jax.Array:
    scale = jnp.exp(log_scale)
    return affine.scaling(jnp.stack([scale, scale], -1))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    # By hand, not as a matrix product: see affine_grid.
    terms = [a[..., :, k, None] * b[..., None, k, :] for k in range(3)]
    return functools.reduce(jnp.add, terms)


def _control_points(points: int) -> np.ndarray:
    """``[points, points, 2]`` of (x, y), from the top left, row by row."""
    axis = np.linspace(-1, 1, points)
    return np.stack(np.meshgrid(axis, axis), axis=-1)


@functools.lru_cache(maxsize=8)
def _spline_weights(
    points: int, smoothing: float, height: int, width: int, align_corners: bool
) -> np.ndarray:
    """How much each control point's displacement moves each pixel: ``[H, W, points, points]``.

    A spline is f(p) = sum over i of w_i U(|p - c_i|) + a_0 + a_x x + a_y y with U(r) = r^2 log r
    (Bookstein 1989, Eq. 1-5). Its coefficients solve [[K, P], [P', 0]] [w, a] = [d, 0] for the
    values d at the control points, so f(p) is linear in d, by these weights.
    """
    control = _control_points(points).reshape(-1, 2)
    x, y = axis_positions(width, align_corners), axis_positions(height, align_corners)
    pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    count = len(control)
    system = np.zeros((count + 3, count + 3))
    system[:count] = _spline_basis(control, control)
    system[count:, :count] = system[:count, count:].T
    system[:count, :count] += smoothing * np.eye(count)
    solved = np.linalg.solve(system, np.eye(count + 3, count))
    weights = (_spline_basis(pixels, control) @ solved).reshape(height, width, points, points)
    weights.flags.writeable = False  # the cache gives it to everyone
    return weights


def _spline_basis(positions: np.ndarray, control: np.ndarray) -> np.ndarray:
    """U of the distances to the control points, and the affine terms: ``[N, count + 3]``."""
    squared = np.square(positions[:, None] - control).sum(-1)
    kernel = squared * np.log(np.where(squared > 0, squared, 1)) / 2
    return np.concatenate([kernel, np.ones((len(positions), 1)), positions], axis=1)
