"""Random distortions of images, as pure functions of keys and images."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from stn_jax.augment.matrices import random_theta
from stn_jax.warp import affine, affine_transform

ANGLE_RANGE = (-90.0, 90.0)  # degrees
OCTAVES = (-1.0, 2.0)  # base-2 logarithm of the scale factor
CROPS, CROP_SIDE = 6, 6
CLUTTER_SIDES = (2, 18)  # on the canvas of scaled digits; even numbers, both ends included


class Distorted(NamedTuple):
    """A batch of distorted images and the transforms applied."""

    images: jax.Array  # [B, H', W', C], float32 in [0, 1]
    theta: jax.Array  # [B, 2, 3]: the applied transform, from distorted to original positions


Distortion = Callable[[jax.Array, jax.Array, jax.Array], Distorted]


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """A key for each example: ``[B]`` keys from one key and ``[B]`` indices."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def undistorted(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """No distortion; images may also be floats from 0 to 1."""
    theta = jnp.broadcast_to(affine.identity(), (len(images), 2, 3))
    return Distorted(_to_float(images), theta)


@dataclasses.dataclass(frozen=True)
class AffineRanges:
    """The ranges of a random affine transform, each drawn uniformly, the scale on a log axis.

    Attributes:
      angle: up to this many degrees to either side.
      translation: up to this fraction of the image's width and height to either side.
      scale: the smallest and the largest factor by which the picture grows.
      shear: up to this many pixels along x for each along y, to either side.
    """

    angle: float = 90.0
    translation: float = 0.25
    scale: tuple[float, float] = (0.5, 2.0)
    shear: float = 0.2

    def only(self, *names: str) -> "AffineRanges":
        """These ranges for some of the parameters, and no distortion by the others."""
        none = AffineRanges(0.0, 0.0, (1.0, 1.0), 0.0)
        return dataclasses.replace(none, **{name: getattr(self, name) for name in names})


def random_affine(ranges: AffineRanges) -> Distortion:
    """The distortion by a random affine transform about the image's center, at the image's size.

    Bilinear, zeros outside; the draws are those of :func:`stn_jax.augment.random_affine`.
    """

    def distort(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
        def draw(key: jax.Array) -> jax.Array:
            return random_theta(
                key,
                (),
                images.shape[1:3],
                angle=ranges.angle,
                scale=ranges.scale,
                shear=ranges.shear,
                shift=ranges.translation,
            )

        theta = jax.vmap(draw)(keys)
        return Distorted(affine_transform(_to_float(images), theta), theta)

    return distort


def rotate(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Rotates by a uniform angle in [-90, 90] degrees; bilinear, zeros outside."""
    low, high = ANGLE_RANGE
    angle = jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(keys)
    theta = affine.rotation(angle)
    return Distorted(affine_transform(_to_float(images), theta), theta)


def translate(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Places each image at a uniform whole-pixel position on a larger canvas with clutter.

    The canvas's side is twice the image's plus 4 (60 for MNIST's 28). The clutter consists of six
    6x6 crops of random training images at random positions. Overlapping values are added and
    clamped to 1.
    """
    side = images.shape[1]
    canvas = 2 * side + 4

    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        digit, which, cut, put = jax.random.split(key, 4)
        return (
            jax.random.randint(digit, (2,), 0, canvas - side + 1),
            jax.random.randint(which, (CROPS,), 0, len(pool)),
            jax.random.randint(cut, (CROPS, 2), 0, side - CROP_SIDE + 1),
            jax.random.randint(put, (CROPS, 2), 0, canvas - CROP_SIDE + 1),
        )

    offset, which, cut, put = jax.vmap(draw)(keys)
    theta = _placement(offset, side, canvas)
    digits = _paste(_to_float(images)[:, None], theta[:, None], canvas, "nearest")
    scraps = _placement(put, CROP_SIDE, canvas)
    clutter = _paste(_crops(pool, which, cut), scraps, canvas, "nearest")
    return Distorted(jnp.minimum(digits + clutter, 1), theta)


def scale(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Rescales each image by a factor 2**U(-1, 2) in the center of a larger canvas with clutter.

    The canvas's side is four times the image's (112 for MNIST's 28), which the largest digit fills.
    The clutter consists of six squares at random whole-pixel positions, with sides uniform among
    the even numbers from 2 to 18 pixels, independent of the image's factor, which they would
    otherwise reveal. Each is a resized 6x6 crop of a random training image. With these choices the
    images have the published mean and deviation. Overlapping values are added and clamped to 1.
    Bilinear.
    """
    side = images.shape[1]
    canvas = 4 * side
    smallest, largest = CLUTTER_SIDES

    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        octave, which, cut, across, put = jax.random.split(key, 5)
        sides = 2 * jax.random.randint(across, (CROPS,), smallest // 2, largest // 2 + 1)
        return (
            _factor(octave),
            jax.random.randint(which, (CROPS,), 0, len(pool)),
            jax.random.randint(cut, (CROPS, 2), 0, side - CROP_SIDE + 1),
            sides,
            jax.random.randint(put, (CROPS, 2), 0, canvas - sides[:, None] + 1),
        )

    factor, which, cut, sides, put = jax.vmap(draw)(keys)
    digits, theta = _rescaled(images, factor, canvas)
    scraps = _placement(put, sides, canvas)
    clutter = _paste(_crops(pool, which, cut), scraps, canvas, "bilinear", "border")
    return Distorted(jnp.minimum(digits + clutter, 1), theta)


def scale_legacy(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """As :func:`scale`, but the clutter's 6x6 crops are rescaled by the image's factor."""
    side = images.shape[1]
    canvas = 4 * side

    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        octave, which, cut, put = jax.random.split(key, 4)
        factor = _factor(octave)
        return (
            factor,
            jax.random.randint(which, (CROPS,), 0, len(pool)),
            jax.random.randint(cut, (CROPS, 2), 0, side - CROP_SIDE + 1),
            jax.random.uniform(put, (CROPS, 2)) * (canvas - CROP_SIDE * factor),
        )

    factor, which, cut, put = jax.vmap(draw)(keys)
    digits, theta = _rescaled(images, factor, canvas)
    scraps = _placement(put, CROP_SIDE * factor[:, None], canvas)
    clutter = _paste(_crops(pool, which, cut), scraps, canvas, "bilinear")
    return Distorted(jnp.minimum(digits + clutter, 1), theta)


def _factor(key: jax.Array) -> jax.Array:
    return 2 ** jax.random.uniform(key, minval=OCTAVES[0], maxval=OCTAVES[1])


def _rescaled(images: jax.Array, factor: jax.Array, canvas: int) -> tuple[jax.Array, jax.Array]:
    """Images rescaled by factors ``[B]`` in the center of a canvas, and their thetas."""
    large = images.shape[1] * factor
    theta = _placement(jnp.stack([(canvas - large) / 2] * 2, -1), large, canvas)
    return _paste(_to_float(images)[:, None], theta[:, None], canvas, "bilinear"), theta


def _crops(pool: jax.Array, which: jax.Array, corner: jax.Array) -> jax.Array:
    """Crops ``[B, CROPS, CROP_SIDE, CROP_SIDE, C]`` of pool images ``[B, CROPS]``.

    Args:
      pool: images ``[N, H, W, C]``, uint8.
      which: indices of the images, ``[B, CROPS]``.
      corner: top left corners, ``[B, CROPS, 2]``, (x, y) in pixels.
    """
    row = corner[..., 1, None, None] + jnp.arange(CROP_SIDE)[:, None]
    column = corner[..., 0, None, None] + jnp.arange(CROP_SIDE)
    return _to_float(pool[which[..., None, None], row, column])


def _paste(
    images: jax.Array, theta: jax.Array, canvas: int, mode: str, padding_mode: str = "zeros"
) -> jax.Array:
    """Warps K images onto each canvas by thetas without rotation, and adds them up.

    Such a warp is separable: row weights times image times column weights, which costs a fraction
    of sampling. The weights are obtained by sampling one-hot pixels.

    Args:
      images: ``[B, K, H, H, C]``.
      theta: ``[B, K, 2, 3]``, from :func:`_placement`.
      canvas: the canvas's side.
      mode: of the sampling.
      padding_mode: of the sampling, within the image's outline; values outside are 0.

    Returns:
      ``[B, canvas, canvas, C]``.
    """
    centers = (2 * jnp.arange(canvas) + 1) / canvas - 1
    one_hot = jnp.eye(images.shape[2])[:, None]  # a column of pixels, one channel for each

    def weights(axis: int) -> jax.Array:
        scale, shift = theta[..., axis, axis], theta[..., axis, 2]
        along = affine.from_parameters(
            scale=jnp.stack([scale, scale], -1),
            shift=jnp.stack([jnp.zeros_like(shift), shift], -1),
        )
        sampled = affine_transform(
            one_hot, along, (canvas, 1), mode=mode, padding_mode=padding_mode
        )[..., 0, :]
        if padding_mode == "zeros":
            return sampled
        inside = jnp.abs(scale[..., None] * centers + shift[..., None]) <= 1
        return jnp.where(inside[..., None], sampled, 0)

    return jnp.einsum(
        "bkyi,bkijc,bkxj->byxc", weights(1), images, weights(0), precision=lax.Precision.HIGHEST
    )


def _placement(offset: jax.Array, side: ArrayLike, canvas: int) -> jax.Array:
    """The theta that places an image on a canvas.

    Args:
      offset: ``[..., 2]``, the image's position (x, y) in pixels from the canvas's corner.
      side: ``[...]``, the image's side on the canvas, in pixels.
      canvas: the canvas's side.
    """
    side = jnp.broadcast_to(jnp.asarray(side)[..., None], offset.shape)
    return affine.from_parameters(scale=canvas / side, shift=(canvas - 2 * offset) / side - 1)


def _to_float(images: jax.Array) -> jax.Array:
    scale = 255 if images.dtype == jnp.uint8 else 1
    return images.astype(jnp.float32) / scale
