"""How well a network undoes a distortion: slopes and RMS errors (paper, Section 4, Figure 3)."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.warp import affine


@dataclasses.dataclass(frozen=True)
class PoseComponent:
    """A component of the pose that a distortion changes and a network should undo.

    Attributes:
      name: "angle", "direction", "position" or "scale".
      key: prefix of its keys in results.
      unit: its unit.
      symbol, decimals: unit symbol and number of decimals for display.
      axes: names of its coordinates, if it has several.
      predicted: extracts it from a network's thetas (from warped to unwarped positions), given the
        image's spatial shape (H, W): ``[..., 2, 3]`` to ``[...]`` or ``[..., D]``.
      period: of a component on a circle, on which a line has no slope; None: an unbounded one.
    """

    name: str
    key: str
    unit: str
    symbol: str
    decimals: int
    predicted: Callable[[ArrayLike, Sequence[int]], jax.Array]
    axes: tuple[str, ...] = ()
    period: float | None = None

    @property
    def slope_keys(self) -> tuple[str, ...]:
        """The keys in results of its slope, or of the slope along each of its axes, if any."""
        if self.period is not None:
            return ()
        slope = f"{self.key}_slope"
        return tuple(f"{slope}_{axis}" for axis in self.axes) or (slope,)

    @property
    def rms_keys(self) -> tuple[str, str]:
        """The keys in results of its within-class RMS and its within-example RMS."""
        prefix = f"{self.key}_spread"
        return f"{prefix}_{self.unit}", f"{prefix}_within_{self.unit}"

    def applied(self, theta: ArrayLike, shape: Sequence[int]) -> jax.Array:
        """Extracts it from a distortion's thetas (from distorted to original positions).

        A distortion is undone by its inverse, so a perfect aligner predicts the negative of this,
        up to a constant for each class.
        """
        return -self.predicted(affine.invert(theta), shape)


def _angle(theta: ArrayLike, shape: Sequence[int]) -> jax.Array:
    return affine.angle(theta, aspect=shape[1] / shape[0])


def _position(theta: ArrayLike, shape: Sequence[int]) -> jax.Array:
    return affine.shift(theta) * jnp.array(shape[1::-1], jnp.float32) / 2


def _scale(theta: ArrayLike, shape: Sequence[int]) -> jax.Array:
    # The transform may have collapsed to a point.
    return jnp.log2(jnp.maximum(affine.scale(theta), jnp.finfo(jnp.float32).tiny))


# Angles, counter-clockwise; the same where all directions are equally likely; the sampling window's
# center, (x, y) from the image's center; the base-2 logarithm of the sampling window's scale.
POSE_COMPONENTS = {
    component.name: component
    for component in (
        PoseComponent("angle", "angle", "degrees", "\N{DEGREE SIGN}", 1, _angle),
        PoseComponent("direction", "direction", "degrees", "\N{DEGREE SIGN}", 1, _angle, (), 360),
        PoseComponent("position", "place", "pixels", " px", 2, _position, ("x", "y")),
        PoseComponent("scale", "scale", "octaves", " octaves", 2, _scale),
    )
}


def within_class_rms(
    applied: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    period: float | None = None,
) -> float:
    """The RMS deviation of aligned poses from their class's mean (the paper's "std").

    A perfect aligner's predicted angle is the applied one, negated, up to a constant for each
    class, since the canonical pose of a class is arbitrary. So the sum of both should not vary
    within a class.

    Args:
      applied, predicted: angles ``[N]`` in degrees, counter-clockwise positive; or another
        :class:`PoseComponent`, ``[N]`` or ``[N, D]``.
      labels: classes ``[N]``.
      period: of values ``[N]`` on a circle: distances and means are those along it.

    Returns:
      Root mean square over all examples of the sum's distance from its class's mean, in the
      component's unit; 0 is perfect.

    Raises:
      ValueError: there are no examples.
    """
    total = np.asarray(applied, np.float64) + np.asarray(predicted, np.float64)
    if len(total) == 0:
        raise ValueError("within_class_rms needs at least one example")
    _, classes = np.unique(labels, return_inverse=True)
    if period is not None:
        total = _unwrapped(total, classes, period)
    columns = total.reshape(len(total), -1).T
    means = np.stack([np.bincount(classes, each) for each in columns]) / np.bincount(classes)
    return float(np.sqrt(np.mean(((columns - means[:, classes]) ** 2).sum(0))))


def within_example_rms(
    applied: np.ndarray, predicted: np.ndarray, period: float | None = None
) -> float:
    """The RMS deviation of aligned poses from the *example's* mean over several distortions.

    Unlike :func:`within_class_rms` it excludes differences between the original poses of a class's
    examples, which a network may also undo.

    Args:
      applied, predicted: angles ``[passes, N]`` in degrees, counter-clockwise positive, or another
        :class:`PoseComponent`, ``[passes, N]`` or ``[passes, N, D]``; the same examples in each
        pass, with new distortions.
      period: see :func:`within_class_rms`; for ``[passes, N]``.

    Returns:
      Root mean square over all examples of their sums' standard deviation over the passes (by the
      unbiased variance), in the component's unit; 0 is perfect.

    Raises:
      ValueError: there are fewer than two passes, or no examples.
    """
    total = np.asarray(applied, np.float64) + np.asarray(predicted, np.float64)
    if total.ndim not in (2, 3) or len(total) < 2 or total.shape[1] == 0:
        raise ValueError(
            f"poses have shape {total.shape}; expected [passes, N] or [passes, N, D] with two "
            "passes or more, and at least one example"
        )
    if period is not None:
        examples = np.broadcast_to(np.arange(total.shape[1]), total.shape)
        total = _unwrapped(total.ravel(), examples.ravel(), period).reshape(total.shape)
    variance = total.var(0, ddof=1).reshape(total.shape[1], -1)
    return float(np.sqrt(variance.sum(1).mean()))


def _unwrapped(values: np.ndarray, groups: np.ndarray, period: float) -> np.ndarray:
    """Moves values ``[N]`` by whole periods, close to the circular mean of their group."""
    turns = np.exp(2j * np.pi * values / period)
    sums = np.bincount(groups, turns.real) + 1j * np.bincount(groups, turns.imag)
    means = np.angle(sums)[groups] * period / (2 * np.pi)
    return means + (values - means + period / 2) % period - period / 2


def slopes(applied: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Slopes of the predicted against the applied poses, by :func:`orthogonal_regression`.

    Each axis is fitted separately, with its own intercept.

    Args:
      applied, predicted: a :class:`PoseComponent`, ``[N]`` or ``[N, D]``.

    Returns:
      A slope for each axis, one for ``[N]``; -1 is perfect.
    """
    columns = (np.reshape(each, (len(each), -1)).T for each in (applied, predicted))
    return [orthogonal_regression(*pair)[0] for pair in zip(*columns, strict=True)]


def orthogonal_regression(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The line with the least squared orthogonal distance to the points.

    Args:
      x, y: coordinates ``[N]``.

    Returns:
      Slope and intercept; the slope is infinite for a vertical line.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    covariance = np.cov(x, y)
    _, vectors = np.linalg.eigh(covariance)
    along = vectors[:, -1]
    slope = float(along[1] / along[0]) if along[0] else float("inf")
    return slope, float(y.mean() - slope * x.mean())
