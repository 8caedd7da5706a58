"""Tasks: how a data set's images are distorted or cropped, at random, and normalized.

Everything here is a pure function of keys and arrays and runs on the device inside jit. Each
example has its own key, so that its distortion does not depend on its batch.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stn_jax.data import house_numbers
from stn_jax.data.distortions import (
    Distorted,
    Distortion,
    example_keys,
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
        task without distortion.
      aligns: the pose component that the distortion changes: angle, position or scale (see
        :data:`stn_jax.analysis.pose.POSE_COMPONENTS`); None if it changes none.
      positions: number of labels of an image, an axis of the labels; None for a single label.
      eval_transform: replaces ``distort`` in evaluation; None: the same.
    """

    name: str
    distort: Distortion
    mnist_statistics: tuple[float, float] | None
    aligns: str | None = None
    positions: int | None = None
    eval_transform: Distortion | None = None

    @property
    def distorts(self) -> bool:
        """Whether images are distorted, other than by cropping."""
        return self.mnist_statistics is not None

    def format_label(self, labels: ArrayLike) -> str:
        """Formats an image's label, or the house number of its labels, as text."""
        if not self.positions:
            return str(int(np.asarray(labels)))
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

        def random_corner(key: jax.Array, margin: int) -> jax.Array:
            # The key itself may have been used to render the image.
            return jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, margin + 1)

        def central_corner(key: jax.Array, margin: int) -> jax.Array:
            return jnp.full(2, margin // 2)

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
        )

    def statistics(
        self,
        dataset: str,
        pool: jax.Array | np.ndarray,
        stored: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation for normalizing this task's images.

        For distorted MNIST the published values, and without distortion those of the training
        split. Otherwise they are measured per channel on 4,000 training images, distorted with a
        fixed key.

        Args:
          dataset: the data set's name.
          pool: its training images ``[N, H, W, C]``, uint8.
          stored: mean and deviation ``[C]`` of all undistorted training images, if known.

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


def _crop_after(
    distort: Distortion, side: int, corner: Callable[[jax.Array, int], jax.Array]
) -> Distortion:
    """A distortion followed by a square crop.

    Args:
      distort: the distortion.
      side: side of the crop, in pixels.
      corner: its top left corner, (x, y) in pixels: function of a key and the maximum.
    """

    def crop(keys: jax.Array, images: jax.Array, pool: jax.Array) -> Distorted:
        whole, theta = distort(keys, images, pool)
        full = whole.shape[1]
        offsets = jax.vmap(lambda key: corner(key, full - side))(keys)

        def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
            start = (offset[1], offset[0], 0)
            return lax.dynamic_slice(image, start, (side, side, image.shape[-1]))

        part = affine.from_parameters(
            scale=jnp.full((2,), side / full), shift=(2 * offsets + side) / full - 1
        )
        return Distorted(jax.vmap(cut)(whole, offsets), affine.compose(theta, part))

    return crop


TASKS = {
    task.name: task
    for task in (
        Task("rotated_mnist", rotate, (0.1307, 0.3081), aligns="angle"),
        Task("translated_mnist", translate, (0.0363, 0.1870), aligns="position"),
        Task("scaled_mnist", scale, (0.0414, 0.1751), aligns="scale"),
        Task("svhn", undistorted, None, positions=house_numbers.POSITIONS),
        Task("svhn_cropped", undistorted, None),
    )
}


def make_task(name: str, recipe: str = "published") -> Task:
    """The task of a name, with the distortion of a recipe: see :func:`stn_jax.create_model`."""
    task = TASKS[name]
    if (name, recipe) == ("scaled_mnist", "legacy"):
        return dataclasses.replace(task, distort=scale_legacy)
    return task
