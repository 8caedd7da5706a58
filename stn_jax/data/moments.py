"""Mean and standard deviation of a stream of images."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class Moments:
    """Accumulates the mean and standard deviation of uint8 images by channel, in exact integers."""

    def __init__(self) -> None:
        self._sums: list[Any] = [0, 0, 0]  # pixels, values, squares

    def of(
        self, batches: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the batches unchanged, after adding them to the sums."""
        for images, labels in batches:
            self._sums[0] += math.prod(images.shape[:-1])
            self._sums[1] += images.sum((0, 1, 2), dtype=np.int64)
            self._sums[2] += np.einsum("nhwc,nhwc->c", images, images, dtype=np.int64)
            yield images, labels

    def result(self) -> dict[str, list[float]]:
        """Mean and deviation by channel, for pixels in [0, 1]."""
        count, values, squares = self._sums
        mean = values / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        named = {"mean": mean / 255, "deviation": deviation / 255}
        return {name: [round(float(x), 6) for x in value] for name, value in named.items()}


def stored_statistics(meta: dict[str, Any], channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and deviation, each ``[channels]``, from meta.json; None if it has none.

    Raises:
      KeyError, TypeError, ValueError: the stored values are invalid.
    """
    if "statistics" not in meta:  # written by an earlier version
        return None
    mean, deviation = (
        np.array(meta["statistics"][key], np.float32) for key in ("mean", "deviation")
    )
    if not mean.shape == deviation.shape == (channels,):
        raise ValueError(f"statistics have shapes {mean.shape} and {deviation.shape}")
    if not ((mean >= 0) & (mean <= 1) & (deviation >= 0) & (deviation <= 0.5001)).all():
        raise ValueError(f"statistics are {mean} and {deviation}; expected values in [0, 1]")
    return mean, deviation
