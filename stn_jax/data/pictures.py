"""Opens image files safely, and resizes images with padding."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from stn_jax.data.image_sets import DataError
from stn_jax.data.options import DataOptions
from stn_jax.extras import extra

MAX_PIXELS = 50_000_000
# Not all of Pillow's formats: for some it starts other programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
# Pillow's modes by the number of channels.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@contextlib.contextmanager
def open_image(path: str | Path | IO[bytes], name: str | None = None) -> Iterator[Any]:
    """Opens an image file with Pillow; errors in the block are reported in the same way.

    Args:
      path: the file, or its content.
      name: the file's name in messages; None: its path.

    Raises:
      DataError: the file does not exist, is not an image in one of FORMATS, or is too large.
    """
    with extra("train"):
        from PIL import Image, UnidentifiedImageError

    name = str(path) if name is None else name
    # Reading a pipe, for example, would block.
    if isinstance(path, (str, Path)) and Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{name} cannot be read as an image: not a file; expected PNG or JPEG")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{name} has {image.width}x{image.height} pixels; expected at most "
                    f"{MAX_PIXELS // 1_000_000} million: scale it down first"
                )
            yield image
    except FileNotFoundError:
        raise DataError(f"{name} does not exist; expected an image file") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is not a readable image; expected PNG or JPEG") from None
    except DataError:
        raise
    except Exception as error:
        # Pillow's decoders fail on damaged files in many ways: struct.error, IndexError, ...
        raise DataError(
            f"{name} cannot be read as an image: {error or type(error).__name__}; save it again, "
            "as PNG or JPEG"
        ) from None


def kind_of(image: Any) -> tuple[int, int, int]:
    """Height, width and channels of an opened image, upright; its pixels are not decoded."""
    width, height = image.size
    if image.getexif().get(0x0112) in (5, 6, 7, 8):  # rotated by 90 degrees
        width, height = height, width
    if image.mode in ("LA", "La"):
        channels = 2
    elif image.mode in ("RGBA", "RGBa", "PA") or (image.mode == "P" and _is_transparent(image)):
        channels = 4
    else:
        channels = 1 if image.mode[0] in "1LIF" and image.mode != "LAB" else 3
    return height, width, channels


def _is_transparent(image: Any) -> bool:
    return "transparency" in image.info


def fitted(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Resizes an opened image to fit a shape, keeping its aspect ratio, centered and zero-padded.

    Args:
      image: a Pillow image. Its EXIF orientation is applied; the first frame of animations is used;
        16 bits are reduced to the upper 8.
      shape: height, width and channels of the result.

    Returns:
      uint8 ``[H, W, C]``.

    Raises:
      ValueError: its pixels are floats.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    image = _eight_bits(ImageOps.exif_transpose(image))
    if _is_transparent(image) and image.mode == "P":
        image = image.convert("RGBA")  # Pillow maps palettes to RGB without it
    image = image.convert(_MODES[channels])
    if image.size != (width, height):
        scale = min(width / image.width, height / image.height)
        inner = [max(1, round(side * scale)) for side in image.size]
        # Pillow's filter widens with the scale, so that shrinking averages over all pixels.
        image = image.resize(inner, Image.Resampling.BILINEAR)
    canvas = np.zeros(shape, np.uint8)
    top, left = (height - image.height) // 2, (width - image.width) // 2
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    canvas[top : top + image.height, left : left + image.width] = pixels
    return canvas


def _eight_bits(image: Any) -> Any:
    from PIL import Image

    if image.mode[0] == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode[0] != "I":
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


class Survey:
    """Collects sizes and channels of a data set's images."""

    def __init__(self) -> None:
        self._kinds: Counter[tuple[int, int, int]] = Counter()

    def add(self, kind: tuple[int, int, int]) -> None:
        """Adds the size and channels of an image, as :func:`kind_of` returns them."""
        self._kinds[kind] += 1

    def shape(self, options: DataOptions) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        """The common shape of the images, and notes on the conversions that it takes."""
        sizes = sorted({kind[:2] for kind in self._kinds})
        found = {kind[2] for kind in self._kinds}
        channels = options.channels or (3 if found & {3, 4} else 1) + bool(found & {2, 4})
        height, width = options.image_size or self._median()
        notes = []
        if sizes != [(height, width)]:
            which = f"of {_size(sizes[0])}"
            if len(sizes) > 1:
                sides = f"{_size(np.min(sizes, 0))} to {_size(np.max(sizes, 0))}"
                which = f"of {len(sizes)} sizes, from {sides},"
            notes.append(f"images {which} were resized with padding to {height}x{width}")
        if found != {channels}:
            was = " or ".join(map(str, sorted(found)))
            notes.append(f"images with {was} channels were converted to {channels}")
        return (height, width, channels), tuple(notes)

    def _median(self) -> tuple[int, int]:
        counts = list(self._kinds.values())
        sides = [np.repeat([kind[i] for kind in self._kinds], counts) for i in (0, 1)]
        height, width = (round(float(np.median(each))) for each in sides)
        return height, width


def _size(size: Iterable[int]) -> str:
    return "x".join(map(str, size))
