"""Tasks: how a data set's images are distorted (or cropped), afresh each time, and normalised.

Everything here is a pure function of keys and arrays, runs on the device inside jit, and warps
with the project's own warp. Keys are per example, so that what an example looks like depends
neither on the batch that it is in nor on its place there.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.data import house_numbers
from stn_jax.warp import affine, affine_transform

ANGLE_RANGE = (-90.0, 90.0)  # degrees
OCTAVES = (-1.0, 2.0)  # base-2 logarithm of the scale factor
CROPS, CROP_SIDE = 6, 6
CLUTTER_SIDES = (2, 18)  # on the canvas of scaled digits; even numbers, both ends included


class Distorted(NamedTuple):
    """A batch of images as a network is shown them, and how they were distorted."""

    images: jax.Array  # [B, H', W', C], float32 in [0, 1]
    theta: jax.Array  # [B, 2, 3]: the applied transform, from distorted to original positions


Distortion = Callable[[jax.Array, jax.Array, jax.Array], Distorted]


@dataclasses.dataclass(frozen=True)
class Task:
    """A way to show the images of a data set to a network.

    Attributes:
      name: what the command line calls it.
      distort: function of keys ``[B]``, images ``[B, H, W, C]`` uint8 and a pool of training
        images ``[N, H, W, C]`` uint8 (clutter is cut from it) to :class:`Distorted`.
      mnist_statistics: mean and standard deviation of distorted MNIST (paper's code); None for a
        task that shows images as they are.
      aligns: what of a pose the distortion changes: angle, position or scale (see
        :data:`stn_jax.analysis.pose.POSE_COMPONENTS`); None where it changes none.
      positions: how many labels an image has, as an axis of the labels; None for one without it.
      eval_transform: what evaluation does in place of ``distort``; None for the same.
    """

    name: str
    distort: Distortion
    mnist_statistics: tuple[float, float] | None
    aligns: str | None = None
    positions: int | None = None
    eval_transform: Distortion | None = None

    @property
    def distorts(self) -> bool:
        """Whether images are distorted at all, beyond cropping them."""
        return self.mnist_statistics is not None

    def format_label(self, labels: ArrayLike) -> str:
        """One image's label as one writes it, or the number that its labels by position make."""
        if not self.positions:
            return str(int(np.asarray(labels)))
        digits = [str(c) for c in np.asarray(labels) if c != house_numbers.NONE]
        return "".join(digits) or "no digits"

    def shown(self, train: bool) -> Distortion:
        """What training, or evaluation, does to images."""
        return self.distort if train or self.eval_transform is None else self.eval_transform

    def cropped(self, side: int) -> "Task":
        """This task on parts of its images: training on random ones, evaluation on the middle.

        Args:
          side: of the square parts, in pixels.
        """

        def anywhere(key: jax.Array, room: int) -> jax.Array:
            # The key itself may have been used by what made the image.
            return jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, room + 1)

        def middle(key: jax.Array, room: int) -> jax.Array:
            return jnp.full(2, room // 2)

        return dataclasses.replace(
            self,
            distort=_crop_behind(self.shown(True), side, anywhere),
            eval_transform=_crop_behind(self.shown(False), side, middle),
        )

    def with_renderer(self, draw: Callable[[jax.Array, jax.Array], jax.Array]) -> "Task":
        """This task on images that are made when they are shown.

        Args:
          draw: see :class:`stn_jax.data.sources.Source`.
        """

        def drawn(distort: Distortion) -> Distortion:
            return lambda keys, stored, pool: distort(keys, draw(keys, stored), pool)

        return dataclasses.replace(
            self, distort=drawn(self.shown(True)), eval_transform=drawn(self.shown(False))
        )

    def statistics(
        self,
        dataset: str,
        pool: jax.Array | np.ndarray,
        stored: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation that normalise this task's images.

        The published figures for distorted MNIST, and for images as they are those of the training
        split. Otherwise they are measured, per channel, on 4,000 of the training images, shown with
        a fixed key.

        Args:
          dataset: the data set's name.
          pool: its training images ``[N, H, W, C]``, uint8.
          stored: mean and deviation ``[C]`` of all training images as they are, if known.

        Returns:
          Two arrays, scalars or ``[C]``.
        """
        if not self.distorts and stored is not None:
            return jnp.asarray(stored[0]), jnp.asarray(stored[1])
        if self.mnist_statistics and dataset in ("mnist", "mnist_sample"):
            mean, deviation = self.mnist_statistics
            return jnp.float32(mean), jnp.float32(deviation)
        some = pool[:: max(1, len(pool) // 4000)]
        keys = example_keys(jax.random.key(0), jnp.arange(len(some)))
        images = jax.jit(self.distort)(keys, some, pool).images
        return images.mean((0, 1, 2)), images.std((0, 1, 2))


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """A key for each example: ``[B]`` keys from one key and ``[B]`` indices."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def show(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Images as they are; they may be floats from 0 to 1 already."""
    theta = jnp.broadcast_to(affine.identity(), (len(images), 2, 3))
    return Distorted(_to_float(images), theta)


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
    digits = _paste(_to_float(images)[:, None], theta[:, None], canvas, "nearest")
    scraps = _placement(put, CROP_SIDE, canvas)
    clutter = _paste(_crops(pool, which, cut), scraps, canvas, "nearest")
    return Distorted(jnp.minimum(digits + clutter, 1), theta)


def scale(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
    """Rescales each image by a factor 2**U(-1, 2) in the middle of a larger canvas, among clutter.

    The canvas has sides of four times the image's (112 for MNIST's 28), which the largest digit
    fills. The clutter is six squares at random whole-pixel positions, whose sides are uniform among
    the even numbers from 2 to 18 pixels: independent of the image's factor, which they would
    otherwise give away. Each shows a 6x6 crop of a random training image, resized: so the pictures
    have the published mean and deviation. Where things overlap they add up, to 1 at most. Bilinear.
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
    """As :func:`scale`, but with clutter of 6x6 crops that are rescaled by the image's factor."""
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
    """Images rescaled by factors ``[B]`` in the middle of a canvas, and their thetas."""
    large = images.shape[1] * factor
    theta = _placement(jnp.stack([(canvas - large) / 2] * 2, -1), large, canvas)
    return _paste(_to_float(images)[:, None], theta[:, None], canvas, "bilinear"), theta


def _crop_behind(
    distort: Distortion, side: int, corner: Callable[[jax.Array, int], jax.Array]
) -> Distortion:
    """Cuts a square out of what a distortion gives.

    Args:
      distort: what comes before.
      side: of the square, in pixels.
      corner: where it begins, (x, y) in pixels: function of a key and the greatest value.
    """

    def crop(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
        whole, theta = distort(keys, images, pool)
        across = whole.shape[1]
        offsets = jax.vmap(lambda key: corner(key, across - side))(keys)

        def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
            start = (offset[1], offset[0], 0)
            return lax.dynamic_slice(image, start, (side, side, image.shape[-1]))

        part = affine.from_parameters(
            scale=jnp.full((2,), side / across), shift=(2 * offsets + side) / across - 1
        )
        return Distorted(jax.vmap(cut)(whole, offsets), affine.compose(theta, part))

    return crop


def _crops(pool: jax.Array, which: jax.Array, corner: jax.Array) -> jax.Array:
    """Crops ``[B, CROPS, CROP_SIDE, CROP_SIDE, C]`` of pool images ``[B, CROPS]``.

    Args:
      pool: images ``[N, H, W, C]``, uint8.
      which: whose crop it is, ``[B, CROPS]``.
      corner: where it begins, ``[B, CROPS, 2]``, (x, y) in pixels.
    """
    row = corner[..., 1, None, None] + jnp.arange(CROP_SIDE)[:, None]
    column = corner[..., 0, None, None] + jnp.arange(CROP_SIDE)
    return _to_float(pool[which[..., None, None], row, column])


def _paste(
    images: jax.Array, theta: jax.Array, canvas: int, mode: str, padding_mode: str = "zeros"
) -> jax.Array:
    """Warps several images each onto a canvas by thetas that do not turn, and adds them up.

    Such a warp is a product, weights of rows times image times weights of columns, which costs a
    fraction of sampling. The weights are what the sampler makes of one-hot pixels.

    Args:
      images: ``[B, K, H, H, C]``.
      theta: ``[B, K, 2, 3]``, as :func:`_placement` gives them.
      canvas: the canvas's side.
      mode: of the sampling.
      padding_mode: of the sampling, inside the image's outline; outside there is nothing.

    Returns:
      ``[B, canvas, canvas, C]``.
    """
    centres = (2 * jnp.arange(canvas) + 1) / canvas - 1
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
        inside = jnp.abs(scale[..., None] * centres + shift[..., None]) <= 1
        return jnp.where(inside[..., None], sampled, 0)

    return jnp.einsum(
        "bkyi,bkijc,bkxj->byxc", weights(1), images, weights(0), precision=lax.Precision.HIGHEST
    )


def _placement(offset: jax.Array, side: ArrayLike, canvas: int) -> jax.Array:
    """Theta that puts an image of this side at (x, y) pixels from a canvas's corner.

    Args:
      offset: ``[..., 2]``.
      side: ``[...]``, the side that the image has on the canvas.
      canvas: the canvas's side.
    """
    side = jnp.broadcast_to(jnp.asarray(side)[..., None], offset.shape)
    return affine.from_parameters(scale=canvas / side, shift=(canvas - 2 * offset) / side - 1)


def _to_float(images: jax.Array) -> jax.Array:
    scale = 255 if images.dtype == jnp.uint8 else 1
    return images.astype(jnp.float32) / scale


TASKS = {
    task.name: task
    for task in (
        Task("rotated_mnist", rotate, (0.1307, 0.3081), aligns="angle"),
        Task("translated_mnist", translate, (0.0363, 0.1870), aligns="position"),
        Task("scaled_mnist", scale, (0.0414, 0.1751), aligns="scale"),
        Task("svhn", show, None, positions=house_numbers.POSITIONS),
        Task("svhn_cropped", show, None),
    )
}


def make_task(name: str, recipe: str = "published") -> Task:
    """A task by its name, with the distortion of a recipe: see :func:`stn_jax.create_model`."""
    task = TASKS[name]
    if (name, recipe) == ("scaled_mnist", "legacy"):
        return dataclasses.replace(task, distort=scale_legacy)
    return task
