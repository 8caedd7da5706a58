"""Confidence intervals of means over few runs."""

import numpy as np


def mean_and_interval(values: list[float]) -> tuple[float, float | None]:
    """The mean, and the half-width of its 95 % interval (Student's t); None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy.special import stdtrit

    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(stdtrit(len(values) - 1, 0.975) * error)
