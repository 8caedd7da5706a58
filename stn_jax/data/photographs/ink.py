"""Ink on paper: what in a photograph differs from the ground around it.

The ground (paper, and the light on it) is estimated for each pixel from its neighbourhood, by a
morphological closing: dark strokes narrower than a square vanish, while a gradient and even the
sharp edge of a shadow stay, since the square fits on either side of it. What is left is told as a
fraction of the ground, so that ink is as dark in the shade as in the light. Light ink on a dark
ground is found by an opening likewise.
"""

from typing import NamedTuple

import numpy as np

# Pixels that ink is found on, larger photographs are scaled down; and those for its colour.
_PIXELS, _FEW_PIXELS = 1_000_000, 48 * 48
# Sides of squares as fractions of a photograph's (of the geometric mean of both): no stroke is so
# wide that it contains the first; of the second's pixels most are ground.
_STROKE, _SURROUNDINGS = 0.3, 0.75
# Noise that is left alone, in levels of 255: more is smoothed until it is about that.
_QUIET = 4.0
_DARKEST = 16.0  # levels: a ground below counts as this bright, since noise would be all there is
_OF_SIGMA = 1.4826  # the standard deviation for a median absolute deviation of 1


class Ink(NamedTuple):
    """How much each pixel differs from the ground, towards the ink.

    Attributes:
      strength: ``[H, W]`` float32, as a fraction of the ground; 0: ground.
      noise: the standard deviation of that on the ground.
    """

    strength: np.ndarray
    noise: float


def find_ink(pixels: np.ndarray) -> Ink:
    """Tells ink from ground.

    Args:
      pixels: ``[H, W, 3]``, uint8.

    Returns:
      Ink, of a picture of about a million pixels at most; all zeros where there is one colour.
    """
    image, small = _reduced(pixels, _PIXELS), _reduced(pixels, _FEW_PIXELS)
    if (image[..., 1:] == image[..., :-1]).all():  # gray: one channel says it all
        image, small = image[..., :1], small[..., :1]
    weights = _color_of_ink(small)
    strength = sum(
        abs(weight) * _contrast(channel, weight > 0)
        for weight, channel in zip(weights, np.moveaxis(image, -1, 0), strict=True)
    )
    # The closing takes the brightest of the noise: the ground differs from it by what is usual.
    some = strength[::2, ::2]
    usual = np.median(some)
    noise = _OF_SIGMA * float(np.median(np.abs(some - usual)))
    return Ink(np.maximum(strength - usual, 0), noise)


def _contrast(channel: np.ndarray, lighter: bool) -> np.ndarray:
    """How much pixels are lighter, or darker, than the ground, as a fraction of it."""
    import scipy.ndimage as nd

    channel = nd.gaussian_filter(channel, _smoothing(channel))
    change = nd.white_tophat if lighter else nd.black_tophat
    differs = change(channel, _odd(_STROKE, channel))
    ground = channel - differs if lighter else channel + differs
    return differs / np.maximum(ground, _DARKEST)


def _reduced(pixels: np.ndarray, count: int) -> np.ndarray:
    """A picture of about so many pixels at most, averaged: float32 ``[h, w, 3]``."""
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = np.sqrt(count / (height * width))
    if factor >= 1:
        return pixels.astype(np.float32)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), np.float32)


def _color_of_ink(small: np.ndarray) -> np.ndarray:
    """In which direction from the ground's colour the ink's is.

    Args:
      small: a photograph of few pixels, ``[h, w, C]``.

    Returns:
      ``[C]``, of absolute sum 1; below 0 where ink is darker than the ground.
    """
    import scipy.ndimage as nd

    differs = np.zeros(small.shape)
    for i, channel in enumerate(np.moveaxis(small, -1, 0)):
        ground = _median(channel, _odd(_SURROUNDINGS, small))
        # What is wide is light and shade: no more counts than is in narrow parts.
        square = _odd(_STROKE, small)
        darker = np.clip(ground - channel, 0, nd.black_tophat(channel, square))
        lighter = np.clip(channel - ground, 0, nd.white_tophat(channel, square))
        differs[..., i] = (lighter - darker) / np.maximum(ground, _DARKEST)
    # What differs most counts most.
    sizes = np.linalg.norm(differs, axis=-1, keepdims=True)
    direction = (sizes**2 * differs).sum((0, 1))
    length = np.abs(direction).sum()
    return direction / length if length else np.full(len(direction), -1 / len(direction))


def _median(channel: np.ndarray, window: int) -> np.ndarray:
    """The median of each pixel's surroundings, of every third row and column of them."""
    padded = np.pad(channel, window // 2, mode="symmetric")
    around = np.lib.stride_tricks.sliding_window_view(padded, (window, window))
    return np.median(around[..., ::3, ::3], axis=(-2, -1))


def _smoothing(channel: np.ndarray) -> float:
    """The standard deviation of the Gaussian that leaves little of the noise, in pixels."""
    if min(channel.shape) < 3:
        return 0.0
    # What neighbours in row and column do not explain: no gradient, few edges (Immerkaer 1996).
    x = channel[:-2] - 2 * channel[1:-1] + channel[2:]
    x = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    noise = _OF_SIGMA * float(np.median(np.abs(x[::2, ::2]))) / 6
    return noise / _QUIET / (2 * np.sqrt(np.pi)) if noise > _QUIET else 0.0


def _odd(fraction: float, image: np.ndarray) -> int:
    """A fraction of a picture's side in pixels, odd: a closing's two steps have one middle."""
    return 2 * round(fraction / 2 * np.sqrt(image.shape[0] * image.shape[1])) + 1
