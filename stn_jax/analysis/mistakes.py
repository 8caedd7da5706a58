"""Analysis of misclassifications: confusion matrix, error interval, hardest examples."""

import numpy as np

_NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5th percentile


def confusion(labels: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """The confusion matrix.

    Args:
      labels: ``[N]``, the true classes.
      classes: ``[..., N]``, the predicted ones, in one or more passes.
      count: number of classes.

    Returns:
      ``[count, count]`` integers; rows are the true classes, columns the predicted ones.
    """
    labels, classes = np.asarray(labels), np.asarray(classes)
    pairs = np.broadcast_to(labels, classes.shape) * count + classes
    return np.bincount(pairs.ravel(), minlength=count**2).reshape(count, count)


def error_interval(wrong: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of an error rate due to the finite test set.

    Passes over the same examples are not independent. This is Wilson's interval (1927) with an
    effective sample size: the number of independent trials with the variance of the examples' means
    (Korn and Graubard 1998).

    Args:
      wrong: ``[..., N]``, whether each of N examples was misclassified, in each pass.

    Returns:
      Lower and upper end, as fractions from 0 to 1.

    Raises:
      ValueError: there are fewer than two examples.
    """
    wrong = np.asarray(wrong, np.float64)
    examples = wrong.shape[-1] if wrong.ndim else 0
    if examples < 2 or not wrong.size:
        raise ValueError(f"wrong has shape {wrong.shape}; expected [..., N] of 2 or more examples")
    each = wrong.reshape(-1, examples).mean(0)
    rate, variance = each.mean(), each.var() / examples
    trials = examples if variance == 0 else min(rate * (1 - rate) / variance, wrong.size)
    square = _NORMAL_975**2
    center = (rate + square / (2 * trials)) / (1 + square / trials)
    half = np.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2))
    half *= _NORMAL_975 / (1 + square / trials)
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def hardest(wrong: np.ndarray, confidence: np.ndarray, count: int) -> np.ndarray:
    """The examples that are misclassified most often, ties broken by confidence.

    Args:
      wrong: ``[passes, N]``, whether the prediction was wrong.
      confidence: ``[passes, N]``, the predicted class's probability.
      count: the maximum number of examples.

    Returns:
      Indices of examples that were wrong at least once, hardest first.
    """
    wrong = np.asarray(wrong, bool)
    counts = wrong.sum(0)
    mean_confidence = np.where(wrong, confidence, 0).sum(0) / np.maximum(counts, 1)
    order = np.lexsort((-mean_confidence, -counts))
    return order[: min(count, int(np.count_nonzero(counts)))]
