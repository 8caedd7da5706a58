"""Test images as a network saw them, above what its transformer made of them."""

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
        """Writes ``gallery.png`` and ``angles.png``; says so where matplotlib is missing."""
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
            panel = figures.Angles(title, *angles_of(predictions, 0, run.seen_shape()[:2]))
            figures.angle_plot([panel], workdir.figures / "angles.png")


def _title(run: Run) -> str:
    config = run.config
    family = "" if config.transform == "affine" else f" ({config.transform})"
    return f"{config.variant}{family} on {config.task} ({config.dataset})"


def gallery(run: Run, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Test images as a network saw them, and what its transformer made of them.

    Where the task distorts, one of each class in several distortions, else many different ones.

    Args:
      run: what was trained.
      params: its parameters, those of one seed.

    Returns:
      Two arrays ``[rows, columns, H, W, C]`` in [0, 1].
    """
    if run.task.distorts:
        return render_samples(run, params, first_of_each_class(run.test.labels, run.test.images))
    rows = [
        render_samples(run, params, run.test.images[i : i + 10], turns=1) for i in range(0, 40, 10)
    ]
    rows = [row for row in rows if row[0].shape[1] == 10] or rows[:1]
    before, after = (np.concatenate(each) for each in zip(*rows, strict=True))
    return before, after


def first_of_each_class(labels: np.ndarray, images: np.ndarray, columns: int = 10) -> np.ndarray:
    """One image of each of the first classes: ``[columns, H, W, C]``."""
    classes = np.unique(labels)[:columns]
    return images[[int(np.flatnonzero(labels == c)[0]) for c in classes]]


def render_samples(run: Run, params: Any, images: np.ndarray, turns: int = 4) -> tuple[Any, Any]:
    """Several distortions of each image, the same for all networks, and what one makes of them.

    Args:
      run: what was trained.
      params: its parameters, those of one seed.
      images: ``[N, H, W, C]``, uint8.
      turns: how many distortions of each.

    Returns:
      Two arrays ``[turns, N, H', W', C]`` in [0, 1].
    """
    count = len(images)
    keys = example_keys(jax.random.key(TEST_KEY + 1), jnp.arange(turns * count))
    tiled = np.concatenate([images] * turns)
    show = functools.partial(distorted_batch, run.task, train=False)
    seen, _ = jax.jit(show)(run.data, keys, tiled)
    _, details = run.apply(params, seen)
    pair = run.denormalize(seen), run.aligned(seen, details)
    first, second = (x.reshape(turns, count, *x.shape[1:]) for x in pair)
    return first, second
