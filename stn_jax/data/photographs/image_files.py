"""Decodes users' image files, or rejects them with a reason."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax.data.sources import DataError

MAX_PIXELS = 50_000_000
# Not all of Pillow's formats: for some it starts other programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def read_picture(path: str | Path) -> np.ndarray:
    """Reads a user's image file.

    Transparent parts become white, or black if the rest is nearly white. Photographs are rotated
    according to their EXIF orientation; of animations the first frame is used; more than 8 bits are
    scaled to 8, ignoring a few outliers.

    Args:
      path: an image file, in one of FORMATS.

    Returns:
      ``[H, W, 3]``, uint8.

    Raises:
      DataError: the file does not exist, is not an image, or is too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe, for example, would block
        raise DataError(f"{path} cannot be read as an image: not a file; expected PNG or JPEG")
    try:
        with warnings.catch_warnings():
            # Errors are exceptions, and the size is checked below.
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
        raise DataError(f"{path} is not a readable image; expected PNG or JPEG") from None
    except DataError:
        raise
    except Exception as error:
        # Pillow's decoders fail on damaged files in many ways: struct.error, IndexError, ...
        raise DataError(
            f"{path} cannot be read as an image: {error or type(error).__name__}; save it again, "
            "as PNG or JPEG"
        ) from None
    paper = Image.new("RGBA", rgba.size, _paper(rgba))
    return np.asarray(Image.alpha_composite(paper, rgba).convert("RGB"))


def _paper(rgba: Any) -> str:
    """The background color, black or white, on which the opaque parts are visible."""
    from PIL import ImageStat

    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return "white"
    drawn = alpha.point(lambda v: 255 if v > 127 else 0)
    darkest = ImageStat.Stat(rgba.convert("L"), drawn)
    return "black" if darkest.count[0] and darkest.mean[0] > 200 else "white"


def _eight_bits(image: Any) -> Any:
    """Scales images with more than 8 bits (16 bits, floats) to 8 bits; others are unchanged."""
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    # Up to one pixel in a hundred thousand may be broken.
    broken = min(1 + values.size // 100_000, (values.size - 1) // 2)
    ends = (broken, values.size - 1 - broken)
    low, high = np.partition(values.ravel(), ends)[list(ends)]
    if low == high:  # all contrast is in the outliers
        low, high = values.min(), values.max()
    values = np.clip((values - low) / max(high - low, np.finfo(float).tiny), 0, 1)
    return Image.fromarray((values * 255).astype(np.uint8))
