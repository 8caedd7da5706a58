"""A report as one HTML page that needs nothing else: no network, no other file.

Everything on it (style, script, pictures) is in the file, and a content security policy in it
forbids the browser to fetch anything. It reads on a phone and in dark mode.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from stn_jax.analysis.pose import orthogonal_regression, within_class_rms
from stn_jax.report.charts import BOX, density, frame, lines, png


class Tile(NamedTuple):
    """A figure at the top of the page."""

    name: str
    value: str
    note: str = ""


class Curve(NamedTuple):
    """A quantity during training."""

    name: str
    series: Sequence[Sequence[tuple[float, float]]]  # (epoch, value), one series a seed
    log: bool = False


class Sweep(NamedTuple):
    """What a network makes of some images while one distortion runs from end to end."""

    title: str  # "Turn a digit"
    applied: str  # stands before the distortion's value: "Turned by"
    undone: str  # stands before what the network did: "The network turned it by"
    chart: str  # stands above a chart of what the network did, against the distortion
    unit: str
    values: np.ndarray  # [F], rising: the distortion
    labels: Sequence[str]  # [N], what the images show
    inputs: np.ndarray  # [N, F, H, W, C] in [0, 1], what the network sees
    aligned: np.ndarray | None  # [N, F, H', W', C]; None: no transformer
    read: np.ndarray | None  # [N, F], what it did, in the unit
    said: Sequence[Sequence[str]]  # [N][F], what it says they show
    confidence: np.ndarray  # [N, F], with what probability
    ideal: np.ndarray | None  # [F], what a perfect aligner would do; None: not known
    decimals: int = 0
    signed: bool = True  # whether positive values are written with a plus


class Hard(NamedTuple):
    """An image that a network gets wrong."""

    title: str
    note: str
    seen: np.ndarray  # [H, W, C] in [0, 1]
    aligned: np.ndarray | None  # [H', W', C]


class Angles(NamedTuple):
    """Applied and predicted angles, in degrees, and classes: ``[N]`` each."""

    applied: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray


class Report(NamedTuple):
    """What a page says; every text is plain, the page escapes it."""

    title: str
    about: str
    tiles: Sequence[Tile]  # the first is drawn large
    sweep: Sweep
    curves: Sequence[Curve]
    gallery: tuple[np.ndarray, np.ndarray] | None  # [rows, columns, H, W, C]: input, aligned
    angles: Angles | None
    confusion: np.ndarray  # [classes, classes]: rows true, columns predicted
    hardest: Sequence[Hard]
    config: Mapping[str, Any]
    defaults: Mapping[str, Any]  # of the configuration; what differs is set in bold
    made_with: Mapping[str, Any]
    names: Sequence[str]  # of the classes


def render(report: Report) -> str:
    """The page of a report: HTML, complete."""
    sweep = report.sweep
    middle = len(sweep.values) // 2  # the thumbnails show it
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
            angles=_angles(report.angles),
            curves=[
                (name, lines(series, label=name, log=log)) for name, series, log in report.curves
            ],
            confusion=_confusion(report.confusion, report.names),
            hardest=[(case, _pictures(case)) for case in report.hardest],
        )
    )


def environment() -> jinja2.Environment:
    """Templates that escape whatever they are given, but for what is Markup."""
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
    """What the slider runs over, ready for JSON."""
    examples = []
    for i, label in enumerate(sweep.labels):
        example: dict[str, Any] = {
            "label": label,
            "input": png(np.concatenate(sweep.inputs[i])),
            "said": list(sweep.said[i]),
            "confidence": _rounded(sweep.confidence[i], 4),
        }
        if sweep.aligned is not None and sweep.read is not None:
            example["aligned"] = png(np.concatenate(sweep.aligned[i]))
            example["read"] = _rounded(sweep.read[i], 3)
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
    """The lowest and the highest value of the chart of what the network did."""
    if sweep.read is None:
        return None
    finite = sweep.read[np.isfinite(sweep.read)]
    # The ideal line is to be seen whole.
    shown = np.concatenate([finite, [0.0] if sweep.ideal is None else sweep.ideal])
    return float(shown.min()), max(float(shown.max()), float(shown.min()) + 1e-3)


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Numbers ready for JSON; None where one is not finite."""
    return [round(float(x), digits) if np.isfinite(x) else None for x in values]


def _gallery(pair: tuple[np.ndarray, np.ndarray] | None) -> list[tuple[str, int, str]]:
    """For each row its name, the number of images, and these side by side."""
    return [
        (name, len(pictures), png(np.concatenate(list(pictures), axis=1)))
        for rows in zip(*(pair or ()), strict=True)
        for name, pictures in zip(("input", "aligned"), rows, strict=True)
    ]


def _angles(angles: Angles | None) -> dict[str, Any] | None:
    if angles is None:
        return None
    slope, intercept = orthogonal_regression(angles.applied, angles.predicted)
    chart = density(
        angles.applied,
        angles.predicted,
        limit=110,
        line=(slope, intercept),
        labels=("applied angle (degrees)", "predicted angle (degrees)"),
        label="predicted against applied angle",
    )
    return {"slope": slope, "rms": within_class_rms(*angles), "chart": chart}


def _confusion(counts: np.ndarray, names: Sequence[str]) -> list[list[dict[str, Any] | None]]:
    """The cells by row; None where nothing was counted."""
    totals = counts.sum(1)
    off = counts - np.diag(np.diag(counts))
    most = max(1e-9, (off / np.maximum(totals, 1)[:, None]).max())

    def cell(i: int, j: int) -> dict[str, Any] | None:
        if not counts[i, j]:
            return None
        share = counts[i, j] / totals[i]
        return {
            "kind": "hit" if i == j else "miss",
            "shade": share if i == j else share / most,
            "title": f"{names[i]} read as {names[j]}: {counts[i, j]:,} of {totals[i]:,}",
            "percent": _percent(share),
        }

    return [[cell(i, j) for j in range(len(names))] for i in range(len(names))]


def _percent(share: float) -> str:
    """A share in percent, short enough for a cell on a phone."""
    percent = 100 * share
    if percent < 0.1:
        return "<.1"
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"


def _pictures(case: Hard) -> list[tuple[str, str]]:
    pictures = {"input": case.seen, "aligned": case.aligned}
    return [(name, png(image)) for name, image in pictures.items() if image is not None]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "(none)" if value in ("", None) else str(value)
