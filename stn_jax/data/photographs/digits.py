"""Converts a mark of ink to an image in MNIST's format."""

import numpy as np

from stn_jax.data.photographs.marks import Mark

# MNIST's digits fill a box of 20 of 28 pixels, and their center of mass is pixel (14, 14).
BOX, SIDE = 20, 28
# Range of stroke widths in that box that covers nine in ten of MNIST's digits.
_STROKES = (2.5, 5.0)
# Pixels of a digit's longer side while its strokes are widened or narrowed.
_DETAIL = 80


def to_mnist_format(strength: np.ndarray, mark: Mark, side: int) -> np.ndarray:
    """Converts a mark to MNIST's format.

    Args:
      strength: ``[H, W]``, strength of the ink.
      mark: the mark of the digit.
      side: side of the result.

    Returns:
      ``[side, side, 1]`` uint8, light on black.
    """
    digit = _normalize_strokes(_isolate(strength, mark), mark.width, mark.extent)
    box = min(BOX, round(side * BOX / SIDE))
    return _center(_scale(_crop(digit), box), side)[..., None]


def _isolate(strength: np.ndarray, mark: Mark) -> np.ndarray:
    """The mark without any other ink, cropped with a margin: in [0, 1], with soft edges."""
    import scipy.ndimage as nd

    margin = mark.extent // 2 + 1
    # Padded, since the margin may extend beyond the image.
    top, bottom, left, right = mark.bounds
    box = slice(top, bottom + 2 * margin), slice(left, right + 2 * margin)
    mask, values = (np.pad(x, margin)[box] for x in (mark.mask, strength / mark.level))
    # Up to a sixth of the ink's strength is paper, from five sixths on it is ink.
    return np.clip(1.5 * values - 0.25, 0, 1) * nd.binary_dilation(mask, np.ones((3, 3)))


def _normalize_strokes(digit: np.ndarray, width: float, extent: float) -> np.ndarray:
    """Widens or narrows strokes to MNIST's range, given their width and the extent in pixels."""
    import scipy.ndimage as nd

    factor = min(1.0, _DETAIL / extent)
    digit = _scale(digit, max(1, round(max(digit.shape) * factor)))
    width, extent = width * factor, extent * factor
    wanted = np.clip(width / extent, _STROKES[0] / BOX, _STROKES[1] / BOX)
    # Growing by r turns width and extent into w + 2 r and e + 2 r. Strokes never vanish.
    radius = max((wanted * extent - width) / (2 * (1 - wanted)), -width / 4)
    if abs(radius) < 0.5:
        return digit
    reach = int(abs(radius) + 0.5)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = rows**2 + columns**2 <= radius**2 + 0.5
    return (nd.grey_dilation if radius > 0 else nd.grey_erosion)(digit, footprint=disk)


def _crop(digit: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(digit > 0.15 * digit.max())
    return digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _scale(digit: np.ndarray, longer: int) -> np.ndarray:
    """Resizes an image in [0, 1] so that its longer side has ``longer`` pixels."""
    from PIL import Image

    height, width = (max(1, round(length * longer / max(digit.shape))) for length in digit.shape)
    image = Image.fromarray(digit.astype(np.float32))
    return np.clip(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)), 0, 1)


def _center(digit: np.ndarray, side: int) -> np.ndarray:
    """Places a digit in [0, 1] on a black square with its center of mass at the center: uint8."""
    mass = digit / digit.sum()
    top, left = (
        int(np.clip(round(side / 2 - np.sum(mass * position)), 0, side - length))
        for position, length in zip(np.indices(digit.shape), digit.shape, strict=True)
    )
    canvas = np.zeros((side, side), np.uint8)
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = np.round(255 * digit)
    return canvas
