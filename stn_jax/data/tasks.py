"""Tasks: how a data set's images are distorted, afresh each time, and normalised.

Everything here is a pure function of keys and arrays, runs on the device inside jit, and warps
with the project's own warp. Keys are per example, so that what an example looks like depends
neither on the batch that it is in nor on its place there.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from stn_jax.warp import affine, affine_transform

ANGLE_RANGE = (-90.0, 90.0)  # degrees
CROPS, CROP_SIDE = 6, 6


class Distorted(NamedTuple):
    """A batch of distorted images and how they were distorted."""

    images: jax.Array  # [B, H', W', C], float32 in [0, 1]
    theta: jax.Array  # [B, 2, 3]: the applied transform, from distorted to original positions


Distortion = Callable[[jax.Array, jax.Array, jax.Array], Distorted]


@dataclasses.dataclass(frozen=True)
class Task:
    """A way to distort the images of a data set.

    Attributes:
      name: what the command line calls it.
      distort: function of keys ``[B]``, images ``[B, H, W, C]`` uint8 and a pool of training
        images ``[N, H, W, C]`` uint8 (clutter is cut from it) to :class:`Distorted`.
      mnist_statistics: mean and standard deviation of distorted MNIST (paper's code).
      aligns_angle: whether the distortion is a rotation, so that angles tell how well it is undone.
    """

    name: str
    distort: Distortion
    mnist_statistics: tuple[float, float]
    aligns_angle: bool

    def statistics(self, dataset: str, pool: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation that normalise this task's images.

        The published figures for MNIST; for another data set they are measured, per channel, on
        4,000 of its training images, distorted with a fixed key.

        Args:
          dataset: the data set's name.
          pool: its training images ``[N, H, W, C]``, uint8.

        Returns:
          Two arrays, scalars or ``[C]``.
        """
        if dataset in ("mnist", "mnist_sample"):
            mean, deviation = self.mnist_statistics
            return jnp.float32(mean), jnp.float32(deviation)
        some = pool[:: max(1, len(pool) // 4000)]
        keys = example_keys(jax.random.key(0), jnp.arange(len(some)))
        images = jax.jit(self.distort)(keys, some, pool).images
        return images.mean((0, 1, 2)), images.std((0, 1, 2))


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """A key for each example: ``[B]`` keys from one key and ``[B]`` indices."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def rotate(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Rotates by a uniform angle in [-90, 90] degrees; bilinear, zeros outside."""
    low, high = ANGLE_RANGE
    angle = jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(keys)
    theta = affine.rotation(angle)
    return Distorted(affine_transform(_to_float(images), theta), theta)


def translate(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Puts each image at a uniform whole-pixel place on a larger canvas, among clutter.

    The canvas has sides of twice the image's and 4 (60 for MNIST's 28). The clutter is six 6x6
    crops of random training images at random places; where things overlap they add up, to 1 at
    most.
    """
    side = images.shape[1]
    canvas = 2 * side + 4

    def place(key: jax.Array) -> tuple[jax.Array, ...]:
        digit, which, cut, put = jax.random.split(key, 4)
        return (
            jax.random.randint(digit, (2,), 0, canvas - side + 1),
            jax.random.randint(which, (CROPS,), 0, len(pool)),
            jax.random.randint(cut, (CROPS, 2), 0, side - CROP_SIDE + 1),
            jax.random.randint(put, (CROPS, 2), 0, canvas - CROP_SIDE + 1),
        )

    offset, which, cut, put = jax.vmap(place)(keys)
    theta = _placement(offset, side, canvas)
    digits = affine_transform(_to_float(images), theta, (canvas, canvas), mode="nearest")
    row = cut[..., 1, None, None] + jnp.arange(CROP_SIDE)[:, None]
    column = cut[..., 0, None, None] + jnp.arange(CROP_SIDE)
    crops = _to_float(pool[which[..., None, None], row, column])  # [B, CROPS, side, side, C]
    clutter = affine_transform(
        crops, _placement(put, CROP_SIDE, canvas), (canvas, canvas), mode="nearest"
    )
    return Distorted(jnp.minimum(digits + clutter.sum(1), 1), theta)


def _placement(offset: jax.Array, side: int, canvas: int) -> jax.Array:
    """Theta that puts an image of this side at (x, y) pixels from a canvas's corner."""
    scale = jnp.full((*offset.shape[:-1], 2), canvas / side)
    shift = (canvas - 2 * offset) / side - 1
    return affine.from_parameters(scale=scale, shift=shift)


def _to_float(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255


TASKS = {
    task.name: task
    for task in (
        Task("rotated_mnist", rotate, (0.1307, 0.3081), aligns_angle=True),
        Task("translated_mnist", translate, (0.0363, 0.1870), aligns_angle=False),
    )
}
