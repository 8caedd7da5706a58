"""Marks of ink on a page, and which of them is the digit."""

from typing import NamedTuple

import numpy as np

from stn_jax.data.photographs.ink import Ink

# Of the ink's usual strength: what is ink for certain, and what is where it touches such ink.
_CERTAIN, _POSSIBLE = 0.55, 0.4
_LEAST = 0.04  # extent of a digit, as a fraction of the page's
# A part of a digit lies near the rest, both told in the digit's extent: MNIST's broken digits.
_PART, _GAP = 0.12, 0.15
_SIMILAR = 0.6


class Mark(NamedTuple):
    """Ink that belongs together, and what is to be said of it.

    Attributes:
      mask: ``[H, W]`` bool, its ink.
      level: the usual strength of its ink.
      doubts: in words, why it may not be what was meant.
    """

    mask: np.ndarray
    level: float
    doubts: tuple[str, ...]


def main_mark(ink: Ink) -> Mark | None:
    """The mark that stands out: large, whole, in the middle. None where there is no ink."""
    import scipy.ndimage as nd

    level = _level(ink)
    if level == 0:
        return None
    mask = _masked(ink, level)
    labels, count = nd.label(mask, np.ones((3, 3)))
    if not count:
        return None
    extents, gaps_at, scores = _scored(labels, count)
    best = int(scores.argmax())
    own = _with_parts(labels, extents, best)
    others = scores.copy()
    others[own] = 0
    mask = np.isin(labels, own + 1)
    inside = float(np.median(ink.strength[mask]))
    doubts = []
    if inside < 6 * ink.noise or extents[best] < 8:
        doubts.append("no digit stands out from the page")
    if others.max() > _SIMILAR * scores[best]:
        doubts.append("several marks of similar size")
    if gaps_at[best]:
        doubts.append("it touches the picture's border")
    return Mark(mask, inside, tuple(doubts))


def _level(ink: Ink) -> float:
    """The strength of the page's strongest ink, but for a thousandth of the pixels."""
    flat = ink.strength.ravel()
    count = min(len(flat) - 1, max(4, len(flat) // 1000))
    return float(np.partition(flat, -1 - count)[-1 - count])


def _masked(ink: Ink, level: float) -> np.ndarray:
    import scipy.ndimage as nd

    certain = ink.strength > max(_CERTAIN * level, 4 * ink.noise)
    possible = ink.strength > max(_POSSIBLE * level, 3 * ink.noise)
    return nd.binary_propagation(certain, np.ones((3, 3)), mask=possible)


def _scored(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each mark: its extent, whether it touches the border, and how much it stands out."""
    import scipy.ndimage as nd

    shape = np.array(labels.shape)
    extents, touches, scores = np.zeros(count), np.zeros(count, bool), np.zeros(count)
    for i, box in enumerate(nd.find_objects(labels)):
        low, high = np.array([[s.start, s.stop] for s in box]).T
        extents[i] = (high - low).max()
        ends = (low == 0).astype(int) + (high == shape)
        touches[i] = ends.any()
        off = np.abs((low + high) / 2 / shape - 0.5).max()
        through = (ends == 2).any()
        scores[i] = extents[i] * (1 - off) * (0.1 if through else 0.4 if touches[i] else 1)
    return extents, touches, scores


def _with_parts(labels: np.ndarray, extents: np.ndarray, best: int) -> np.ndarray:
    """A mark and those near it that are parts of it: their numbers."""
    import scipy.ndimage as nd

    away = nd.distance_transform_edt(labels != best + 1)
    numbers = np.arange(1, len(extents) + 1)
    gaps = nd.minimum(away, labels, numbers)
    near = (gaps <= _GAP * extents[best] + 1) & (extents >= _PART * extents[best])
    near[best] = True
    return np.flatnonzero(near)
