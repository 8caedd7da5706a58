"""A report as a single, self-contained HTML page.

Styles, script and pictures are inside the file, and a content security policy keeps the browser
from fetching anything. The page adapts to phones and dark mode.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from stn_jax.analysis.pose import orthogonal_regression, within_class_rms
from stn_jax.report.charts import BOX, density, frame, lines, png


class Tile(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: str
    note: str = ""


class Curve(NamedTuple):
    """A quantity during training."""

    name: str
    series: Sequence[Sequence[tuple[float, float]]]  # (epoch, value), one series per seed
    log: bool = False


class Sweep(NamedTuple):
    """A network's outputs for some images, at each value of a distortion's parameter."""

    title: str  # "Rotate a digit"
    applied: str  # text before the distortion's value: "Rotated by"
    undone: str  # text before the network's pose: "The network rotated it by"
    chart: str  # caption of the chart of the network's pose against the distortion
    unit: str
    values: np.ndarray  # [F], increasing: the distortion
    labels: Sequence[str]  # [N], true labels
    inputs: np.ndarray  # [N, F, H, W, C] in [0, 1]: the network's inputs
    aligned: np.ndarray | None  # [N, F, H', W', C]; None: no transformer
    pose: np.ndarray | None  # [N, F], the network's pose, in the unit
    predicted: Sequence[Sequence[str]]  # [N][F], predicted labels
    confidence: np.ndarray  # [N, F], their probabilities
    ideal: np.ndarray | None  # [F], the pose of a perfect aligner; None: unknown
    decimals: int = 0
    signed: bool = True  # whether positive values have a plus sign


class Hard(NamedTuple):
    """A misclassified image."""

    title: str
    note: str
    input: np.ndarray  # [H, W, C] in [0, 1]
    aligned: np.ndarray | None  # [H', W', C]


class Angles(NamedTuple):
    """Applied and predicted angles, in degrees, and classes: ``[N]`` each."""

    applied: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    title: str = ""  # which of several transformers


class Report(NamedTuple):
    """The contents of a page. Texts are plain; the page escapes them."""

    title: str
    about: str
    tiles: Sequence[Tile]  # the first is drawn large
    sweep: Sweep
    curves: Sequence[Curve]
    # [rows, columns, H, W, C]: inputs, and aligned by name
    gallery: tuple[np.ndarray, Mapping[str, np.ndarray]] | None
    angles: Sequence[Angles]
    confusion: np.ndarray  # [classes, classes]: rows true, columns predicted
    hardest: Sequence[Hard]
    config: Mapping[str, Any]
    defaults: Mapping[str, Any]  # of the configuration; other values are set in bold
    made_with: Mapping[str, Any]
    names: Sequence[str]  # the classes' names
    warnings: Sequence[str] = ()  # of a network that did not learn


def render(report: Report) -> str:
    """Renders a report as a complete HTML page."""
    sweep = report.sweep
    middle = len(sweep.values) // 2  # shown by the thumbnails
    extent = _extent(sweep)
    return (
        environment()
        .get_template("page.html")
        .render(
            report=report,
            thumbnails=[png(images[middle]) for images in sweep.inputs],
            data=_sweep_data(sweep, extent),
            trace=extent
            and frame(
                sweep.values, extent, sweep.ideal, label=sweep.chart, decimals=sweep.decimals
            ),
            gallery=_gallery(report.gallery),
            angles=[_angles(each) for each in report.angles],
            curves=[
                (name, lines(series, label=name, log=log)) for name, series, log in report.curves
            ],
            confusion=_confusion(report.confusion, report.names),
            hardest=[(case, _pictures(case)) for case in report.hardest],
        )
    )


def environment() -> jinja2.Environment:
    """Templates that escape everything except Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = _shown
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment


def _sweep_data(sweep: Sweep, extent: tuple[float, float] | None) -> dict[str, Any]:
    """The data of the slider, JSON-serializable."""
    examples = []
    for i, label in enumerate(sweep.labels):
        example: dict[str, Any] = {
            "label": label,
            "input": png(np.concatenate(sweep.inputs[i])),
            "predicted": list(sweep.predicted[i]),
            "confidence": _rounded(sweep.confidence[i], 4),
        }
        if sweep.aligned is not None and sweep.pose is not None:
            example["aligned"] = png(np.concatenate(sweep.aligned[i]))
            example["pose"] = _rounded(sweep.pose[i], 3)
        examples.append(example)
    return {
        "applied": sweep.applied,
        "undone": sweep.undone,
        "unit": sweep.unit,
        "digits": sweep.decimals,
        "signed": sweep.signed,
        "values": _rounded(sweep.values, 4),
        "trace": BOX,
        "range": extent,
        "examples": examples,
    }


def _extent(sweep: Sweep) -> tuple[float, float] | None:
    """The range of the chart of the network's pose; None without a transformer."""
    if sweep.pose is None:
        return None
    finite = sweep.pose[np.isfinite(sweep.pose)]
    # The whole ideal line should be visible.
    shown = np.concatenate([finite, [0.0] if sweep.ideal is None else sweep.ideal])
    return float(shown.min()), max(float(shown.max()), float(shown.min()) + 1e-3)


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Numbers for JSON; None replaces those that are not finite."""
    return [round(float(x), digits) if np.isfinite(x) else None for x in values]


def _gallery(
    pair: tuple[np.ndarray, Mapping[str, np.ndarray]] | None,
) -> list[tuple[str, int, str]]:
    """For each row: its name, the number of images, and a PNG of them side by side."""
    if pair is None:
        return []
    pictures = {"input": pair[0], **pair[1]}
    return [
        (name, len(images), png(np.concatenate(list(images), axis=1)))
        for rows in zip(*pictures.values(), strict=True)
        for name, images in zip(pictures, rows, strict=True)
    ]


def _angles(angles: Angles) -> dict[str, Any]:
    slope, intercept = orthogonal_regression(angles.applied, angles.predicted)
    chart = density(
        angles.applied,
        angles.predicted,
        limit=110,
        line=(slope, intercept),
        labels=("applied angle (degrees)", "predicted angle (degrees)"),
        label="predicted against applied angle",
    )
    rms = within_class_rms(*angles[:3])
    return {"title": angles.title, "slope": slope, "rms": rms, "chart": chart}


def _confusion(counts: np.ndarray, names: Sequence[str]) -> list[list[dict[str, Any] | None]]:
    """The cells by row; None for a count of 0."""
    totals = counts.sum(1)
    off = counts - np.diag(np.diag(counts))
    most = max(1e-9, (off / np.maximum(totals, 1)[:, None]).max())

    def cell(i: int, j: int) -> dict[str, Any] | None:
        if not counts[i, j]:
            return None
        fraction = counts[i, j] / totals[i]
        return {
            "kind": "hit" if i == j else "miss",
            "shade": fraction if i == j else fraction / most,
            "title": f"{names[i]} predicted as {names[j]}: {counts[i, j]:,} of {totals[i]:,}",
            "percent": _percent(fraction),
        }

    return [[cell(i, j) for j in range(len(names))] for i in range(len(names))]


def _percent(fraction: float) -> str:
    """A fraction in percent, short enough for a cell on a phone."""
    percent = 100 * fraction
    if percent < 0.1:
        return "<.1"
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"


def _pictures(case: Hard) -> list[tuple[str, str]]:
    pictures = {"input": case.input, "aligned": case.aligned}
    return [(name, png(image)) for name, image in pictures.items() if image is not None]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "(none)" if value in ("", None) else str(value)
