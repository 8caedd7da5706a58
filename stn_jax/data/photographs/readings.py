"""What is read from a photograph, for a network to see, and what speaks against the reading."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stn_jax.data import house_numbers
from stn_jax.data.photographs.digits import in_mnist_form
from stn_jax.data.photographs.image_files import read_picture
from stn_jax.data.photographs.ink import find_ink
from stn_jax.data.photographs.marks import main_mark
from stn_jax.data.sources import DataError

_THUMBNAIL = 400  # pixels of its longer side
# Of a house number: fewer pixels tell no digits apart, less contrast (in levels of 255) is haze.
_LEAST_HEIGHT = 8
_LEAST_CONTRAST = 16
# Who gives no box gives a crop; a picture with more pixels either way is likely none.
_LARGEST_CROP = 600


class Reading(NamedTuple):
    """A digit or house number out of a photograph.

    Attributes:
      image: ``[H, W, C]`` uint8, what a network is shown.
      box: left, top, right, bottom of where it was, in pixels of the photograph from its corner.
      doubts: in words, why it may not be what was meant; empty where nothing speaks against it.
      thumbnail: ``[h, w, 3]`` uint8, the photograph, small.
      shape: height and width of the photograph in pixels.
    """

    image: np.ndarray
    box: tuple[float, float, float, float]
    doubts: tuple[str, ...]
    thumbnail: np.ndarray
    shape: tuple[int, int]


def read_digit(path: str | Path, side: int = 28) -> Reading:
    """Reads an image of one digit and brings it into MNIST's form.

    See :func:`find_digit` for how, and :func:`read_picture` for what can be read.

    Args:
      path: an image file.
      side: side of the result.

    Returns:
      A Reading whose image is ``[side, side, 1]``.

    Raises:
      DataError: as :func:`read_picture`, and where the file shows nothing.
    """
    reading = find_digit(read_picture(path), side)
    if reading is None:
        raise DataError(f"{path} shows nothing: no ink stands out from the ground")
    return reading


def find_digit(pixels: np.ndarray, side: int = 28) -> Reading | None:
    """Finds the digit in a photograph of paper, or of a board, and brings it into MNIST's form.

    Light may be uneven, paper and ink of any two colours. Of several marks that which is large,
    whole and near the middle counts, with what lies close to it. The digit's box is scaled to 20 of
    28 pixels and put where its centre of mass is the image's centre; strokes are drawn as wide as
    MNIST's.

    Args:
      pixels: ``[H, W, 3]``, uint8.
      side: side of the result.

    Returns:
      A Reading whose image is ``[side, side, 1]``, a light digit on black; None where there is no
      ink at all.
    """
    ink = find_ink(pixels)
    mark = main_mark(ink)
    if mark is None:
        return None
    scale_y, scale_x = (n / m for n, m in zip(pixels.shape, mark.mask.shape, strict=False))
    top, bottom, left, right = mark.bounds
    return Reading(
        in_mnist_form(ink.strength, mark, side),
        (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y),
        mark.doubts,
        _small(pixels),
        pixels.shape[:2],
    )


def read_number(path: str | Path, box: Sequence[float] | None = None) -> Reading:
    """Reads a photograph of a house number and cuts the number out as SVHN's task does.

    The pixels stay as they are, since the networks learn from photographs in every light.

    Args:
      path: an image file.
      box: left, top, right, bottom of the number in pixels, from the photograph's corner; it is
        grown by 30 % first. None: the picture shows the number and little else.

    Returns:
      A Reading whose image is ``[64, 64, 3]``, and whose box is what was cut out.

    Raises:
      DataError: as :func:`read_picture`, and where the box is empty or not in the picture.
    """
    pixels = read_picture(path)
    height, width = pixels.shape[:2]
    doubts = []
    if box is None:
        image, region = house_numbers.squeezed(pixels), (0.0, 0.0, float(width), float(height))
        tall = height
        if max(width, height) > _LARGEST_CROP:
            doubts.append("the whole picture was taken for the number; --box says where it is")
    else:
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DataError(
                f"box is {' '.join(f'{x:g}' for x in box)}; expected left < right and top < bottom "
                f"within {path}, which has {width}x{height} pixels"
            )
        boxes = np.array([box], np.float64)
        image = house_numbers.cut_out(pixels, boxes)
        region = house_numbers.region(boxes, width, height)
        tall = bottom - top
    if tall < _LEAST_HEIGHT:
        doubts.append(f"it is only {tall:.3g} pixels high")
    if np.ptp(np.percentile(image, (2, 98), axis=(0, 1)), axis=0).max() < _LEAST_CONTRAST:
        doubts.append("no digit stands out from the ground")
    return Reading(image, region, tuple(doubts), _small(pixels), (height, width))


def _small(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(image)
