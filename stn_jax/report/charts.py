"""Charts as inline SVG, with the colors and fonts of the surrounding page.

A chart is Markup without external references, and its texts are escaped. Its colors are CSS
variables (``--text``, ``--muted``, ``--line``, ``--accent``), so that it suits light and dark mode.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

Points = Sequence[tuple[float, float]]
BOX = {"left": 44, "top": 8, "width": 306, "height": 150}  # plot area of a 360 x 190 chart

_SVG = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>')
_PATH = Markup('<path class="{}" d="M{}"/>')
_TEXT = Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>')


def png(picture: np.ndarray) -> str:
    """A picture as the data URI of a PNG.

    Args:
      picture: ``[H, W, C]`` with 1, 3 or 4 channels; uint8, or floats in [0, 1].
    """
    from PIL import Image

    if picture.dtype != np.uint8:
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def lines(series: Sequence[Points], *, label: str, log: bool = False) -> Markup:
    """A line chart of one or more series of (x, y); the x axis starts at 0.

    Args:
      series: one line each; non-finite points are omitted, and values below 1e-300 in magnitude
        are drawn as 0.
      label: a description for screen readers.
      log: whether the y axis is logarithmic; ignored if a value is 0 or less.
    """
    width, height, left, right, top, bottom = 360, 190, 44, 10, 8, 24
    # The ticks between still smaller numbers would underflow to 0, which has no logarithm.
    finite = [
        [tuple(value if abs(value) >= 1e-300 else 0.0 for value in point) for point in each]
        for each in ([p for p in points if all(map(math.isfinite, p))] for points in series)
    ]
    points = [point for each in finite for point in each]
    if not points:
        return Markup('<p class="muted">no finite values</p>')
    x_end = max(x for x, _ in points) or 1.0
    ys = [y for _, y in points]
    log = log and min(ys) > 0
    if log:
        ticks = _log_ticks(min(ys), max(ys))
        low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    else:
        low, high = min(0.0, min(ys)), max(0.0, max(ys)) or 1.0
        ticks = _ticks(low, high)
        low, high = min(low, ticks[0]), max(high, ticks[-1])

    def to_pixels(x: float, y: float) -> tuple[float, float]:
        y = math.log10(y) if log else y
        across = left + x / x_end * (width - left - right)
        return across, height - bottom - (y - low) / (high - low) * (height - top - bottom)

    parts = []
    for tick in ticks:
        _, y = to_pixels(0, tick)
        parts.append(_PATH.format("grid", f"{left} {y:.1f}H{width - right}"))
        parts.append(_TEXT.format(left - 5, y + 4, "end", number(tick)))
    for tick in _ticks(0, x_end):
        if tick <= x_end:
            x, _ = to_pixels(tick, ticks[0])
            parts.append(_TEXT.format(x, height - 8, "mid", number(tick)))
    for each in finite:
        if len(each) == 1:
            dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"/>')
            parts.append(dot.format(*to_pixels(*each[0])))
        elif each:
            parts.append(_PATH.format("curve", _joined(to_pixels(*point) for point in each)))
    return _SVG.format(width, height, label, Markup().join(parts))


def frame(
    values: np.ndarray,
    extent: tuple[float, float],
    ideal: np.ndarray | None,
    *,
    label: str,
    decimals: int,
) -> Markup:
    """The axes of a chart with plot area ``BOX``, in which the page's script draws a curve.

    Args:
      values: ``[F]``, increasing and evenly spaced: the x axis.
      extent: the range of the y axis.
      ideal: None, or ``[F]``, drawn as a dotted line.
      label: a description for screen readers.
      decimals: decimals of the y axis's numbers; more are shown if they would be equal otherwise.
    """
    left, top, width, height = BOX.values()
    low, high = extent
    decimals = max(decimals, math.ceil(-math.log10((high - low) / 4)))
    parts = []
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        y, x = top + (1 - fraction) * height, left + fraction * width
        parts.append(_PATH.format("grid", f"{left} {y}h{width}"))
        parts.append(
            _TEXT.format(left - 5, y + 4, "end", f"{low + fraction * (high - low):.{decimals}f}")
        )
        value = values[0] + fraction * (values[-1] - values[0])
        parts.append(_TEXT.format(x, top + height + 16, "mid", f"{value:.3g}"))
    if ideal is not None:
        across = left + width * np.linspace(0, 1, len(ideal))
        up = top + height * (high - ideal) / (high - low)
        parts.append(_PATH.format("ideal", _joined(zip(across, up, strict=True))))
    parts.append(Markup('<path id="trace-curve" class="curve" d=""/>'))
    parts.append(Markup('<circle id="trace-mark" class="dot" r="5"/>'))
    return _SVG.format(360, 190, label, Markup().join(parts))


def density(
    x: np.ndarray,
    y: np.ndarray,
    *,
    limit: float,
    line: tuple[float, float],
    labels: tuple[str, str],
    label: str,
) -> Markup:
    """A 2D histogram of pairs of angles, with a line.

    Args:
      x, y: ``[N]``, angles in degrees; those beyond the limits are not drawn.
      limit: the axes run from -limit to limit.
      line: slope and intercept of the line, drawn from -90 to 90 degrees.
      labels: labels of the x and y axes.
      label: a description for screen readers.
    """
    size, left, top, bottom = 300, 50, 8, 40
    edges = np.linspace(-limit, limit, 76)
    count = np.histogram2d(x, y, (edges, edges))[0].T[::-1]
    shade = np.log1p(count) / np.log1p(max(count.max(), 1))
    # One color for both modes; empty bins are transparent.
    ink = np.zeros((*count.shape, 4))
    ink[..., :3] = np.array([0.23, 0.51, 0.96])
    ink[..., 3] = np.where(count > 0, 0.15 + 0.85 * shade, 0)

    def to_pixels(a: float, b: float) -> tuple[float, float]:
        return left + (a + limit) / (2 * limit) * size, top + (limit - b) / (2 * limit) * size

    def stroke(name: str, slope: float, intercept: float) -> Markup:
        # Only the part inside the axes.
        ends = [a for a in np.linspace(-90, 90, 721) if abs(slope * a + intercept) <= limit]
        if not ends:
            return Markup()
        return _PATH.format(
            name, _joined(to_pixels(a, slope * a + intercept) for a in (ends[0], ends[-1]))
        )

    box = left, top, size, size
    parts = [
        Markup('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>').format(*box),
        Markup('<image x="{}" y="{}" width="{}" height="{}" href="{}"/>').format(*box, png(ink)),
        stroke("ideal", -1.0, 0.0),
        stroke("fit", *line),
    ]
    for tick in (-90, -45, 0, 45, 90):
        across, down = to_pixels(tick, tick)
        parts.append(_TEXT.format(across, top + size + 15, "mid", tick))
        parts.append(_TEXT.format(left - 5, down + 4, "end", tick))
    parts.append(_TEXT.format(left + size / 2, top + size + 33, "mid", labels[0]))
    upright = Markup('<text transform="translate(12 {:g}) rotate(-90)" class="mid">{}</text>')
    parts.append(upright.format(top + size / 2, labels[1]))
    return _SVG.format(left + size + 12, top + size + bottom, label, Markup().join(parts))


def number(value: float) -> str:
    """Formats a number for an axis or a table, with at most four significant digits."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _joined(points: Iterable[tuple[float, float]]) -> str:
    """The points of a polyline, as in an SVG path."""
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that enclose [low, high]."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose [low, high], for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for leads in ((1, 2, 5), (1,)):
        ladder = [lead * 10.0**power for power in powers for lead in leads]
        first = max(i for i, mark in enumerate(ladder) if mark <= low)
        last = min(i for i, mark in enumerate(ladder) if mark >= high)
        marks = ladder[first : max(last, first + 1) + 1]
        if len(marks) <= 6:
            break
    return marks
