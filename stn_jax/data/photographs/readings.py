"""Reads digits and house numbers from photographs, as network inputs with possible doubts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stn_jax.data import house_numbers
from stn_jax.data.image_sets import DataError
from stn_jax.data.photographs.digits import to_mnist_format
from stn_jax.data.photographs.image_files import read_picture
from stn_jax.data.photographs.ink import find_ink
from stn_jax.data.photographs.marks import main_mark
from stn_jax.data.pictures import fitted, open_image

_THUMBNAIL = 400  # pixels of its longer side
# Minimum height of a house number in pixels, and its minimum contrast in levels of 255.
_LEAST_HEIGHT = 8
_LEAST_CONTRAST = 16
# Without a box the image should be a crop; one with a longer side than this is probably not.
_LARGEST_CROP = 600


class Reading(NamedTuple):
    """A digit or house number extracted from a photograph.

    Attributes:
      image: ``[H, W, C]`` uint8, the network's input.
      box: its left, top, right, bottom in pixels from the photograph's corner.
      doubts: reasons why it may not be the intended digit or number, as text; empty without any.
      thumbnail: ``[h, w, 3]`` uint8, the photograph, reduced.
      shape: height and width of the photograph in pixels.
    """

    image: np.ndarray
    box: tuple[float, float, float, float]
    doubts: tuple[str, ...]
    thumbnail: np.ndarray
    shape: tuple[int, int]


def read_whole(path: str | Path, shape: tuple[int, int, int]) -> Reading:
    """Reads an image as those of a folder are: resized, with padding.

    Args:
      path: an image file.
      shape: height, width and channels of the result.

    Raises:
      DataError: as :func:`read_picture`.
    """
    pixels = read_picture(path)
    height, width = pixels.shape[:2]
    with open_image(path) as image:
        found = fitted(image, shape)
    return Reading(found, (0.0, 0.0, width, height), (), _thumbnail(pixels), (height, width))


def read_digit(path: str | Path, side: int = 28) -> Reading:
    """Reads an image of one digit and converts it to MNIST's format.

    See :func:`find_digit` for the method, and :func:`read_picture` for the supported files.

    Args:
      path: an image file.
      side: side of the result.

    Returns:
      A Reading whose image is ``[side, side, 1]``.

    Raises:
      DataError: as :func:`read_picture`, or there is no ink in the image.
    """
    reading = find_digit(read_picture(path), side)
    if reading is None:
        raise DataError(f"{path} is blank: no ink stands out from the background")
    return reading


def find_digit(pixels: np.ndarray, side: int = 28) -> Reading | None:
    """Finds the digit in a photograph of paper or a board, and converts it to MNIST's format.

    Illumination may be uneven, and paper and ink may have any two colors. Of several marks, the
    largest complete one near the center is used, with its parts. The digit's box is scaled to 20 of
    28 pixels, its center of mass is placed at the image's center, and its strokes are made as wide
    as MNIST's.

    Args:
      pixels: ``[H, W, 3]``, uint8.
      side: side of the result.

    Returns:
      A Reading whose image is ``[side, side, 1]``, a light digit on black; None if there is no ink.
    """
    ink = find_ink(pixels)
    mark = main_mark(ink)
    if mark is None:
        return None
    scale_y, scale_x = (n / m for n, m in zip(pixels.shape, mark.mask.shape, strict=False))
    top, bottom, left, right = mark.bounds
    return Reading(
        to_mnist_format(ink.strength, mark, side),
        (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y),
        mark.doubts,
        _thumbnail(pixels),
        pixels.shape[:2],
    )


def read_number(path: str | Path, box: Sequence[float] | None = None) -> Reading:
    """Reads a photograph of a house number and crops the number as in SVHN's task.

    Pixel values are unchanged, since the networks are trained on photographs in any light.

    Args:
      path: an image file.
      box: left, top, right, bottom of the number in pixels, from the photograph's corner; it is
        grown by 30 %. None: the whole image shows the number.

    Returns:
      A Reading whose image is ``[64, 64, 3]``, and whose box is the cropped region.

    Raises:
      DataError: as :func:`read_picture`, or the box is empty or outside the image.
    """
    pixels = read_picture(path)
    height, width = pixels.shape[:2]
    doubts = []
    if box is None:
        image, region = (
            house_numbers.resize_to_square(pixels),
            (0.0, 0.0, float(width), float(height)),
        )
        number_height: float = height
        if max(width, height) > _LARGEST_CROP:
            doubts.append("the whole image was taken for the number; set its location with --box")
    else:
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DataError(
                f"box is {' '.join(f'{x:g}' for x in box)}; expected left < right and top < bottom "
                f"within {path}, which has {width}x{height} pixels"
            )
        boxes = np.array([box], np.float64)
        image = house_numbers.crop_number(pixels, boxes)
        region = house_numbers.region(boxes, width, height)
        number_height = bottom - top
    if number_height < _LEAST_HEIGHT:
        doubts.append(f"it is only {number_height:.3g} pixels high")
    if np.ptp(np.percentile(image, (2, 98), axis=(0, 1)), axis=0).max() < _LEAST_CONTRAST:
        doubts.append("no digit stands out from the background")
    return Reading(image, region, tuple(doubts), _thumbnail(pixels), (height, width))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(image)
