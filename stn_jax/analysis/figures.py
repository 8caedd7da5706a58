"""Pictures of what a network does to its input."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from stn_jax.analysis.pose import orthogonal_regression, spread


class Strip(NamedTuple):
    """A row of pictures and what stands before it."""

    label: str
    pictures: np.ndarray  # [columns, H, W, C] in [0, 1]; one or three channels


class Angles(NamedTuple):
    """Applied and predicted angles of one network, in degrees, counter-clockwise positive."""

    title: str
    applied: np.ndarray  # [N]
    predicted: np.ndarray  # [N]
    labels: np.ndarray  # [N], classes, for the spread


def gallery(images: np.ndarray, aligned: np.ndarray, path: Path, title: str) -> None:
    """Draws rows of inputs, each above what the transformer made of it.

    Args:
      images, aligned: ``[rows, columns, H, W, C]`` in [0, 1]; one or three channels.
      path: the PNG to write.
      title: printed above.
    """
    rows = []
    for before, after in zip(images, aligned, strict=True):
        rows += [Strip("input", before), Strip("aligned", after)]
    strips([(title, rows)], path)


def strips(blocks: Sequence[tuple[str, Sequence[Strip]]], path: Path) -> None:
    """Draws rows of pictures, in blocks one above the other, each with a title.

    Args:
      blocks: titles and rows.
      path: the PNG to write.
    """
    heights = [0.92 * len(rows) + 0.5 for _, rows in blocks]
    width = 0.85 * max(len(rows[0].pictures) for _, rows in blocks) + 0.7
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, rows) in zip(parts, blocks, strict=True):
        axes = part.subplots(len(rows), len(rows[0].pictures), squeeze=False)
        for row, (label, pictures) in zip(axes, rows, strict=True):
            for axis, picture in zip(row, pictures, strict=True):
                shown = picture[..., 0] if picture.shape[-1] == 1 else picture
                axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                for side in axis.spines.values():
                    side.set_visible(False)
            row[0].set_ylabel(label)
        part.suptitle(title)
    _save(figure, path)


def angle_plot(panels: Sequence[Angles], path: Path) -> None:
    """Draws predicted against applied angle as a histogram, with the line nearest to it.

    Args:
      panels: networks, drawn side by side.
      path: the PNG to write.
    """
    figure = Figure(figsize=(4.7 * len(panels) + 0.7, 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    limit, bins = 110, 110
    edges = np.linspace(-limit, limit, bins + 1)
    counts = [np.histogram2d(p.applied, p.predicted, (edges, edges))[0].T for p in panels]
    shades = LogNorm(1, max(2, *(count.max() for count in counts)))
    for axis, count, (title, applied, predicted, labels) in zip(axes, counts, panels, strict=True):
        slope, intercept = orthogonal_regression(applied, predicted)
        shown = np.ma.masked_equal(count, 0)
        mesh = axis.pcolormesh(edges, edges, shown, norm=shades, cmap="viridis")
        ends = np.array([-90.0, 90.0])
        axis.plot(ends, slope * ends + intercept, "r-", linewidth=1.5, label=f"slope {slope:.2f}")
        axis.plot(ends, -ends, "k:", linewidth=1, label="slope -1")
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axis.set(xlabel="applied angle (degrees)")
        off = spread(applied, predicted, labels)
        axis.set_title(f"{title}\nspread {off:.1f} degrees", fontsize=10)
        axis.legend(loc="upper right", fontsize=8)
    axes[0].set_ylabel("predicted angle (degrees)")
    figure.colorbar(mesh, ax=axes, label="test images")
    _save(figure, path)


def digits(images: np.ndarray, aligned: np.ndarray, captions: list[str], path: Path) -> None:
    """Draws a user's digits: what the network saw, and what the transformer made of it.

    Args:
      images, aligned: ``[N, H, W, C]`` in [0, 1].
      captions: one for each.
      path: the PNG to write.
    """
    figure = Figure(figsize=(4.4, 2.3 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 2, squeeze=False)
    for row, caption in zip(range(len(images)), captions, strict=True):
        for axis, picture, name in (
            (axes[row, 0], images[row], "as seen"),
            (axes[row, 1], aligned[row], "aligned"),
        ):
            axis.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], xlabel=name)
        axes[row, 0].set_title(caption, fontsize=9, loc="left")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
