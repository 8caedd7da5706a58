"""Simulates a camera: blur, sensor noise, JPEG compression, and a final resize.

The photograph is at most ``SIDE`` pixels wide and high; a smaller one is the part of that array
with ``pixels`` pixels starting at ``origin``, and the scene continues around it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import fft

from stn_jax.data.house_numbers import SIDE
from stn_jax.street_numbers.generator_config import GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws
from stn_jax.street_numbers.scene import GRAY
from stn_jax.warp import affine, affine_transform

# JPEG's quantization tables (ITU-T T.81, Tables K.1 and K.2), for quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
_CHROMINANCE = np.full((8, 8), 99, np.float32)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCC = np.array(
    [GRAY, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)  # JFIF, without the offsets
_OFFSET = np.array([128, 0, 0], np.float32)
_FROM_YCC = np.linalg.inv(_TO_YCC).astype(np.float32)
# The cosine transform of all blocks of 8 along an axis: orthonormal.
_COSINES = np.kron(np.eye(SIDE // 8), fft.dct(np.eye(8), norm="ortho", axis=0)).astype(np.float32)
_STEPS = np.tile(np.stack([_LUMINANCE, _CHROMINANCE, _CHROMINANCE], -1), (SIDE // 8, SIDE // 8, 1))
_HIGHEST = lax.Precision.HIGHEST


def expose(draws: RandomDraws, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Blurs, with chromatic aberration, and sharpens as cameras do.

    Args:
      draws: random numbers.
      image: ``[SIDE, SIDE, 3]``.
      config: strengths.
    """
    sigma = jnp.minimum(1.05 * jnp.exp(draws.normal(0.38)), 1.9) * jnp.exp(draws.normal(0.15, (2,)))
    fringe = draws.normal(0.35, (2,))  # shift of blue against green, in pixels; red's is opposite
    sharpen = jnp.where(draws.happens(0.5), draws.uniform(0, 0.6), 0.0)
    index = jnp.arange(SIDE)
    apart = index[:, None] - index

    def kernel(axis: int) -> jax.Array:
        shift = config.blur * fringe[axis] * jnp.array([-0.6, 0.0, 1.0])[:, None, None]
        # A lens focuses one color best.
        wide = config.blur * sigma[axis] * jnp.array([1.05, 1.0, 1.35])[:, None, None]
        wide = jnp.maximum(wide, 1e-2)

        def gaussian(sigma: jax.Array) -> jax.Array:
            weights = jnp.exp(-((apart - shift) ** 2) / (2 * sigma**2))
            return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)

        more = config.blur * sharpen
        return (1 + more) * gaussian(wide) - more * gaussian(2 * wide + 0.3)

    return jnp.einsum("cyi,cxj,ijc->yxc", kernel(1), kernel(0), image, precision=_HIGHEST)


def grain(
    draws: RandomDraws, key: jax.Array, image: jax.Array, config: GeneratorConfig
) -> jax.Array:
    """Adds sensor noise, mostly in brightness, some in color."""
    strength = config.noise * 0.009 * jnp.exp(draws.normal(0.6))
    key_light, key_color = jax.random.split(key)
    light = jax.random.normal(key_light, (SIDE, SIDE, 1))
    # Coarser, as with a color filter array.
    color = jax.random.normal(key_color, (SIDE // 2, SIDE // 2, 3)).repeat(2, 0).repeat(2, 1)
    return image + strength * (light + 0.6 * color)


def compress(draws: RandomDraws, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Quantizes as JPEG does: 8x8 blocks, chroma at half resolution; config scales the steps."""
    quality = draws.uniform(55, 95)
    # As in libjpeg for qualities from 50: integer steps.
    percent = config.jpeg * (200 - 2 * quality)
    steps = jnp.maximum(jnp.floor(_STEPS * percent / 100 + 0.5), 1)
    ycc = jnp.einsum("yxc,dc->yxd", image, _TO_YCC, precision=_HIGHEST) * 255
    half = ycc[..., 1:].reshape(SIDE // 2, 2, SIDE // 2, 2, 2).mean((1, 3))
    color = jnp.where(config.jpeg > 0, half.repeat(2, 0).repeat(2, 1), ycc[..., 1:])
    ycc = jnp.concatenate([ycc[..., :1], color], -1)
    waves = jnp.einsum("ui,ijc,vj->uvc", _COSINES, ycc - _OFFSET, _COSINES, precision=_HIGHEST)
    waves = jnp.where(config.jpeg > 0, jnp.round(waves / steps) * steps, waves)
    ycc = jnp.einsum("ui,uvc,vj->ijc", _COSINES, waves, _COSINES, precision=_HIGHEST) + _OFFSET
    return jnp.einsum("yxd,cd->yxc", ycc / 255, _FROM_YCC, precision=_HIGHEST)


def enlarge(image: jax.Array, origin: jax.Array, pixels: jax.Array) -> jax.Array:
    """Resizes a part of an image to the full size, bilinearly.

    Args:
      image: ``[SIDE, SIDE, 3]``.
      origin: ``[2]``, top left corner of the part: (x, y) in pixels.
      pixels: ``[2]``, its width and height in pixels, at most ``SIDE``.
    """
    scale = pixels / SIDE
    theta = affine.from_parameters(scale=scale, shift=scale - 1 + 2 * origin / SIDE)
    return affine_transform(image, theta, padding_mode="border")
