"""Classifiers as lists of blocks and a head: the study's two, and others for images of any size."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from stn_jax.models.blocks import ConvBlock, Head, ResidualBlock


class Classifier(NamedTuple):
    """A list of blocks and a head. Depth X of a network is the map after X blocks."""

    blocks: Sequence[Any]  # modules from map to map
    head: Any

    def with_dropout(self, factor: float) -> "Classifier":
        """The same classifier with all dropout rates multiplied by a factor."""
        return Classifier(
            tuple(block.clone(dropout=factor * block.dropout) for block in self.blocks),
            self.head.clone(dropout=factor * self.head.dropout),
        )


def mnist(classes: int = 10, *, width: float = 1.0, dtype: Any = None) -> Classifier:
    """The classifier for MNIST (arXiv 2001.05858, Section 3.1): two blocks.

    Args:
      classes: number of classes.
      width: factor on the number of channels of every layer.
      dtype: type to compute in.
    """
    features = _scaled(64, width)
    return Classifier(
        blocks=(
            ConvBlock(features, 9, pool=True, dtype=dtype),
            ConvBlock(features, 7, pool=True, dtype=dtype),
        ),
        head=Head(classes, dtype=dtype),
    )


def svhn(
    classes: int = 11, positions: int | None = 5, *, width: float = 1.0, dtype: Any = None
) -> Classifier:
    """The classifier for SVHN (Jaderberg et al. 2015, Appendix A.3): eight blocks.

    Args:
      classes: number of classes; 11 for house numbers (10 digits and "no digit").
      positions: number of digits, each with its own logits; None for single digits.
      width: factor on the number of channels and units of every layer.
      dtype: type to compute in.
    """
    features = (48, 64, 128, 160, 192, 192, 192, 192)
    return Classifier(
        blocks=tuple(
            ConvBlock(
                _scaled(f, width),
                5,
                padding="SAME",
                pool=i % 2 == 0,
                dropout=0.5 if i else 0.0,
                dtype=dtype,
            )
            for i, f in enumerate(features)
        ),
        head=Head(classes, positions, (_scaled(3072, width),) * 3, 0.5, dtype),
    )


def of_blocks(
    blocks: Sequence[Sequence[int]], classes: int = 10, *, width: float = 1.0, dtype: Any = None
) -> Classifier:
    """A classifier of convolutions with 'SAME' padding and a linear head.

    Args:
      blocks: for each block the side of its kernel, its features, and whether to max-pool by 2
        (0 or 1): ``[(5, 32, 1), (3, 64, 1)]``.
      classes: number of classes.
      width: factor on the number of channels of every layer.
      dtype: type to compute in.

    Raises:
      ValueError: a block is invalid.
    """
    for block in blocks:
        if len(block) != 3 or block[0] < 1 or block[1] < 1 or block[2] not in (0, 1):
            raise ValueError(
                f"blocks has {tuple(block)}; expected (kernel size, features, 0 or 1 for pooling)"
            )
    return Classifier(
        blocks=tuple(
            ConvBlock(_scaled(features, width), size, "SAME", pool=bool(pool), dtype=dtype)
            for size, features, pool in blocks
        ),
        head=Head(classes, dtype=dtype),
    )


def small(classes: int = 10, *, width: float = 1.0, dtype: Any = None) -> Classifier:
    """A classifier for images of 4 to about 24 pixels a side: two blocks.

    Args:
      classes: number of classes.
      width: factor on the number of channels of every layer.
      dtype: type to compute in.
    """
    return of_blocks(((5, 32, 1), (3, 64, 1)), classes, width=width, dtype=dtype)


def residual(classes: int = 10, *, width: float = 1.0, dtype: Any = None) -> Classifier:
    """A small residual classifier (He et al. 2016) for images of 8 pixels a side or more: 4 blocks.

    A 3x3 convolution, then three residual blocks of two 3x3 convolutions, each of which halves the
    sides; the logits are read from the mean over positions, so that the number of parameters,
    307,402 for 10 classes of gray images, does not depend on the images' size.

    Args:
      classes: number of classes.
      width: factor on the number of channels of every layer.
      dtype: type to compute in.
    """
    stem = ConvBlock(_scaled(32, width), 3, "SAME", dtype=dtype)
    blocks = (ResidualBlock(_scaled(f, width), pool=True, dtype=dtype) for f in (32, 64, 128))
    return Classifier((stem, *blocks), Head(classes, dtype=dtype, average=True))


def fitting(shape: Sequence[int]) -> str:
    """The name of the classifier for images of a shape (H, W, ...): small, mnist or svhn."""
    side = min(shape[:2])
    return "small" if side < 24 else "mnist" if side < 48 else "svhn"


def _scaled(features: int, width: float) -> int:
    return max(1, round(features * width))
