"""Splits data sets that have no test split."""

import numpy as np

from stn_jax.data.image_sets import DataError


def stratified(
    name: str, labels: np.ndarray, names: tuple[str, ...], fraction: float, seed: int
) -> np.ndarray:
    """Draws the examples of a test split, the same fraction of each class.

    Args:
      name: the data set's name in messages.
      labels: classes ``[N]``.
      names: the classes' names.
      fraction: fraction of each class that is drawn; at least one example is, and one is not.
      seed: random seed.

    Returns:
      Whether each example is in the test split: bools ``[N]``.

    Raises:
      DataError: a class has fewer than two examples.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros(len(labels), bool)
    for label in range(len(names)):
        members = np.flatnonzero(labels == label)
        if len(members) == 1:
            raise DataError(
                f"{name} has a single image of class {names[label]}, too few for a training and a "
                "test split: add images, or remove the class"
            )
        if len(members):
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            drawn[rng.permutation(members)[:count]] = True
    return drawn


def shuffled(test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The indices of each split in random order, since files are often sorted by class.

    Args:
      test: whether each example is in the test split, ``[N]``.
      seed: random seed.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(test))
    return {"train": order[~test[order]], "test": order[test[order]]}


def split_note(fraction: float, seed: int) -> str:
    """A note on the split, for the user."""
    return f"no test split: {100 * fraction:g} % of each class were drawn as one (seed {seed})"
