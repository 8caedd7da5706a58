"""Finds marks of ink on a page, and the one that is the digit."""

from typing import NamedTuple

import numpy as np

from stn_jax.data.photographs.ink import Ink

_AROUND = np.ones((3, 3), bool)  # 8-connectivity
# Fractions of the strongest ink: certainly ink, and ink if connected to such ink (hysteresis).
_CERTAIN, _POSSIBLE = 0.55, 0.4
# Strengths form two groups, such as ruled lines and ink, if the variance between the groups is at
# least this fraction of the total.
_TWO_GROUPS = 0.85
# A further part of a digit has at least this extent, relative to the largest mark, and at most the
# distance below, relative to the joint extent; this covers six in seven of MNIST's broken digits.
# Larger parts are more likely to be something else, and must be nearer.
_PART = 0.08
_GAPS = ((0.4, 0.25), (0.8, 0.15), (np.inf, 0.1))  # (relative extent up to, maximum distance)
_MOST_PARTS = 8
# Factors on the score of marks that touch one border, or two opposite ones.
_CUT_OFF, _THROUGH = 0.4, 0.1
_SIMILAR = 0.6  # another mark with this fraction of the best score is similar
_CLEAR, _FAINT = 6, 0.06  # minimum strength: standard deviations of the noise; fraction
_LEAST = 8  # minimum extent of a recognizable digit, and of each side of the page, in pixels
_PATCH = 0.4  # strokes wider than this fraction of the mark's extent are not from a pen


class Mark(NamedTuple):
    """A connected or grouped region of ink.

    Attributes:
      mask: ``[H, W]`` bool, its pixels.
      level: the median strength of its ink.
      bounds: top, bottom, left, right in pixels of the mask.
      extent: the longer side of the bounds.
      width: the mean width of its strokes, in pixels.
      doubts: reasons why it may not be the digit, as text.
    """

    mask: np.ndarray
    level: float
    bounds: tuple[int, int, int, int]
    extent: int
    width: float
    doubts: tuple[str, ...]


def main_mark(ink: Ink) -> Mark | None:
    """The most prominent mark: large, complete, central. None if there is no ink."""
    import scipy.ndimage as nd

    labels, count = nd.label(_inked(ink), _AROUND)
    if not count:
        return None
    ends = np.array([[(s.start, s.stop) for s in box] for box in nd.find_objects(labels)])
    touches, through, scores = _prominence(ends, labels.shape)
    best = int(scores.argmax())
    # Marks that the border cuts off are not parts of the digit.
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
            level < max(_CLEAR * ink.noise, _FAINT)
            or min(extent, *labels.shape) < _LEAST
            or through[best]
        ),
        "it is a patch rather than strokes of a pen": width > _PATCH * extent,
        "there are several marks of similar size": (others > _SIMILAR * scores[best]).any(),
        "it touches the image's border": touches[best],
    }
    return Mark(
        mask, level, bounds, extent, width, tuple(text for text, holds in doubts.items() if holds)
    )


def _inked(ink: Ink) -> np.ndarray:
    """A mask of the ink: ``[H, W]`` bool."""
    import scipy.ndimage as nd

    # The 99.9th percentile, so that specks do not set the level.
    flat = ink.strength.ravel()
    few = min(len(flat) - 1, max(4, len(flat) // 1000))
    level = float(np.partition(flat, -1 - few)[-1 - few]) or float(flat.max())
    low = max(_POSSIBLE * level, 3 * ink.noise)
    low = max(low, _between_groups(np.minimum(flat[flat > low], level)))
    certain = ink.strength > max(_CERTAIN * level, 4 * ink.noise, low)
    return nd.binary_propagation(certain, _AROUND, mask=ink.strength > low)


def _between_groups(values: np.ndarray) -> float:
    """If values form two groups (Otsu 1979), the midpoint between their means; otherwise 0."""
    if not len(values):
        return 0.0
    counts, edges = np.histogram(values, 32)
    middles, weights = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    mean = (weights * middles).sum()
    lower, below = np.cumsum(weights)[:-1], np.cumsum(weights * middles)[:-1]
    product = lower * (1 - lower)
    between = np.divide((mean * lower - below) ** 2, product, where=product > 0, out=0 * product)
    if between.max() <= _TWO_GROUPS * (weights * (middles - mean) ** 2).sum():
        return 0.0
    best = between.argmax()
    means = below[best] / lower[best], (mean - below[best]) / (1 - lower[best])
    return float(sum(means) / 2)


def _prominence(
    ends: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each mark: whether it touches a border, or two opposite ones; its score.

    Args:
      ends: ``[n, 2, 2]``: first and last (exclusive) row of each mark, and the same for columns.
      shape: shape of the page.
    """
    low, high = ends[..., 0], ends[..., 1]
    touching = ((low == 0).astype(int) + (high == shape)).max(-1)
    off_center = np.abs((low + high) / (2 * np.array(shape)) - 0.5).max(-1)
    scores = (high - low).max(-1) * (1 - off_center) * np.choose(touching, (1, _CUT_OFF, _THROUGH))
    return touching > 0, touching > 1, scores


def _with_parts(labels: np.ndarray, ends: np.ndarray, best: int, apart: np.ndarray) -> np.ndarray:
    """The indices of a mark and of those that are parts of it, being near it or near other parts.

    Args:
      labels: ``[H, W]``, the marks, from 1.
      ends: see :func:`_prominence`.
      best: index of the mark.
      apart: ``[n]``, marks that cannot be parts.
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
    # Distances between pixel centers are half a pixel too long.
    return 4 * float(inside[inside > 0].mean() - 0.5)
