"""What a data set is once it is loaded: its splits, its classes, and what is known of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


class DataError(RuntimeError):
    """A data set cannot be had. The message is one line: what is wrong and what to do about it."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
      images: uint8 ``[N, H, W, C]``, read-only; memory-mapped where it comes from the cache.
      labels: int32 ``[N]``, read-only, from 0 to the number of classes less 1; ``[N, positions]``
        where an image shows several things in a row (the digits of a house number).
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set for image classification.

    Attributes:
      name: what it was asked for by, e.g. ``"mnist"`` or ``"emnist/mnist"``.
      version: of the data set, e.g. ``"3.0.1"``.
      num_classes: number of classes.
      train: the training split.
      test: the test split; its images have the size of the training images.
      statistics: mean and standard deviation of the training images, from 0 to 1, each ``[C]``;
        None where nobody has taken them.
      class_names: names of the classes in their order; None where they are numbers.
      notes: what was done to the images or splits that the user should know, a line each.
      draw: None, or for a generated data set the function that makes its images, on the device: of
        keys ``[B]`` and of what ``images`` then holds in their place (``[B, ...]``, uint8: say, the
        digits of a number) to images ``[B, H, W, C]``, uint8 or from 0 to 1.
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
