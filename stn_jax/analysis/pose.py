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


def spread_within(applied: np.ndarray, predicted: np.ndarray) -> float:
    """How far a network is from turning each *example* to one pose, in degrees.

    Of :func:`spread` this is what is the network's alone: the other part is that examples of a
    class differ in the pose that they were drawn in, which a network may well undo too.

    Args:
      applied, predicted: angles ``[passes, N]`` in degrees, counter-clockwise positive; in each
        pass the same examples are turned anew.

    Returns:
      Root mean square, over all examples, of the deviation of their sums over the passes (by the
      unbiased variance); 0 is perfect.

    Raises:
      ValueError: there are fewer than two passes, or no examples.
    """
    total = np.asarray(applied, np.float64) + np.asarray(predicted, np.float64)
    if total.ndim != 2 or len(total) < 2 or total.shape[1] == 0:
        raise ValueError(
            f"angles have shape {total.shape}; expected [passes, N] with two passes or more, and "
            "at least one example"
        )
    return float(np.sqrt(total.var(0, ddof=1).mean()))


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
