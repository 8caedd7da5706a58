"""Marks of ink on a page, and which of them is the digit."""

from typing import NamedTuple

import numpy as np

from stn_jax.data.photographs.ink import Ink

_AROUND = np.ones((3, 3), bool)  # pixels that touch, corners too
# Of the strongest ink: what is ink for certain, and what is where it touches such ink.
_CERTAIN, _POSSIBLE = 0.55, 0.4
# Of two groups of strengths, each as narrow as of the ruling and the ink, the variance between
# them is at least this fraction of all.
_TWO_GROUPS = 0.85
# A part of a digit is at least so large, in extents of the largest, and at most so far away, in
# extents of both together: of MNIST's broken digits six in seven. A larger one may be something
# else, and has to be nearer.
_PART = 0.08
_GAPS = ((0.4, 0.25), (0.8, 0.15), (np.inf, 0.1))  # by size, the farthest
_MOST_PARTS = 8
# A mark that the border cuts off counts less; one from border to border is hardly a digit.
_CUT_OFF, _THROUGH = 0.4, 0.1
_SIMILAR = 0.6  # of two marks: how much the lesser counts
_CLEAR, _FAINT = 6, 0.06  # standard deviations of the noise; a fraction of the ground
_LEAST = 8  # pixels that a digit can be told in
_PATCH = 0.4  # no pen's stroke is so wide, in the mark's extent


class Mark(NamedTuple):
    """Ink that belongs together.

    Attributes:
      mask: ``[H, W]`` bool, where it is.
      level: the usual strength of its ink.
      bounds: top, bottom, left, right in pixels of the mask.
      extent: the longer side of that.
      width: the mean width of its strokes, in pixels.
      doubts: in words, why it may not be what was meant.
    """

    mask: np.ndarray
    level: float
    bounds: tuple[int, int, int, int]
    extent: int
    width: float
    doubts: tuple[str, ...]


def main_mark(ink: Ink) -> Mark | None:
    """The mark that stands out: large, whole, near the middle. None where there is no ink."""
    import scipy.ndimage as nd

    labels, count = nd.label(_inked(ink), _AROUND)
    if not count:
        return None
    ends = np.array([[(s.start, s.stop) for s in box] for box in nd.find_objects(labels)])
    touches, through, scores = _standing(ends, labels.shape)
    best = int(scores.argmax())
    # What the border cuts off is part of something else.
    own = _with_parts(labels, ends, best, touches & ~touches[best])
    mask = np.isin(labels, own + 1)
    level = float(np.median(ink.strength[mask]))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    bounds = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    extent = max(bounds[1] - bounds[0], bounds[3] - bounds[2])
    width = _stroke_width(mask[slice(*bounds[:2]), slice(*bounds[2:])])
    others = np.delete(scores, own)
    doubts = {
        "no digit stands out from the page": (
            level < max(_CLEAR * ink.noise, _FAINT) or extent < _LEAST or through[best]
        ),
        "it is a patch rather than strokes of a pen": width > _PATCH * extent,
        "there are several marks of about its size": (others > _SIMILAR * scores[best]).any(),
        "it touches the picture's border": touches[best],
    }
    return Mark(
        mask, level, bounds, extent, width, tuple(text for text, holds in doubts.items() if holds)
    )


def _inked(ink: Ink) -> np.ndarray:
    """Where there is ink: ``[H, W]`` bool."""
    import scipy.ndimage as nd

    # All but a thousandth of the pixels are weaker: more than specks are stronger.
    flat = ink.strength.ravel()
    few = min(len(flat) - 1, max(4, len(flat) // 1000))
    level = float(np.partition(flat, -1 - few)[-1 - few]) or float(flat.max())
    low = max(_POSSIBLE * level, 3 * ink.noise)
    low = max(low, _between_groups(np.minimum(flat[flat > low], level)))
    certain = ink.strength > max(_CERTAIN * level, 4 * ink.noise, low)
    return nd.binary_propagation(certain, _AROUND, mask=ink.strength > low)


def _between_groups(values: np.ndarray) -> float:
    """Where values are of two groups (Otsu 1979), the middle between their means; else 0."""
    if not len(values):
        return 0.0
    counts, edges = np.histogram(values, 32)
    middles, shares = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    mean = (shares * middles).sum()
    lower, below = np.cumsum(shares)[:-1], np.cumsum(shares * middles)[:-1]
    spread = lower * (1 - lower)
    between = np.divide((mean * lower - below) ** 2, spread, where=spread > 0, out=0 * spread)
    if between.max() <= _TWO_GROUPS * (shares * (middles - mean) ** 2).sum():
        return 0.0
    best = between.argmax()
    means = below[best] / lower[best], (mean - below[best]) / (1 - lower[best])
    return float(sum(means) / 2)


def _standing(
    ends: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each mark: whether it touches a border, or two opposite ones; how much it stands out.

    Args:
      ends: ``[n, 2, 2]``, the first and the last row of each, and a column likewise, exclusive.
      shape: of the page.
    """
    low, high = ends[..., 0], ends[..., 1]
    touching = ((low == 0).astype(int) + (high == shape)).max(-1)
    off_centre = np.abs((low + high) / (2 * np.array(shape)) - 0.5).max(-1)
    scores = (high - low).max(-1) * (1 - off_centre) * np.choose(touching, (1, _CUT_OFF, _THROUGH))
    return touching > 0, touching > 1, scores


def _with_parts(labels: np.ndarray, ends: np.ndarray, best: int, apart: np.ndarray) -> np.ndarray:
    """The numbers, from 0, of a mark and of those near it, or near these, that are parts of it.

    Args:
      labels: ``[H, W]``, the marks, from 1.
      ends: see :func:`_standing`.
      best: the mark.
      apart: ``[n]``, which can be no parts.
    """
    import scipy.ndimage as nd

    extents = np.ptp(ends, axis=-1).max(-1)
    rest = np.flatnonzero((extents >= _PART * extents[best]) & ~apart)
    rest = rest[rest != best]
    rest = rest[np.argsort(-extents[rest])][:_MOST_PARTS]
    own = np.array([best])
    while len(rest):
        away = nd.distance_transform_edt(~np.isin(labels, own + 1))
        gaps = nd.minimum(away, labels, rest + 1) - 1
        low = np.minimum(ends[rest, :, 0], ends[own, :, 0].min(0))
        high = np.maximum(ends[rest, :, 1], ends[own, :, 1].max(0))
        sizes, farthest = np.array(_GAPS).T
        farthest = farthest[np.searchsorted(sizes, extents[rest] / extents[best])]
        near = gaps <= farthest * (high - low).max(-1)
        if not near.any():
            break
        own, rest = np.append(own, rest[near]), rest[~near]
    return own


def _stroke_width(mask: np.ndarray) -> float:
    """The mean width of strokes: four times the mean distance from their edges."""
    import scipy.ndimage as nd

    inside = nd.distance_transform_edt(np.pad(mask, 1))
    # From pixels' centres to those outside: half a pixel too much.
    return 4 * float(inside[inside > 0].mean() - 0.5)
