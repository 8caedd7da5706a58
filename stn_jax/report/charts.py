"""Charts as inline SVG: they take the colours and fonts of the page that they stand in.

An SVG here is a string without outer references. Its colours are CSS variables (``--text``,
``--muted``, ``--line``, ``--accent``), so that it reads in light and dark.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

Points = Sequence[tuple[float, float]]


def png(picture: np.ndarray) -> str:
    """A picture as a data URI, PNG.

    Args:
      picture: ``[H, W, C]``, of 1, 3 or 4 channels; uint8, or floats in [0, 1].
    """
    from PIL import Image

    if picture.dtype != np.uint8:
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def lines(series: Sequence[Points], *, label: str, log: bool = False) -> str:
    """A chart of one or more series of (x, y) over an axis that begins at 0.

    Args:
      series: what is drawn, a line each; points that are not finite are left out, and what is
        nearer to 0 than 1e-300 is drawn as 0.
      label: says what it shows to those who do not see it.
      log: whether the y axis is logarithmic; it is not where a value is 0 or less.
    """
    width, height, left, right, top, bottom = 360, 190, 44, 10, 8, 24
    # Shares of numbers still nearer to 0 would have no logarithm.
    finite = [
        [tuple(value if abs(value) >= 1e-300 else 0.0 for value in point) for point in each]
        for each in ([p for p in points if all(map(math.isfinite, p))] for points in series)
    ]
    points = [point for each in finite for point in each]
    if not points:
        return '<p class="muted">no finite values</p>'
    x_end = max(x for x, _ in points) or 1.0
    ys = [y for _, y in points]
    log = log and min(ys) > 0
    if log:
        marks = _log_ticks(min(ys), max(ys))
        low, high = math.log10(marks[0]), math.log10(marks[-1])
    else:
        low, high = min(0.0, min(ys)), max(0.0, max(ys)) or 1.0
        marks = _ticks(low, high)
        low, high = min(low, marks[0]), max(high, marks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        y = math.log10(y) if log else y
        across = left + x / x_end * (width - left - right)
        return across, height - bottom - (y - low) / (high - low) * (height - top - bottom)

    parts = []
    for mark in marks:
        _, y = place(0, mark)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" class="end">{number(mark)}</text>')
    for mark in _ticks(0, x_end):
        if mark <= x_end:
            x, _ = place(mark, marks[0])
            parts.append(f'<text x="{x:.1f}" y="{height - 8}" class="mid">{number(mark)}</text>')
    for each in finite:
        path = "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in each)
        if len(each) == 1:
            x, y = place(*each[0])
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        elif each:
            parts.append(f'<path class="curve" d="M{path}"/>')
    return _svg(width, height, label, parts)


def density(
    x: np.ndarray,
    y: np.ndarray,
    *,
    limit: float,
    line: tuple[float, float],
    labels: tuple[str, str],
    label: str,
) -> str:
    """How often pairs of angles come up, as shades, with a line through them.

    Args:
      x, y: ``[N]``, angles in degrees; those beyond the limits are not drawn.
      limit: the axes run from -limit to limit.
      line: slope and intercept of the line, drawn from -90 to 90 degrees.
      labels: of the x and y axis.
      label: says what it shows to those who do not see it.
    """
    size, left, top, bottom = 300, 50, 8, 40
    edges = np.linspace(-limit, limit, 76)
    count = np.histogram2d(x, y, (edges, edges))[0].T[::-1]
    shade = np.log1p(count) / np.log1p(max(count.max(), 1))
    # One colour for both schemes; where there is nothing, the page's own ground shows.
    ink = np.zeros((*count.shape, 4))
    ink[..., :3] = np.array([0.23, 0.51, 0.96])
    ink[..., 3] = np.where(count > 0, 0.15 + 0.85 * shade, 0)

    def place(a: float, b: float) -> tuple[float, float]:
        return left + (a + limit) / (2 * limit) * size, top + (limit - b) / (2 * limit) * size

    def stroke(name: str, slope: float, intercept: float) -> str:
        # Cut where it leaves the frame.
        ends = [a for a in np.linspace(-90, 90, 721) if abs(slope * a + intercept) <= limit]
        if not ends:
            return ""
        points = [place(a, slope * a + intercept) for a in (ends[0], ends[-1])]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        return f'<path class="{name}" d="M{path}"/>'

    parts = [
        f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"/>',
        f'<image x="{left}" y="{top}" width="{size}" height="{size}" href="{png(ink)}"/>',
        stroke("ideal", -1.0, 0.0),
        stroke("fit", *line),
    ]
    for mark in (-90, -45, 0, 45, 90):
        across, down = place(mark, mark)
        parts.append(f'<text x="{across:.1f}" y="{top + size + 15}" class="mid">{mark}</text>')
        parts.append(f'<text x="{left - 5}" y="{down + 4:.1f}" class="end">{mark}</text>')
    middle = left + size / 2
    parts.append(f'<text x="{middle}" y="{top + size + 33}" class="mid">{labels[0]}</text>')
    up = f"translate(12 {top + size / 2}) rotate(-90)"
    parts.append(f'<text transform="{up}" class="mid">{labels[1]}</text>')
    return _svg(left + size + 12, top + size + bottom, label, parts)


def number(value: float) -> str:
    """A number as one writes it at an axis or in a table: four digits at most."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at most low to at least high."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most low to at least high, for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for leads in ((1, 2, 5), (1,)):
        ladder = [lead * 10.0**power for power in powers for lead in leads]
        first = max(i for i, mark in enumerate(ladder) if mark <= low)
        last = min(i for i, mark in enumerate(ladder) if mark >= high)
        marks = ladder[first : max(last, first + 1) + 1]
        if len(marks) <= 6:
            break
    return marks
