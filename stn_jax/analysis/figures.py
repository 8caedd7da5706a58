"""Pictures of what a network does to its input."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from stn_jax.analysis.pose import orthogonal_regression, spread


def gallery(images: np.ndarray, aligned: np.ndarray, path: Path, title: str) -> None:
    """Draws rows of inputs, each above what the transformer made of it.

    Args:
      images, aligned: ``[rows, columns, H, W, C]`` in [0, 1]; one or three channels.
      path: the PNG to write.
      title: printed above.
    """
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(0.85 * columns + 0.7, 1.85 * rows + 0.5), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            for offset, picture in enumerate((images[row, column], aligned[row, column])):
                axis = axes[2 * row + offset, column]
                shown = picture[..., 0] if picture.shape[-1] == 1 else picture
                axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                for side in axis.spines.values():
                    side.set_visible(False)
        axes[2 * row, 0].set_ylabel("input")
        axes[2 * row + 1, 0].set_ylabel("aligned")
    figure.suptitle(title)
    _save(figure, path)


def angle_plot(
    applied: np.ndarray, predicted: np.ndarray, labels: np.ndarray, path: Path, title: str
) -> None:
    """Draws predicted against applied angle as a histogram, with the line nearest to it.

    Args:
      applied, predicted: angles ``[N]`` in degrees, counter-clockwise positive.
      labels: classes ``[N]``, for the spread.
      path: the PNG to write.
      title: printed above.
    """
    slope, intercept = orthogonal_regression(applied, predicted)
    limit = 110
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    axis = figure.subplots()
    edges = np.linspace(-limit, limit, 111)
    *_, mesh = axis.hist2d(applied, predicted, bins=(edges, edges), norm=LogNorm(), cmap="viridis")
    figure.colorbar(mesh, ax=axis, label="test images")
    ends = np.array([-90.0, 90.0])
    axis.plot(ends, slope * ends + intercept, "r-", linewidth=1.5, label=f"slope {slope:.2f}")
    axis.plot(ends, -ends, "k:", linewidth=1, label="slope -1")
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axis.set(xlabel="applied angle (degrees)", ylabel="predicted angle (degrees)")
    axis.set_title(f"{title}\nspread {spread(applied, predicted, labels):.1f} degrees", fontsize=10)
    axis.legend(loc="upper right", fontsize=8)
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
