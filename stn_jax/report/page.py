"""A report as one HTML page that needs nothing else: no network, no other file.

Everything on it (style, script, pictures) is in the file, and a content security policy in it
forbids the browser to fetch anything. It reads on a phone and in dark mode.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from stn_jax.analysis.pose import orthogonal_regression, within_class_rms
from stn_jax.report.charts import density, lines, png

_TEMPLATE = Path(__file__).with_name("page.html")


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
    sections = [
        _tiles(report.tiles),
        _sweep(report.sweep),
        _gallery(report.gallery) if report.gallery is not None else "",
        _angles(report.angles) if report.angles is not None else "",
        _curves(report.curves),
        _confusion(report.confusion, report.names),
        _hardest(report.hardest),
        _facts(report),
    ]
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(report.title),
        about=html.escape(report.about),
        sections="\n".join(each for each in sections if each),
    )


def _tiles(tiles: Sequence[Tile]) -> str:
    parts = []
    for i, (name, value, note) in enumerate(tiles):
        below = f'<span class="note">{html.escape(note)}</span>' if note else ""
        parts.append(
            f'<div class="tile{"" if i else " main"}"><span class="note">{html.escape(name)}</span>'
            f"<b>{html.escape(value)}</b>{below}</div>"
        )
    return f'<div class="tiles">{"".join(parts)}</div>'


_TRACE = {"left": 44, "top": 8, "width": 306, "height": 150}  # of a box of 360 by 190


def _sweep(sweep: Sweep) -> str:
    # The thumbnails show the middle; what opens is distorted, so that there is something to see.
    middle, start = len(sweep.values) // 2, len(sweep.values) * 3 // 4
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
    extent = None
    if sweep.read is not None:
        finite = sweep.read[np.isfinite(sweep.read)]
        # The ideal line is to be seen whole.
        shown = np.concatenate([finite, [0.0] if sweep.ideal is None else sweep.ideal])
        extent = [float(shown.min()), max(float(shown.max()), float(shown.min()) + 1e-3)]
    data = {
        "applied": sweep.applied,
        "undone": sweep.undone,
        "unit": sweep.unit,
        "digits": sweep.decimals,
        "signed": sweep.signed,
        "values": _rounded(sweep.values, 4),
        "trace": _TRACE,
        "range": extent,
        "examples": examples,
    }
    height, width = sweep.inputs.shape[2:4]
    views = [f"<figure>{_canvas('input', width, height)}<figcaption>input</figcaption></figure>"]
    if sweep.aligned is not None:
        height, width = sweep.aligned.shape[2:4]
        views.append(
            f"<figure>{_canvas('aligned', width, height)}<figcaption>aligned</figcaption></figure>"
        )
    thumbs = "".join(
        f'<button type="button" aria-pressed="false" aria-label="{html.escape(label)}">'
        f'<img src="{png(image[middle])}" alt=""></button>'
        for label, image in zip(sweep.labels, sweep.inputs, strict=True)
    )
    # JSON inside a script element: the one thing that could end it early is "</".
    store = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    lone = "" if sweep.aligned is not None else " lone"
    return f"""<section><h2>{html.escape(sweep.title)}</h2>
<div class="digits">{thumbs}</div>
<div class="pair{lone}">{"".join(views)}</div>
<div class="control"><button type="button" id="sweep-play" disabled>Play</button>
<input type="range" id="sweep" min="0" max="{len(sweep.values) - 1}" value="{start}" disabled
 aria-label="{html.escape(sweep.applied)}"></div>
<output id="sweep-said" for="sweep"></output>
{_trace(sweep, extent)}
<noscript><p class="muted">The slider needs JavaScript; all else does not.</p></noscript>
<script type="application/json" id="sweep-data">{store}</script></section>"""


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Numbers ready for JSON; None where one is not finite."""
    return [round(float(x), digits) if np.isfinite(x) else None for x in values]


def _canvas(name: str, width: int, height: int) -> str:
    return f'<canvas id="sweep-{name}" width="{width}" height="{height}"></canvas>'


def _trace(sweep: Sweep, extent: list[float] | None) -> str:
    """The frame of the chart of what the network did; the script draws the line in it."""
    if extent is None:
        return ""
    left, top, width, height = (_TRACE[k] for k in ("left", "top", "width", "height"))
    parts = []
    # As many digits as tell one line from the next.
    decimals = max(sweep.decimals, math.ceil(-math.log10((extent[1] - extent[0]) / 4)))
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = extent[0] + share * (extent[1] - extent[0])
        y = top + (1 - share) * height
        parts.append(f'<path class="grid" d="M{left} {y}h{width}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4}" class="end">{value:.{decimals}f}</text>')
        value = sweep.values[0] + share * (sweep.values[-1] - sweep.values[0])
        x = left + share * width
        parts.append(f'<text x="{x}" y="{top + height + 16}" class="mid">{value:.3g}</text>')
    if sweep.ideal is not None:
        across = left + width * np.linspace(0, 1, len(sweep.ideal))
        up = top + height * (extent[1] - sweep.ideal) / (extent[1] - extent[0])
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(across, up, strict=True))
        parts.append(f'<path class="ideal" d="M{path}"/>')
    parts.append('<path id="trace-curve" class="curve" d=""/>')
    parts.append('<circle id="trace-mark" class="dot" r="5"/>')
    label = html.escape(sweep.chart)
    return (
        f'<figure class="trace"><figcaption>{label}</figcaption><svg viewBox="0 0 360 190" '
        f'role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


def _gallery(pair: tuple[np.ndarray, np.ndarray]) -> str:
    rows = []
    for before, after in zip(*pair, strict=True):
        for name, pictures in (("input", before), ("aligned", after)):
            image = png(_side_by_side(pictures))
            rows.append(
                f'<span class="muted">{name}</span><img class="{"after" * (name == "aligned")}" '
                f'src="{image}" alt="{name}: {len(pictures)} images">'
            )
    return (
        "<section><h2>Gallery</h2><p class='muted'>Test images as the network saw "
        "them, above what the transformer made of them.</p>"
        f'<div class="rows">{"".join(rows)}</div></section>'
    )


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    return np.concatenate(list(pictures), axis=1)


def _angles(angles: Angles) -> str:
    slope, intercept = orthogonal_regression(angles.applied, angles.predicted)
    rms = within_class_rms(*angles)
    chart = density(
        angles.applied,
        angles.predicted,
        limit=110,
        line=(slope, intercept),
        labels=("applied angle (degrees)", "predicted angle (degrees)"),
        label="predicted against applied angle",
    )
    return (
        "<section><h2>Angles</h2><p class='muted'>How the network turned each test image, against "
        f"how it had been turned. Slope {slope:.2f} (red; a perfect aligner's is &minus;1, "
        f"dotted); spread {rms:.1f}&deg; (0 where each class is turned to one pose)."
        f'</p><div class="angles">{chart}</div></section>'
    )


def _curves(curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    figures = "".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f"{lines(series, label=html.escape(name), log=log)}</figure>"
        for name, series, log in curves
    )
    return (
        "<section><h2>Training</h2><p class='muted'>By epoch, one line a seed.</p>"
        f'<div class="charts">{figures}</div></section>'
    )


def _confusion(counts: np.ndarray, names: Sequence[str]) -> str:
    totals = counts.sum(1)
    off = counts - np.diag(np.diag(counts))
    most = max(1e-9, (off / np.maximum(totals, 1)[:, None]).max())
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = []
    for i, name in enumerate(names):
        cells = []
        for j, other in enumerate(names):
            share = counts[i, j] / max(totals[i], 1)
            if not counts[i, j]:
                cells.append("<td></td>")
                continue
            kind, shade = ("hit", share) if i == j else ("miss", share / most)
            said = f"{name} read as {other}: {counts[i, j]:,} of {totals[i]:,}"
            cells.append(
                f'<td class="{kind}" style="--share:{shade:.3f}" title="{html.escape(said)}">'
                f"{_percent(share)}</td>"
            )
        body.append(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cells)}</tr>')
    return (
        "<section><h2>Confusion matrix</h2><p class='muted'>Rows: the true class; columns: what it "
        "was read as, in % of the row. Empty: never.</p>"
        f'<div class="scroll"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _percent(share: float) -> str:
    """A share in percent, short enough for a cell on a phone."""
    percent = 100 * share
    if percent < 0.1:
        return "&lt;.1"
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"


def _hardest(cases: Sequence[Hard]) -> str:
    if not cases:
        return (
            "<section><h2>Hardest images</h2><p>No test image was wrong in any pass.</p></section>"
        )
    figures = []
    for title, note, seen, aligned in cases:
        pictures = [(seen, "input")] + ([(aligned, "aligned")] if aligned is not None else [])
        images = "".join(f'<img src="{png(p)}" alt="{name}">' for p, name in pictures)
        lone = " lone" if aligned is None else ""
        figures.append(
            f'<figure><div class="both{lone}">{images}</div>'
            f"<figcaption><strong>{html.escape(title)}</strong>{html.escape(note)}</figcaption>"
            "</figure>"
        )
    and_aligned = ", and aligned" if cases[0].aligned is not None else ""
    return (
        "<section><h2>Hardest images</h2><p class='muted'>The test images that were wrong most "
        f"often, as the network saw them when it was wrong most surely{and_aligned}.</p>"
        f'<div class="hard">{"".join(figures)}</div></section>'
    )


def _facts(report: Report) -> str:
    def rows(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
        return "".join(
            f"<div{' class=changed' if name in defaults and defaults[name] != value else ''}>"
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(_shown(value))}</dd></div>"
            for name, value in values.items()
        )

    return (
        "<section><h2>Configuration</h2><p class='muted'>Bold: not the default.</p>"
        f'<dl class="facts">{rows(report.config, report.defaults)}</dl></section>'
        f'<section><h2>Made with</h2><dl class="facts">{rows(report.made_with, {})}</dl></section>'
    )


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "(none)" if value in ("", None) else str(value)
