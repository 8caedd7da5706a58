"""A user's own pictures: from image files to what a network for MNIST or SVHN sees."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax.data import house_numbers
from stn_jax.data.sources import DataError

# MNIST's digits fill a box of 20 pixels, and their centre of mass is pixel (14, 14).
BOX = 20
MAX_PIXELS = 50_000_000
# Not all that Pillow reads: for some it starts other programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def read_digit(path: str | Path, side: int = 28) -> np.ndarray:
    """Reads an image of one digit and brings it into MNIST's form.

    Dark ink on a light ground is inverted; the digit's box is scaled to 20 pixels and put where
    its centre of mass is the image's centre. See :func:`read_picture` for what can be read.

    Args:
      path: an image file, in one of FORMATS.
      side: side of the result.

    Returns:
      ``[side, side, 1]``, uint8: a light digit on black.

    Raises:
      DataError: as :func:`read_picture`, and where the file shows nothing.
    """
    from PIL import Image

    gray = np.asarray(Image.fromarray(read_picture(path)).convert("L"), np.float32)
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    if np.median(edge) > (gray.min() + gray.max()) / 2:
        gray = gray.max() - gray
    ink = gray - gray.min()
    if ink.max() < 32:
        raise DataError(f"{path} shows nothing: all of it is nearly one shade")
    ink /= ink.max()
    rows, columns = np.nonzero(ink > 0.2)
    ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = BOX / max(ink.shape)
    size = [max(1, round(length * scale)) for length in ink.shape]
    small = Image.fromarray((ink * 255).astype(np.uint8)).resize(
        (size[1], size[0]), Image.Resampling.LANCZOS
    )
    return _centred(np.asarray(small), side)[..., None]


def read_number(path: str | Path, box: Sequence[float] | None = None) -> np.ndarray:
    """Reads a photograph of a house number and cuts the number out as SVHN's task does.

    Args:
      path: an image file, in one of FORMATS.
      box: left, top, right, bottom of the number in pixels, from the photograph's corner; it is
        grown by 30 % first. None: the picture shows the number and little else.

    Returns:
      ``[64, 64, 3]``, uint8.

    Raises:
      DataError: as :func:`read_picture`, and where the box is empty or not in the picture.
    """
    from PIL import Image

    picture = read_picture(path)
    if box is None:
        size = (house_numbers.SIDE, house_numbers.SIDE)
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    left, top, right, bottom = box
    height, width = picture.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise DataError(
            f"box is {' '.join(f'{x:g}' for x in box)}; expected left < right and top < bottom "
            f"within {path}, which has {width}x{height} pixels"
        )
    return house_numbers.cut_out(picture, np.array([box], np.float64))


def read_picture(path: str | Path) -> np.ndarray:
    """Reads a user's image file.

    Transparent parts count as white paper. A photograph is turned as its camera says (EXIF); of an
    animation the first picture counts; wider numbers are scaled to 8 bits.

    Args:
      path: an image file, in one of FORMATS.

    Returns:
      ``[H, W, 3]``, uint8.

    Raises:
      DataError: the file does not exist, is no image, or is too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe, for one, would be waited for
        raise DataError(f"{path} cannot be read as an image: it is no file; expected PNG or JPEG")
    try:
        with warnings.catch_warnings():
            # Of what is wrong we hear by exceptions; what is too large we refuse below.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{path} has {image.width}x{image.height} pixels; expected at most "
                        f"{MAX_PIXELS // 1_000_000} million: scale it down first"
                    )
                rgba = _eight_bits(ImageOps.exif_transpose(image)).convert("RGBA")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected an image file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that can be read; expected PNG or JPEG") from None
    except DataError:
        raise
    except Exception as error:
        # Pillow's decoders fail on damaged files in many ways: struct.error, IndexError, ...
        raise DataError(
            f"{path} cannot be read as an image: {error or type(error).__name__}; save it again, "
            "as PNG or JPEG"
        ) from None
    paper = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(paper, rgba).convert("RGB"))


def _eight_bits(image: Any) -> Any:
    """An image of wider numbers (16 bits, floats) scaled to 8 bits; any other as it is."""
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are no finite numbers")
    values = (values - values.min()) / max(np.ptp(values), 1e-9)
    return Image.fromarray((values * 255).astype(np.uint8))


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
