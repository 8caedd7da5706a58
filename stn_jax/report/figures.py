"""Figures drawn with matplotlib: aligned images, angles, equivariance."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from stn_jax.analysis.edge_filters import edge_maps, letter_w
from stn_jax.analysis.equivariance import EquivarianceError, compare, rotations
from stn_jax.analysis.pose import orthogonal_regression, within_class_rms
from stn_jax.files import atomic_write
from stn_jax.warp import affine_transform


class Strip(NamedTuple):
    """A row of images with a label on its left."""

    label: str
    pictures: np.ndarray  # [columns, H, W, C] in [0, 1]; one or three channels


class Angles(NamedTuple):
    """Applied and predicted angles of one network, in degrees, counter-clockwise positive."""

    title: str
    applied: np.ndarray  # [N]
    predicted: np.ndarray  # [N]
    labels: np.ndarray  # [N], classes, for the within-class RMS


def gallery(
    images: np.ndarray, aligned: np.ndarray | Mapping[str, np.ndarray], path: Path, title: str
) -> None:
    """Draws rows of input images, each above a row of the transformer's outputs.

    Args:
      images: ``[rows, columns, H, W, C]`` in [0, 1]; one or three channels.
      aligned: the same of the outputs; of several transformers, by name.
      path: the PNG to write.
      title: the figure's title.
    """
    named = aligned if isinstance(aligned, Mapping) else {"aligned": aligned}
    pictures = {"input": images, **named}
    by_row = zip(*pictures.values(), strict=True)
    rows = [Strip(*each) for row in by_row for each in zip(pictures, row, strict=True)]
    strips([(title, rows)], path)


def strips(blocks: Sequence[tuple[str, Sequence[Strip]]], path: Path) -> None:
    """Draws rows of images in blocks, one above the other, each with a title.

    Args:
      blocks: title and rows of each block.
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
                _show(axis, picture)
                axis.set(xticks=[], yticks=[])
                for side in axis.spines.values():
                    side.set_visible(False)
            row[0].set_ylabel(label)
        part.suptitle(title)
    _save(figure, path)


def angle_plot(panels: Sequence[Angles], path: Path) -> None:
    """Draws predicted against applied angles as 2D histograms with fitted lines.

    Args:
      panels: one for each network, drawn side by side.
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
        rms = within_class_rms(applied, predicted, labels)
        axis.set_title(f"{title}\nwithin-class RMS {rms:.1f} degrees", fontsize=10)
        axis.legend(loc="upper right", fontsize=8)
    axes[0].set_ylabel("predicted angle (degrees)")
    figure.colorbar(mesh, ax=axes, label="test images")
    _save(figure, path)


def w_and_m(path: Path, side: int = 64) -> None:
    """Draws Figure 1 of arXiv 2001.05858: rotating feature maps cannot align them.

    Rows: a W and its feature maps (of edge filters); the W rotated by 180 degrees, an M, and its
    maps; both rotated back. The image is then the W again; the maps have its edges in the channels
    of the opposite direction.

    Args:
      path: the PNG to write.
      side: side of the image, in pixels.
    """
    image, theta = letter_w(side)[None], rotations([180.0]).thetas[0]
    features: dict[str, Callable] = {"image": lambda x: x}
    for i, end in enumerate(("right", "top", "left", "bottom")):
        features[f"brighter to the {end}"] = lambda x, i=i: edge_maps(x)[..., i : i + 1]
    sides = compare(features, image, theta)
    turned = affine_transform(image, theta)
    maps = [each.maps for each in sides.values()]
    turned_maps = [feature(turned) for feature in features.values()]
    returned = [each.returned for each in sides.values()]
    rows = {
        "original\n$f$ and $\\Gamma f$": maps,
        "rotated by 180\N{DEGREE SIGN}\n$T_g f$ and $\\Gamma T_g f$": turned_maps,
        "rotated back\n$T_g^{-1}T_g f$ and $T_g^{-1}\\Gamma T_g f$": returned,
    }
    inks = ["white", "#4da3ff", "#ffb000", "#ff5c77", "#3ecf8e"]
    brightest = [1] + 4 * [max(float(each.max()) for each in maps[1:])]
    figure = Figure(figsize=(9.6, 6.5), layout="constrained")
    axes = figure.subplots(len(rows), len(features))
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, each, ink, top in zip(line, pictures, inks, brightest, strict=True):
            shades = LinearSegmentedColormap.from_list(ink, ["black", ink])
            axis.imshow(each[0, ..., 0], cmap=shades, vmin=0, vmax=top, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    for first, last, (name, each) in zip(axes[0], axes[-1], sides.items(), strict=True):
        first.set_title(name, fontsize=10)
        last.set_xlabel(f"relative error {each.error[0]:.2f}", fontsize=9)
    figure.suptitle(
        "Rotated back, the image is restored; its feature maps are not: "
        r"$T_g^{-1}\,\Gamma\,T_g f \neq \Gamma f$"
    )
    _save(figure, path)


def equivariance_plot(
    results: Mapping[str, Mapping[str, EquivarianceError]], path: Path, title: str
) -> None:
    """Draws the equivariance error of feature maps by depth.

    One panel for each family of transformations, one line for each network: the median over
    transformations and images, with the middle 80 % as a bar; dotted, the error caused by two
    interpolations alone. Depths without valid positions are omitted.

    Args:
      results: by network and by the family's name; all networks have the same families.
      path: the PNG to write.
      title: the figure's title.
    """
    families = list(next(iter(results.values())))
    figure = Figure(figsize=(3.6 * len(families) + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axis, family in zip(axes, families, strict=True):
        for i, (network, by_family) in enumerate(results.items()):
            result = by_family[family]
            # Side by side, so that bars do not cover each other.
            x = np.arange(len(result.depths)) + 0.08 * (i - (len(results) - 1) / 2)
            low, middle, high = _quantiles(result.error)
            axis.errorbar(
                x,
                middle,
                (middle - low, high - middle),
                color=f"C{i}",
                marker="o",
                capsize=3,
                label=network,
            )
            interpolation = _quantiles(result.resampling)[1]
            axis.plot(x, interpolation, ":", color=f"C{i}", marker=".", zorder=1)
        axis.set(title=family, xlabel="depth")
        depths = max((each[family].depths for each in results.values()), key=len)
        axis.set_xticks(range(len(depths)), depths)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel(r"$\|T_g^{-1}\Gamma T_g f - \Gamma f\|\;/\;\|\Gamma f\|$")
    axes[0].plot([], [], "k:", marker=".", label="interpolation alone")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def _quantiles(values: np.ndarray) -> np.ndarray:
    """The 10th, 50th and 90th percentiles ``[3, D]`` of ``[D, ...]``; NaN where all are NaN."""
    by_depth = [each[np.isfinite(each)] for each in values]
    return np.transpose(
        [np.quantile(each, (0.1, 0.5, 0.9)) if each.size else [np.nan] * 3 for each in by_depth]
    )


class Source(Protocol):
    """The source of an image, such as a :class:`stn_jax.data.photographs.Reading`."""

    @property
    def box(self) -> tuple[float, float, float, float]: ...  # left, top, right, bottom in pixels
    @property
    def thumbnail(self) -> np.ndarray: ...  # [h, w, 3], uint8
    @property
    def shape(self) -> tuple[int, int]: ...  # of the whole file's image, in pixels


def pictures(
    images: np.ndarray,
    aligned: np.ndarray,
    captions: Sequence[str],
    path: Path,
    outlines: np.ndarray | None = None,
    *,
    sources: Sequence[Source],
) -> None:
    """Draws a user's images, the network's inputs and the transformer's outputs, side by side.

    Args:
      images, aligned: ``[N, H, W, C]`` in [0, 1]; one or three channels.
      captions: one for each image.
      path: the PNG to write.
      outlines: ``[N, points, 2]``, lines to draw over the inputs, such as the outlines of the
        transformer's sampling grids: (x, y), from -1 to 1 between the image's outer edges.
      sources: the files' images.
    """
    figure = Figure(figsize=(6.6, 2.4 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 3, squeeze=False)
    for row, (caption, source) in enumerate(zip(captions, sources, strict=True)):
        file, before, after = axes[row]
        height, width = source.shape
        left, top, right, bottom = source.box
        file.imshow(source.thumbnail, extent=(0, width, height, 0))
        file.plot(
            [left, right, right, left, left], [top, top, bottom, bottom, top], color="tab:orange"
        )
        _show(before, images[row])
        _show(after, aligned[row])
        names = ("the image file", "the network's input", "aligned")
        for axis, name in zip(axes[row], names, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(name, fontsize=8)
        if outlines is not None:
            size = np.array(images.shape[2:0:-1])
            x, y = ((outlines[row] + 1) / 2 * size - 0.5).T
            before.plot(x, y, color="tab:orange", scalex=False, scaley=False)
        # A file name may hold a dollar sign, and bytes that the locale cannot decode.
        caption = caption.encode(errors="surrogateescape").decode(errors="replace")
        caption = "\n".join(textwrap.wrap(caption, 90))
        file.set_title(caption, fontsize=8, loc="left", parse_math=False)
    _save(figure, path)


def _show(axis: Axes, picture: np.ndarray) -> None:
    """Draws an image ``[H, W, C]`` in [0, 1], with one to four channels, pixel by pixel."""
    shown = picture[..., 0] if picture.shape[-1] <= 2 else picture
    axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=120)
