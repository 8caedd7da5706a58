"""Tasks: how a data set's images are distorted or cropped, at random, and normalized.

Everything here is a pure function of keys and arrays and runs on the device inside jit. Each
example has its own key, so that its distortion does not depend on its batch.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.data import house_numbers
from stn_jax.data.distortions import (
    ANGLE_RANGE,
    AffineRanges,
    Distorted,
    Distortion,
    example_keys,
    random_affine,
    rotate,
    scale,
    scale_legacy,
    translate,
    undistorted,
)
from stn_jax.warp import affine


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: the distortion of a data set's images and the format of their labels.

    Attributes:
      name: its name on the command line.
      distort: function of keys ``[B]``, images ``[B, H, W, C]`` uint8 and a pool of training
        images ``[N, H, W, C]`` uint8 (for clutter) to :class:`Distorted`.
      mnist_statistics: mean and standard deviation of distorted MNIST (paper's code); None for a
        task that is not one of MNIST's.
      aligns: the pose component that the distortion changes: angle, direction (angles on the full
        circle), position or scale (see :data:`stn_jax.analysis.pose.POSE_COMPONENTS`); None if it
        changes none.
      positions: number of labels of an image, an axis of the labels; None for a single label.
      eval_transform: replaces ``distort`` in evaluation; None: the same.
      class_names: names of the classes, for :meth:`format_label`; None: their numbers.
      ranges: what a task for any data set draws its distortion from; None for the other tasks, and
        where it distorts nothing.
      draw: renders the images that are distorted, see :meth:`with_renderer`; None: they are stored.
    """

    name: str
    distort: Distortion
    mnist_statistics: tuple[float, float] | None
    aligns: str | None = None
    positions: int | None = None
    eval_transform: Distortion | None = None
    class_names: tuple[str, ...] | None = None
    ranges: AffineRanges | None = None
    draw: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    @property
    def distorts(self) -> bool:
        """Whether images are distorted, other than by cropping."""
        return self.mnist_statistics is not None or self.ranges is not None

    def format_label(self, labels: ArrayLike) -> str:
        """Formats an image's label, or the house number of its labels, as text."""
        if not self.positions:
            label = int(np.asarray(labels))
            return str(label) if self.class_names is None else self.class_names[label]
        digits = [str(c) for c in np.asarray(labels) if c != house_numbers.NONE]
        return "".join(digits) or "no digits"

    def transform(self, train: bool) -> Distortion:
        """The distortion for training or for evaluation."""
        return self.distort if train or self.eval_transform is None else self.eval_transform

    def cropped(self, side: int) -> "Task":
        """This task with cropping: random crops in training, the central crop in evaluation.

        Args:
          side: side of the square crops, in pixels.
        """

        def random_corner(key: jax.Array, margin: np.ndarray) -> jax.Array:
            # The key itself may have been used to render the image.
            return jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, margin + 1)

        def central_corner(key: jax.Array, margin: np.ndarray) -> jax.Array:
            return jnp.asarray(margin // 2)

        return dataclasses.replace(
            self,
            distort=_crop_after(self.transform(True), side, random_corner),
            eval_transform=_crop_after(self.transform(False), side, central_corner),
        )

    def with_renderer(self, draw: Callable[[jax.Array, jax.Array], jax.Array]) -> "Task":
        """This task on images that are rendered on the fly.

        Args:
          draw: see :class:`stn_jax.data.sources.Source`.
        """

        def rendered(distort: Distortion) -> Distortion:
            return lambda keys, stored, pool: distort(keys, draw(keys, stored), pool)

        return dataclasses.replace(
            self,
            distort=rendered(self.transform(True)),
            eval_transform=rendered(self.transform(False)),
            draw=draw,
        )

    def input_shape(self, pool: jax.Array | np.ndarray) -> tuple[int, int, int]:
        """Height, width and channels of a network's input, for a pool ``[N, ...]`` of images."""
        # From shapes only: slicing an array that is spread over processes takes all of them.
        pool_shape = jax.ShapeDtypeStruct(pool.shape, pool.dtype)
        image = jax.ShapeDtypeStruct((1, *pool.shape[1:]), pool.dtype)
        keys = jax.eval_shape(lambda: jax.random.key(0)[None])
        inputs = jax.eval_shape(self.distort, keys, image, pool_shape)
        _, height, width, channels = inputs.images.shape
        return height, width, channels

    def statistics(
        self,
        dataset: str,
        pool: jax.Array | np.ndarray,
        stored: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation for normalizing this task's images.

        For distorted MNIST the published values, and without distortion those of the training
        split. Otherwise they are measured per channel on 4,000 training images (fewer of more than
        64x64 pixels), distorted with a fixed key. The deviation of a channel that is the same
        everywhere is taken for 1.

        Args:
          dataset: the data set's name.
          pool: its training images ``[N, H, W, C]``, uint8.
          stored: mean and deviation ``[C]`` of all undistorted training images, if known.

        Returns:
          Two arrays, scalars or ``[C]``.
        """
        if not self.distorts and stored is not None:
            return jnp.asarray(stored[0]), _without_zeros(jnp.asarray(stored[1]))
        if self.mnist_statistics and dataset in ("mnist", "mnist_sample"):
            mean, deviation = self.mnist_statistics
            return jnp.float32(mean), jnp.float32(deviation)
        pixels = max(1, math.prod(pool.shape[1:3]))
        most = max(100, min(4000, 4000 * 64**2 // pixels))
        some = pool[:: max(1, len(pool) // most)]
        keys = example_keys(jax.random.key(0), jnp.arange(len(some)))
        images = jax.jit(self.distort)(keys, some, pool).images
        return images.mean((0, 1, 2)), _without_zeros(images.std((0, 1, 2)))


def _without_zeros(deviation: jax.Array) -> jax.Array:
    return jnp.where(deviation == 0, 1, deviation)


def _crop_after(
    distort: Distortion, side: int, corner: Callable[[jax.Array, np.ndarray], jax.Array]
) -> Distortion:
    """A distortion followed by a square crop.

    Args:
      distort: the distortion.
      side: side of the crop, in pixels.
      corner: its top left corner, (x, y) in pixels: function of a key and the maximum ``[2]``.
    """

    def crop(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
        whole, theta = distort(keys, images, pool)
        full = np.array(whole.shape[2:0:-1], np.int32)  # width and height
        offsets = jax.vmap(lambda key: corner(key, full - side))(keys)

        def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
            start = (offset[1], offset[0], 0)
            return lax.dynamic_slice(image, start, (side, side, image.shape[-1]))

        part = affine.from_parameters(
            scale=jnp.asarray(side / full, jnp.float32),
            shift=(2 * offsets + side) / np.float32(full) - 1,
        )
        return Distorted(jax.vmap(cut)(whole, offsets), affine.compose(theta, part))

    return crop


# Of the tasks that distort any data, the parameters that are drawn, and the pose component by
# which alignment is measured.
RANDOM: dict[str, tuple[tuple[str, ...], str | None]] = {
    "rotated": (("angle",), "angle"),
    "translated": (("translation",), "position"),
    "scaled": (("scale",), "scale"),
    "affine": (("angle", "translation", "scale", "shear"), "angle"),
}

# Tasks of MNIST that take a range, and the tasks for any data that draw from it.
RANGED = {"rotated_mnist": "rotated"}


def _with_ranges(name: str, ranges: AffineRanges) -> Task:
    names, aligns = RANDOM[name]
    ranges = ranges.only(*names)
    if aligns == "angle" and ranges.angle == 0:
        aligns = None
    elif aligns == "angle" and ranges.angle >= 180:
        aligns = "direction"
    return Task(name, random_affine(ranges), None, aligns, ranges=ranges)


TASKS = {
    task.name: task
    for task in (
        Task("rotated_mnist", rotate, (0.1307, 0.3081), aligns="angle"),
        Task("translated_mnist", translate, (0.0363, 0.1870), aligns="position"),
        Task("scaled_mnist", scale, (0.0414, 0.1751), aligns="scale"),
        Task("svhn", undistorted, None, positions=house_numbers.POSITIONS),
        Task("svhn_cropped", undistorted, None),
        Task("plain", undistorted, None),
        *(_with_ranges(name, AffineRanges()) for name in RANDOM),
    )
}


def make_task(name: str, recipe: str = "published", ranges: AffineRanges | None = None) -> Task:
    """The task of a name.

    Args:
      name: one of TASKS.
      recipe: of the distortion of scaled_mnist, see :func:`stn_jax.create_model`.
      ranges: of the distortions of the tasks for any data; None: the defaults. rotated_mnist has
        their angle.
    """
    task = TASKS[name]
    if name in RANGED and ranges is not None and ranges.angle != ANGLE_RANGE[1]:
        return dataclasses.replace(_with_ranges(RANGED[name], ranges), name=name)
    if name in RANDOM and ranges not in (None, AffineRanges()):
        return _with_ranges(name, ranges)
    if (name, recipe) == ("scaled_mnist", "legacy"):
        return dataclasses.replace(task, distort=scale_legacy)
    return task
