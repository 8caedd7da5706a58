"""House numbers for the 64x64 task: cropped from photographs, and labeled by position.

The box around all digits is grown by 30 %, cropped, and resized to 64x64 regardless of its aspect
ratio (Goodfellow et al. 2014, arXiv 1312.6082, Section 5.1; arXiv 2001.05858, Section 3.2).
"""

from collections.abc import Sequence

import numpy as np

SIDE = 64  # pixels
GROWTH = 1.3  # of width and height
POSITIONS = 5  # longer numbers are dropped
NONE = 10  # the class of a position without a digit
CLASSES = 11


def labels_of(digits: Sequence[int]) -> np.ndarray:
    """Labels int32 ``[POSITIONS]`` of a number: its digits, then "no digit".

    Raises:
      ValueError: there are no digits or more than ``POSITIONS``, or one is not from 0 to 9.
    """
    if not 1 <= len(digits) <= POSITIONS or not all(0 <= digit <= 9 for digit in digits):
        raise ValueError(f"digits are {list(digits)}; expected 1 to {POSITIONS}, from 0 to 9")
    labels = np.full(POSITIONS, NONE, np.int32)
    labels[: len(digits)] = digits
    return labels


def region(boxes: np.ndarray, width: int, height: int) -> tuple[float, float, float, float]:
    """The region to crop: the bounding box of all boxes, grown about its center, within the image.

    Args:
      boxes: ``[n, 4]``: left, top, right, bottom in pixels; the image's corner is (0, 0).
      width, height: of the image.

    Returns:
      Left, top, right, bottom.

    Raises:
      ValueError: the region does not overlap the image.
    """
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    margin = (GROWTH - 1) / 2 * (high - low)
    left, top = np.maximum(low - margin, 0)
    right, bottom = np.minimum(high + margin, (width, height))
    if left >= right or top >= bottom:
        raise ValueError(f"boxes {boxes.tolist()} are outside the image of {width}x{height}")
    return float(left), float(top), float(right), float(bottom)


def crop_number(image: np.ndarray, boxes: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Crops a number from a photograph and resizes it: bilinear, with antialiasing.

    Args:
      image: uint8 ``[H, W, 3]``.
      boxes: ``[n, 4]``, see :func:`region`.
      side: side of the result.

    Returns:
      uint8 ``[side, side, 3]``.
    """
    height, width = image.shape[:2]
    return resize_to_square(image, side, region(boxes, width, height))


def resize_to_square(
    image: np.ndarray, side: int = SIDE, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resizes an image, or a box in it, to a square, regardless of its aspect ratio.

    Args:
      image: uint8 ``[H, W, 3]``.
      side: side of the result.
      box: left, top, right, bottom in pixels; None: the whole image.

    Returns:
      uint8 ``[side, side, 3]``.
    """
    from PIL import Image

    # Pillow's filter widens with the scale, so that shrinking averages over all pixels.
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small)
