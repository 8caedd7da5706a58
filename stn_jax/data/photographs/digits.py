"""From a photograph of a digit to what a network for MNIST sees."""

from typing import NamedTuple

import numpy as np

from stn_jax.data.photographs.ink import find_ink
from stn_jax.data.photographs.marks import Mark, main_mark

BOX = 20
# Widths of strokes in that box, which all but a few of MNIST's digits have.
_STROKES = (2.6, 5.0)


class Reading(NamedTuple):
    image: np.ndarray
    box: tuple[float, float, float, float]
    doubts: tuple[str, ...]


def find_digit(pixels: np.ndarray, side: int = 28) -> Reading | None:
    ink = find_ink(pixels)
    mark = main_mark(ink)
    if mark is None:
        return None
    rows, columns = (np.flatnonzero(mark.mask.any(axis)) for axis in (1, 0))
    box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    digit = _drawn(ink.strength, mark)
    scaled = tuple(float(ink.scale * x) for x in box)
    return Reading(_in_mnist_form(digit, side)[..., None], scaled, mark.doubts)


def _drawn(strength: np.ndarray, mark: Mark) -> np.ndarray:
    """The mark alone, light on black in [0, 1], its strokes as wide as MNIST's are."""
    import scipy.ndimage as nd

    near = nd.binary_dilation(mark.mask, np.ones((3, 3)))
    digit = np.clip(strength / mark.level * 1.5 - 0.25, 0, 1) * near
    rows, columns = (np.flatnonzero(mark.mask.any(axis)) for axis in (1, 0))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    # The mean distance to the edge of a stroke is a quarter of its width.
    inside = nd.distance_transform_edt(np.pad(mark.mask, 1))
    width = 4 * float(inside[inside > 0].mean()) - 1
    margin = extent
    top, left = rows[0] - margin, columns[0] - margin
    digit = np.pad(digit, margin)[rows[0]:rows[-1]+1+2*margin, columns[0]:columns[-1]+1+2*margin]
    wanted = np.clip(width * BOX / extent, *_STROKES)
    # w' = w + 2r, e' = e + 2r, w'/e' = wanted/20
    target = wanted / BOX
    r = (target * extent - width) / (2 * (1 - target))
    if abs(r) >= 0.5:
        k = int(np.ceil(abs(r)))
        y, x = np.mgrid[-k : k + 1, -k : k + 1]
        disk = x * x + y * y <= r * r + 0.5
        digit = (nd.grey_dilation if r > 0 else nd.grey_erosion)(digit, footprint=disk)
    return digit


def _in_mnist_form(ink: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    rows, columns = np.nonzero(ink > 0.3)
    ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = BOX / max(ink.shape)
    size = [max(1, round(length * scale)) for length in ink.shape]
    small = Image.fromarray((ink * 255).astype(np.uint8)).resize(
        (size[1], size[0]), Image.Resampling.LANCZOS
    )
    return _centred(np.asarray(small), side)


def _centred(digit: np.ndarray, side: int) -> np.ndarray:
    """Puts a digit on a black square so that its centre of mass is the middle."""
    mass = digit.astype(np.float64) / max(digit.sum(), 1)
    top, left = (
        int(np.clip(round(side / 2 - np.sum(mass * position)), 0, side - length))
        for position, length in zip(np.indices(digit.shape), digit.shape, strict=True)
    )
    canvas = np.zeros((side, side), np.uint8)
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas
