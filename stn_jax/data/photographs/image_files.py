"""Decodes users' image files, or rejects them with a reason."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax.data.pictures import open_image


def read_picture(path: str | Path) -> np.ndarray:
    """Reads a user's image file.

    Transparent parts become white, or black if the rest is nearly white. Photographs are rotated
    according to their EXIF orientation; of animations the first frame is used; more than 8 bits are
    scaled to 8, ignoring a few outliers.

    Args:
      path: an image file, in one of :data:`stn_jax.data.pictures.FORMATS`.

    Returns:
      ``[H, W, 3]``, uint8.

    Raises:
      DataError: the file does not exist, is not an image, or is too large.
    """
    with warnings.catch_warnings():
        # Errors are exceptions, and the size is checked.
        warnings.simplefilter("ignore")
        with open_image(path) as image:
            from PIL import Image, ImageOps

            rgba = _eight_bits(ImageOps.exif_transpose(image)).convert("RGBA")
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
