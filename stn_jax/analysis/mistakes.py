"""Where a network is wrong: how often, how surely, which classes, which examples."""

import numpy as np

_NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5th percentile


def confusion(labels: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """How often each class was taken for each.

    Args:
      labels: ``[N]``, the true classes.
      classes: ``[..., N]``, the predicted ones, in one or more passes.
      count: number of classes.

    Returns:
      ``[count, count]`` whole numbers; rows are the true classes, columns the predicted.
    """
    labels, classes = np.asarray(labels), np.asarray(classes)
    pairs = np.broadcast_to(labels, classes.shape) * count + classes
    return np.bincount(pairs.ravel(), minlength=count**2).reshape(count, count)


def error_interval(wrong: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of an error that comes from the test set being finite.

    Passes over the same examples are not independent, so it is the examples that count: Wilson's
    interval (1927) for as many independent trials as have the variance that the examples' own
    means show (Korn and Graubard 1998, who take the effective sample size).

    Args:
      wrong: ``[..., N]``, whether each of N examples was taken for another class, in each pass.

    Returns:
      Lower and upper end, as shares from 0 to 1.

    Raises:
      ValueError: there are fewer than two examples.
    """
    wrong = np.asarray(wrong, np.float64)
    examples = wrong.shape[-1] if wrong.ndim else 0
    if examples < 2 or not wrong.size:
        raise ValueError(f"wrong has shape {wrong.shape}; expected [..., N] of 2 or more examples")
    each = wrong.reshape(-1, examples).mean(0)
    share, variance = each.mean(), each.var() / examples
    trials = examples if variance == 0 else min(share * (1 - share) / variance, wrong.size)
    square = _NORMAL_975**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = np.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    half *= _NORMAL_975 / (1 + square / trials)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def hardest(wrong: np.ndarray, confidence: np.ndarray, count: int) -> np.ndarray:
    """The examples that are wrong most often, those that are wrong most surely first among equals.

    Args:
      wrong: ``[passes, N]``, whether the prediction was wrong.
      confidence: ``[passes, N]``, the predicted class's probability.
      count: how many to name at most.

    Returns:
      Indices of examples that were wrong at least once, hardest first.
    """
    wrong = np.asarray(wrong, bool)
    often = wrong.sum(0)
    surely = np.where(wrong, confidence, 0).sum(0) / np.maximum(often, 1)
    order = np.lexsort((-surely, -often))
    return order[: min(count, int(np.count_nonzero(often)))]
