"""Confidence intervals of means over few runs."""

from collections.abc import Mapping, Sequence

import numpy as np

Interval = tuple[float, float | None]


def mean_and_interval(values: list[float]) -> Interval:
    """The mean, and the half-width of its 95 % interval (Student's t); None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy.special import stdtrit

    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(stdtrit(len(values) - 1, 0.975) * error)


def weighted_sums(terms: Sequence[tuple[float, Mapping[int, float]]]) -> list[float]:
    """Weighted sums of values paired by key; with weights 1 and -1, paired differences.

    Args:
      terms: weights, and values by key, such as the seed of a training.

    Returns:
      A sum for each key that all terms have, in the keys' order.
    """
    common = set.intersection(*(set(values) for _, values in terms))
    return [sum(weight * values[key] for weight, values in terms) for key in sorted(common)]
