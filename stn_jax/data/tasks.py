"""Tasks: how a data set's images are distorted (or cropped), afresh each time, and normalised.

Everything here is a pure function of keys and arrays, runs on the device inside jit, and warps
with the project's own warp. Keys are per example, so that what an example looks like depends
neither on the batch that it is in nor on its place there.
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
    show,
    translate,
)
from stn_jax.warp import affine


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
