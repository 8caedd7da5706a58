"""Galleries of test images: network inputs and the transformer's outputs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.distortions import example_keys
from stn_jax.training.evaluation import TEST_KEY, Predictions, angles_of
from stn_jax.training.hooks import Hooks
from stn_jax.training.run import Run
from stn_jax.training.step import distorted_batch
from stn_jax.training.workdir import Workdir


class DrawFigures(Hooks):
    """Draws the first seed's gallery and angle plot at the end of a training."""

    def draw(self, run: Run, params: Any, predictions: Predictions, workdir: Workdir) -> None:
        """Writes ``gallery.png`` and ``angles.png``; prints a note if matplotlib is missing."""
        if predictions.theta is None:
            return
        try:
            from stn_jax.report import figures
        except ModuleNotFoundError as error:
            print(f"no figures: {str(error.name).partition('.')[0]} is not installed", flush=True)
            return
        own = jax.tree.map(lambda x: x[0], params)
        title = _title(run)
        figures.gallery(*gallery(run, own), workdir.figures / "gallery.png", title)
        if run.task.aligns == "angle":
            panel = figures.Angles(title, *angles_of(predictions, 0, run.input_shape()[:2]))
            figures.angle_plot([panel], workdir.figures / "angles.png")


def _title(run: Run) -> str:
    config = run.config
    family = "" if config.transform == "affine" else f" ({config.transform})"
    return f"{config.variant}{family} on {config.task} ({config.dataset})"


def gallery(run: Run, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Test images as network inputs, and the transformer's outputs.

    If the task distorts images: one of each class with several distortions; otherwise many
    different images.

    Args:
      run: the trained run.
      params: parameters of one seed.

    Returns:
      Two arrays ``[rows, columns, H, W, C]`` in [0, 1].
    """
    if run.task.distorts:
        return render_samples(run, params, first_of_each_class(run.test.labels, run.test.images))
    rows = [
        render_samples(run, params, run.test.images[i : i + 10], repeats=1)
        for i in range(0, 40, 10)
    ]
    rows = [row for row in rows if row[0].shape[1] == 10] or rows[:1]
    before, after = (np.concatenate(each) for each in zip(*rows, strict=True))
    return before, after


def first_of_each_class(labels: np.ndarray, images: np.ndarray, columns: int = 10) -> np.ndarray:
    """The first image of each class, for up to ``columns`` classes: ``[columns, H, W, C]``."""
    classes = np.unique(labels)[:columns]
    return images[[int(np.flatnonzero(labels == c)[0]) for c in classes]]


def render_samples(run: Run, params: Any, images: np.ndarray, repeats: int = 4) -> tuple[Any, Any]:
    """Distorts each image several times, the same for all networks, and aligns the results.

    Args:
      run: the trained run.
      params: parameters of one seed.
      images: ``[N, H, W, C]``, uint8.
      repeats: number of distortions of each image.

    Returns:
      Distorted and aligned images, two arrays ``[repeats, N, H', W', C]`` in [0, 1].
    """
    count = len(images)
    keys = example_keys(jax.random.key(TEST_KEY + 1), jnp.arange(repeats * count))
    tiled = np.concatenate([images] * repeats)
    distort = functools.partial(distorted_batch, run.task, train=False)
    inputs, _ = jax.jit(distort)(run.data, keys, tiled)
    _, details = run.apply(params, inputs)
    pair = run.denormalize(inputs), run.aligned(inputs, details)
    before, after = (x.reshape(repeats, count, *x.shape[1:]) for x in pair)
    return before, after
