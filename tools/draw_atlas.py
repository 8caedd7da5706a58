"""Draws the atlas of digits from font files.

    python -m tools.draw_atlas --fonts_dir=/usr/share [--output=FILE]

The fonts are those of ``fonts.txt``; the Debian packages listed there install them in
``/usr/share``.
"""

import argparse
import pathlib
import sys

import numpy as np
from scipy import ndimage

from stn_jax.files import atomic_write
from stn_jax.street_numbers import atlas

_FINE = 8  # digits are drawn this many times larger, so that distances are accurate


def draw(fonts_dir: pathlib.Path) -> atlas.Atlas:
    """Draws the digits of all fonts.

    Args:
      fonts_dir: folder that contains the files of ``fonts.txt``, at any depth.

    Raises:
      FileNotFoundError: a font file is missing.
      ValueError: a font's digits do not fit into their cells, or differ too much in height.
    """
    found = {path.name: path for path in sorted(fonts_dir.rglob("*.[ot]tf"))}
    fonts = atlas.fonts()
    if missing := [font for font in fonts if font.file not in found]:
        raise FileNotFoundError(
            f"{missing[0].file} is not in {fonts_dir}; install the Debian package "
            f"{missing[0].package} ({len(missing)} fonts are missing)"
        )
    digits = [draw_font(found[font.file]) for font in fonts]
    return atlas.Atlas(
        *(np.stack(arrays).astype(np.float32) for arrays in zip(*digits, strict=True))
    )


def draw_font(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances ``[10, CELL, CELL]``, widths ``[10]`` and heights ``[10]`` of a font's digits."""
    size = atlas.HEIGHT * _FINE
    # Drawn twice, since the size of a font is not that of its digits.
    tallest = max(len(ink) for ink in _ink(path, size))
    inks = _ink(path, round(size * size / tallest))
    tallest = max(len(ink) for ink in inks)
    width = np.array([ink.shape[1] for ink in inks]) / tallest
    height = np.array([ink.shape[0] for ink in inks]) / tallest
    limit = (atlas.CELL - 2) / atlas.HEIGHT
    if width.max() > limit or height.min() < 0.85:
        raise ValueError(
            f"{path.name}: digits are up to {width.max():.2f} wide and at least {height.min():.2f} "
            f"high; expected at most {limit:.2f} and at least 0.85"
        )
    return np.stack([distance_of(ink, tallest) for ink in inks]), width, height


def _ink(path: pathlib.Path, size: int) -> list[np.ndarray]:
    """Each digit at this font size, bool ``[H, W]``, tightly cropped."""
    from PIL import ImageFont

    font = ImageFont.truetype(str(path), size)
    result = []
    for digit in "0123456789":
        mask = font.getmask(digit)
        ink = np.asarray(mask, np.uint8).reshape(mask.size[::-1]) > 127
        rows, columns = np.nonzero(ink)
        result.append(ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return result


def distance_of(ink: np.ndarray, tallest: int) -> np.ndarray:
    """Signed distances ``[CELL, CELL]`` from the outline of a centered digit, in heights."""
    pad = tallest
    ink = np.pad(ink, pad)
    # Between pixels: the outline is half a pixel from the centers on either side of it.
    inside = ndimage.distance_transform_edt(ink) - 0.5
    outside = ndimage.distance_transform_edt(~ink) - 0.5
    signed = np.where(ink, inside, -outside) / tallest
    step = tallest / atlas.HEIGHT
    offset = (np.arange(atlas.CELL) - (atlas.CELL - 1) / 2) * step
    rows, columns = ((length - 1) / 2 + offset for length in ink.shape)
    positions = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(signed, positions, order=1, mode="nearest")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.draw_atlas", description="Draws the atlas of digits."
    )
    parser.add_argument("--fonts_dir", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=pathlib.Path, default=atlas.ATLAS, metavar="FILE")
    flags = parser.parse_args()
    try:
        drawn = draw(flags.fonts_dir)
        with atomic_write(flags.output, "wb") as file:
            atlas.save(file, drawn)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{flags.output}: {len(atlas.fonts())} fonts, {flags.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
