"""The digits of many fonts as signed distance fields, for drawing at any size and weight.

A glyph is stored as the distance from its outline (Green 2007, *Improved alpha-tested magnification
for vector textures and special effects*, SIGGRAPH courses). Distances interpolate to sharp edges
from few samples, and bold, outlined and raised digits are simple arithmetic on them.

``fonts.txt`` lists the fonts, their Debian packages and licenses; ``python -m tools.draw_atlas``
makes ``atlas.npz``.

Convention
    Lengths are in heights of a font's tallest digit. A cell is ``CELL`` samples wide and high; the
    tallest digit is ``HEIGHT`` samples high. Digits are centered in their cells.
"""

import functools
import pathlib
from typing import IO, NamedTuple

import numpy as np

CELL, HEIGHT = 32, 24  # samples
REACH = 1 / 6  # distances are stored up to this many heights
LEVELS = 63  # as many steps from -REACH to REACH

ATLAS = pathlib.Path(__file__).with_name("atlas.npz")
FONTS = pathlib.Path(__file__).with_name("fonts.txt")


class Font(NamedTuple):
    """A line of ``fonts.txt``."""

    file: str
    package: str
    license: str


class Atlas(NamedTuple):
    """The digits 0 to 9 of F fonts."""

    distance: np.ndarray  # [F, 10, CELL, CELL], float32, in heights: positive inside
    width: np.ndarray  # [F, 10], float32: of the digit's box
    height: np.ndarray  # [F, 10], float32: of the digit's box; 1 for the font's tallest


def fonts() -> list[Font]:
    """The atlas's fonts, in order."""
    lines = FONTS.read_text(encoding="utf-8").splitlines()
    return [Font(*line.split(" | ")) for line in lines if line and not line.startswith("#")]


@functools.cache
def load() -> Atlas:
    """Reads the atlas that ships with the package. Its arrays are shared: do not write to them."""
    with np.load(ATLAS, allow_pickle=False) as npz:
        # Rows are stored as differences, which compress better.
        levels = np.cumsum(npz["levels"], axis=-1, dtype=np.uint8)
        width, height = npz["width"], npz["height"]
    distance = (levels.astype(np.float32) * (2 / LEVELS) - 1) * np.float32(REACH)
    for array in (distance, width, height):
        array.flags.writeable = False
    return Atlas(distance, width, height)


def save(file: pathlib.Path | IO[bytes], atlas: Atlas) -> None:
    """Writes an atlas; distances are clipped to ``REACH`` and rounded to ``LEVELS`` steps."""
    levels = np.rint((np.clip(atlas.distance / REACH, -1, 1) + 1) * (LEVELS / 2)).astype(np.uint8)
    differences = np.diff(levels, axis=-1, prepend=np.uint8(0))
    np.savez_compressed(file, levels=differences, width=atlas.width, height=atlas.height)
