"""Data sets whose examples are drawn from another data set."""

import dataclasses
from collections.abc import Callable

import numpy as np

from stn_jax.data.image_sets import Source, Split

# The sizes of MNIST-rot's splits, of MNIST's digits, and the seed of the draw.
_TRAIN, _TEST, _ALL, _SEED = 12_000, 50_000, 70_000, 2007


def mnist_rot(mnist: Source) -> Source:
    """The splits of MNIST-rot: 12,000 training and 50,000 test digits of MNIST's 70,000.

    The digits are upright: the task ``rotated_mnist`` with ``max_angle=180`` rotates them. They are
    drawn from MNIST's training and test digits together by a fixed permutation; the last 8,000 of
    it are in neither split. Of a data set of another size the same fractions are drawn.

    Args:
      mnist: the data set "mnist".

    References:
      Larochelle, Erhan, Courville, Bergstra and Bengio: An empirical evaluation of deep
      architectures on problems with many factors of variation (ICML 2007). Its files hold other
      digits and rotations.
    """
    images, labels = (
        np.concatenate([getattr(mnist.train, name), getattr(mnist.test, name)])
        for name in ("images", "labels")
    )
    order = permutation(len(images))
    train, test = (len(images) * count // _ALL for count in (_TRAIN, _TEST))
    note = f"{train:,} training and {test:,} test digits of MNIST, by a fixed permutation"
    return dataclasses.replace(
        mnist,
        name="mnist_rot",
        train=_chosen(images, labels, order[:train]),
        test=_chosen(images, labels, order[train : train + test]),
        statistics=None,
        notes=(*mnist.notes, note),
    )


def permutation(count: int) -> np.ndarray:
    """A fixed permutation ``[count]``, the same on every machine and with every NumPy."""
    # Only the streams of RandomState are guaranteed never to change (NEP 19).
    return np.random.RandomState(_SEED).permutation(count)


def _chosen(images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> Split:
    split = Split(images[indices], labels[indices])
    split.images.flags.writeable = split.labels.flags.writeable = False
    return split


# By name: the data set that the examples are from, and the function that draws them.
DERIVED: dict[str, tuple[str, Callable[[Source], Source]]] = {"mnist_rot": ("mnist", mnist_rot)}
