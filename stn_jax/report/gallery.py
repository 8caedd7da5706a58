"""Galleries of test images: network inputs and the transformer's outputs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.distortions import example_keys
from stn_jax.models import Intermediates
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
            names, shape = run.transformer_names, run.input_shape()[:2]
            panels = [
                figures.Angles(
                    title if len(names) == 1 else f"{title}: {name}",
                    *angles_of(predictions, 0, shape, i),
                )
                for i, name in enumerate(names)
            ]
            figures.angle_plot(panels, workdir.figures / "angles.png")


def _title(run: Run) -> str:
    config = run.config
    family = "" if config.transform == "affine" else f" ({config.transform})"
    return f"{config.variant}{family} on {config.task} ({config.dataset})"


def gallery(run: Run, params: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Test images as network inputs, and the transformers' outputs.

    If the task distorts images: one of each class with several distortions; otherwise many
    different images.

    Args:
      run: the trained run.
      params: parameters of one seed.

    Returns:
      The inputs ``[rows, columns, H, W, C]`` in [0, 1], and the outputs, see
      :func:`render_samples`.
    """
    if run.task.distorts:
        return render_samples(run, params, first_of_each_class(run.test.labels, run.test.images))
    rows = [
        render_samples(run, params, run.test.images[i : i + 10], repeats=1)
        for i in range(0, 40, 10)
    ]
    rows = [row for row in rows if row[0].shape[1] == 10] or rows[:1]
    before, after = zip(*rows, strict=True)
    return np.concatenate(before), {
        name: np.concatenate([views[name] for views in after]) for name in after[0]
    }


def first_of_each_class(labels: np.ndarray, images: np.ndarray, columns: int = 10) -> np.ndarray:
    """The first image of each class, for up to ``columns`` classes: ``[columns, H, W, C]``."""
    classes = np.unique(labels)[:columns]
    return images[[int(np.flatnonzero(labels == c)[0]) for c in classes]]


def render_samples(
    run: Run, params: Any, images: np.ndarray, repeats: int = 4
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Distorts each image several times, the same for all networks, and aligns the results.

    Args:
      run: the trained run.
      params: parameters of one seed.
      images: ``[N, H, W, C]``, uint8.
      repeats: number of distortions of each image.

    Returns:
      Distorted images, ``[repeats, N, H, W, C]`` in [0, 1]; and the transformers' outputs,
      ``[repeats, N, H', W', C]`` by name, see :func:`aligned_views`.
    """
    count = len(images)
    keys = example_keys(jax.random.key(TEST_KEY + 1), jnp.arange(repeats * count))
    tiled = np.concatenate([images] * repeats)
    distort = functools.partial(distorted_batch, run.task, train=False)
    inputs, _ = jax.jit(distort)(run.data, keys, tiled)
    _, details = run.apply(params, inputs)
    before, views = run.denormalize(inputs), aligned_views(run, inputs, details)
    return before.reshape(repeats, count, *before.shape[1:]), {
        name: view.reshape(repeats, count, *view.shape[1:]) for name, view in views.items()
    }


def aligned_views(run: Run, inputs: jax.Array, details: Intermediates) -> dict[str, np.ndarray]:
    """:meth:`Run.views`, where the only view of a single transformer is named "aligned"."""
    views = run.views(inputs, details)
    return dict(zip(["aligned"], views.values(), strict=True)) if len(views) == 1 else views


def side_by_side(views: dict[str, np.ndarray]) -> np.ndarray | None:
    """Views ``[B, H', W', C]`` in one array, from left to right; None without any.

    Those that are lower are enlarged by whole factors, and the rest is padded with black.
    """
    if not views:
        return None
    tall = max(view.shape[1] for view in views.values())
    columns = []
    for view in views.values():
        view = view.repeat(tall // view.shape[1], 1).repeat(tall // view.shape[1], 2)
        columns.append(np.pad(view, ((0, 0), (0, tall - view.shape[1]), (0, 0), (0, 0))))
    return np.concatenate(columns, 2)
