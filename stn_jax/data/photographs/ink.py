"""Ink on paper: what in a photograph differs from the ground around it.

The ground (paper, and the light on it) is estimated for each pixel from its neighbourhood, by a
morphological closing: dark strokes narrower than a square vanish, while a gradient and even the
sharp edge of a shadow stay, since the square fits on either side of it. What is left is told as a
fraction of the ground, so that ink is as dark in the shade as in the light.
"""

from typing import NamedTuple

import numpy as np

# Pixels that are worked on; larger photographs are scaled down first.
AREA = 1_000_000
# Side of the square that no stroke contains, as a fraction of the photograph's (geometric mean) side.
_SQUARE = 0.3
# Noise that is left alone, in levels of 255: more is smoothed until it is about that.
_QUIET = 4.0
_DARKEST = 16.0  # a ground below counts as this bright: there noise would be everything


class Ink(NamedTuple):
    """How much each pixel differs from the ground, towards the ink.

    Attributes:
      strength: ``[H, W]`` float32, as a fraction of the ground; 0: ground.
      noise: the standard deviation of that on the ground.
      scale: pixels of the photograph for one of these.
    """

    strength: np.ndarray
    noise: float
    scale: float


def find_ink(pixels: np.ndarray) -> Ink:
    """Tells ink from ground.

    Args:
      pixels: ``[H, W, 3]``, uint8.

    Returns:
      Ink; all zeros where the photograph is of one colour.
    """
    import scipy.ndimage as nd

    image = _reduced(pixels, AREA)
    scale = pixels.shape[1] / image.shape[1]
    if not np.ptp(image, axis=-1).any():
        image = image[..., :1]
    direction = _direction(_reduced(pixels, 64 * 64)[..., : image.shape[-1]])
    square = max(3, round(_SQUARE * np.sqrt(image.shape[0] * image.shape[1])))
    strength = np.zeros(image.shape[:2], np.float32)
    for channel, weight in enumerate(direction):
        if not weight:
            continue
        x = image[..., channel]
        x = nd.gaussian_filter(x, _smoothing(x))
        rises = weight > 0
        # The closing's two steps, or the opening's.
        steps = (nd.minimum_filter, nd.maximum_filter)
        first, second = steps if rises else steps[::-1]
        ground = second(first(x, square), square)
        strength += abs(weight) * np.abs(x - ground) / np.maximum(ground, _DARKEST)
    # Of noise the closing sees the brightest: it lies above the ground by what most pixels have.
    usual = float(np.median(strength))
    noise = 1.4826 * float(np.median(np.abs(strength - usual)))
    return Ink(np.maximum(strength - usual, 0), noise, scale)


def _reduced(pixels: np.ndarray, area: int) -> np.ndarray:
    """A picture of at most about so many pixels, averaged: float32 ``[h, w, 3]``."""
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = np.sqrt(area / (height * width))
    if factor >= 1:
        return pixels.astype(np.float32)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), np.float32)


def _direction(small: np.ndarray) -> np.ndarray:
    """The colour of the ink relative to the ground's: weights of the channels, negative: darker.

    That in which what stands out from the median around it differs most from the ground.
    """
    import scipy.ndimage as nd

    window = max(3, min(small.shape[:2]) * 2 // 5)
    ground = np.stack([nd.median_filter(c, window) for c in np.moveaxis(small, -1, 0)], -1)
    difference = (small - ground) / np.maximum(ground, _DARKEST)
    difference = difference.reshape(-1, small.shape[-1])
    size = np.linalg.norm(difference, axis=-1)
    direction = (size[:, None] ** 2 * difference).sum(0)
    length = np.abs(direction).sum()
    return direction / length if length else -np.ones(len(direction)) / len(direction)


def _smoothing(channel: np.ndarray) -> float:
    """The standard deviation of the Gaussian that leaves little of the noise, in pixels."""
    if min(channel.shape) < 3:
        return 0.0
    # What neighbours in a row and a column do not explain: no gradient, few edges (Immerkaer 1996).
    x = channel[:-2] - 2 * channel[1:-1] + channel[2:]
    x = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    noise = 1.4826 * float(np.median(np.abs(x))) / 6
    return noise / _QUIET / (2 * np.sqrt(np.pi)) if noise > _QUIET else 0.0
