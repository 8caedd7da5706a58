"""How well a network undoes a rotation, in numbers (paper, Section 4 and Figure 3)."""

import numpy as np


def spread(applied: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> float:
    """How far a network is from turning each class to one pose, in degrees.

    A perfect aligner's predicted angle is the applied one, negated, up to a constant for each
    class: whatever pose the class settles in. So the sum of both should not vary within a class.

    Args:
      applied, predicted: angles ``[N]`` in degrees, counter-clockwise positive.
      labels: classes ``[N]``.

    Returns:
      Root mean square over all examples of the sum minus its class's mean; 0 is perfect.
    """
    total = np.asarray(applied, np.float64) + np.asarray(predicted, np.float64)
    if len(total) == 0:
        raise ValueError("spread needs at least one example")
    _, classes = np.unique(labels, return_inverse=True)
    means = np.bincount(classes, total) / np.bincount(classes)
    return float(np.sqrt(np.mean((total - means[classes]) ** 2)))


def orthogonal_regression(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The line that is nearest to the points, measured at right angles to it.

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
