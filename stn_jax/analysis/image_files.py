"""A user's own digits: from image files to what a network for MNIST sees."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax.data.sources import DataError

# MNIST's digits fill a box of 20 pixels, and their centre of mass is pixel (14, 14).
BOX = 20
MAX_PIXELS = 50_000_000
# Not all that Pillow reads: for some it starts other programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def read_digit(path: str | Path, side: int = 28) -> np.ndarray:
    """Reads an image of one digit and brings it into MNIST's form.

    Dark ink on a light ground is inverted; the digit's box is scaled to 20 pixels and put where
    its centre of mass is the image's centre. Transparent parts count as white paper. A photograph
    is turned as its camera says (EXIF); of an animation the first picture counts.

    Args:
      path: an image file, in one of FORMATS.
      side: side of the result.

    Returns:
      ``[side, side, 1]``, uint8: a light digit on black.

    Raises:
      DataError: the file does not exist, is no image, is too large, or shows nothing.
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
    gray = np.asarray(Image.alpha_composite(paper, rgba).convert("L"), np.float32)

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
