"""Loaded data sets: their splits, classes and statistics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


class DataError(RuntimeError):
    """A data set cannot be loaded. The message is one line: what is wrong, and what to do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
      images: uint8 ``[N, H, W, C]``, read-only; memory-mapped if it comes from the cache.
      labels: int32 ``[N]``, read-only, from 0 to the number of classes minus 1; ``[N, positions]``
        for several labels per image (the digits of a house number).
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set for image classification.

    Attributes:
      name: the requested name, such as ``"mnist"`` or ``"emnist/mnist"``.
      version: the data set's version, such as ``"3.0.1"``.
      num_classes: number of classes.
      train: the training split.
      test: the test split; its images have the size of the training images.
      statistics: mean and standard deviation of the training images' pixels in [0, 1], each
        ``[C]``; None if unknown.
      class_names: names of the classes, in order; None if they are numbers.
      notes: what was changed in the images or splits, for the user, one line each.
      draw: for generated data sets, the function that renders images on the device; otherwise None.
        It maps keys ``[B]`` and the contents of ``images`` (``[B, ...]``, uint8, such as the digits
        of a number) to images ``[B, H, W, C]``, uint8 or in [0, 1].
    """

    name: str
    version: str
    num_classes: int
    train: Split
    test: Split
    statistics: tuple[np.ndarray, np.ndarray] | None = None
    draw: Callable[[Any, Any], Any] | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
