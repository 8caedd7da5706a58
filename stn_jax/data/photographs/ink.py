"""Detects ink on paper: pixels of a photograph that differ from the background around them.

The background (paper and illumination) is estimated for each pixel by a morphological closing,
which removes dark strokes narrower than a square, while gradients and even the sharp edge of a
shadow stay, since the square fits on either side of it. The remaining difference is expressed as a
fraction of the background, so that ink is equally dark in shade and in light. Light ink on a dark
background is found by an opening in the same way.
"""

from typing import NamedTuple

import numpy as np

# Larger photographs are scaled down to this many pixels to find ink, and to find its color.
_PIXELS, _FEW_PIXELS = 1_000_000, 48 * 48
# Sides of squares as fractions of a photograph's (the geometric mean of both): no stroke is wide
# enough to contain the first; most of the second's pixels are background.
_STROKE, _SURROUNDINGS = 0.3, 0.75
# Noise up to this, in levels of 255, is not smoothed; stronger noise is smoothed to about that.
_QUIET = 4.0
_DARKEST = 16.0  # levels: darker backgrounds count as this bright, so as not to amplify noise
_OF_SIGMA = 1.4826  # the standard deviation for a median absolute deviation of 1


class Ink(NamedTuple):
    """How much each pixel differs from the background, in the direction of the ink's color.

    Attributes:
      strength: ``[H, W]`` float32, as a fraction of the background; 0: background.
      noise: the standard deviation of the strength on the background.
    """

    strength: np.ndarray
    noise: float


def find_ink(pixels: np.ndarray) -> Ink:
    """Separates ink from background.

    Args:
      pixels: ``[H, W, 3]``, uint8.

    Returns:
      Ink, for an image reduced to about a million pixels at most; all zeros for a single color.
    """
    image, small = _reduced(pixels, _PIXELS), _reduced(pixels, _FEW_PIXELS)
    if (image[..., 1:] == image[..., :-1]).all():  # gray: one channel is enough
        image, small = image[..., :1], small[..., :1]
    weights = _color_of_ink(small)
    strength = sum(
        abs(weight) * _contrast(channel, weight > 0)
        for weight, channel in zip(weights, np.moveaxis(image, -1, 0), strict=True)
    )
    # The closing is biased towards the brightest noise; the median corrects the bias.
    some = strength[::2, ::2]
    bias = np.median(some)
    noise = _OF_SIGMA * float(np.median(np.abs(some - bias)))
    return Ink(np.maximum(strength - bias, 0), noise)


def _contrast(channel: np.ndarray, lighter: bool) -> np.ndarray:
    """How much pixels are lighter, or darker, than the background, as a fraction of it."""
    import scipy.ndimage as nd

    channel = nd.gaussian_filter(channel, _smoothing(channel))
    change = nd.white_tophat if lighter else nd.black_tophat
    difference = change(channel, _odd(_STROKE, channel))
    ground = channel - difference if lighter else channel + difference
    return difference / np.maximum(ground, _DARKEST)


def _reduced(pixels: np.ndarray, count: int) -> np.ndarray:
    """Reduces an image to at most about ``count`` pixels by averaging: float32 ``[h, w, 3]``."""
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = np.sqrt(count / (height * width))
    if factor >= 1:
        return pixels.astype(np.float32)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), np.float32)


def _color_of_ink(small: np.ndarray) -> np.ndarray:
    """The direction from the background's color to the ink's.

    Args:
      small: a photograph of few pixels, ``[h, w, C]``.

    Returns:
      ``[C]``, with absolute sum 1; negative where ink is darker than the background.
    """
    import scipy.ndimage as nd

    differs = np.zeros(small.shape)
    for i, channel in enumerate(np.moveaxis(small, -1, 0)):
        ground = _median(channel, _odd(_SURROUNDINGS, small))
        # Wide differences are illumination: only narrow parts count.
        square = _odd(_STROKE, small)
        darker = np.clip(ground - channel, 0, nd.black_tophat(channel, square))
        lighter = np.clip(channel - ground, 0, nd.white_tophat(channel, square))
        differs[..., i] = (lighter - darker) / np.maximum(ground, _DARKEST)
    # Weighted towards the largest differences.
    sizes = np.linalg.norm(differs, axis=-1, keepdims=True)
    direction = (sizes**2 * differs).sum((0, 1))
    length = np.abs(direction).sum()
    return direction / length if length else np.full(len(direction), -1 / len(direction))


def _median(channel: np.ndarray, window: int) -> np.ndarray:
    """The median of each pixel's neighborhood, of every third row and column."""
    padded = np.pad(channel, window // 2, mode="symmetric")
    around = np.lib.stride_tricks.sliding_window_view(padded, (window, window))
    return np.median(around[..., ::3, ::3], axis=(-2, -1))


def _smoothing(channel: np.ndarray) -> float:
    """The standard deviation, in pixels, of the Gaussian that reduces noise to about _QUIET."""
    if min(channel.shape) < 3:
        return 0.0
    # Second differences along rows and columns ignore gradients and most edges (Immerkaer 1996).
    x = channel[:-2] - 2 * channel[1:-1] + channel[2:]
    x = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    noise = _OF_SIGMA * float(np.median(np.abs(x[::2, ::2]))) / 6
    return noise / _QUIET / (2 * np.sqrt(np.pi)) if noise > _QUIET else 0.0


def _odd(fraction: float, image: np.ndarray) -> int:
    """A fraction of an image's side as an odd number of pixels, so that closings are centered."""
    return 2 * round(fraction / 2 * np.sqrt(image.shape[0] * image.shape[1])) + 1
