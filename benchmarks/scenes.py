"""Simulated photographs of digits: written on paper, unevenly lit, taken with a poor camera.

:func:`photograph` renders a :class:`Scene` in physical order: paper and ink, viewpoint,
illumination, lens, sensor, file.
"""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import scipy.ndimage as nd
from PIL import Image, ImageDraw, ImageFont

SIDE = 288  # pixels of a photograph
WHITE = (235.0, 235.0, 235.0)
BLACK = (40.0, 40.0, 40.0)

Color = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """The parameters of a photograph of a digit.

    Attributes:
      paper, ink: colors in even light, 0 to 255.
      size: side of the digit's 28x28 square, in pixels; the digit itself fills 20/28 of it.
      pen: uniform width of its strokes in pixels; None: as in MNIST (about size / 9).
      falloff: fraction by which the light falls off linearly from one end of the page to the other.
      shadow: fraction by which a shadow darkens; its edge passes near the digit.
      softness: standard deviation of the blur of the shadow's edge, in pixels.
      noise: standard deviation of the sensor noise, in levels of 255.
      quality: JPEG quality; None: no JPEG.
      specks: number of dark specks of 1 to ``speck_side`` pixels.
      ruling: "lines", "squares" or "" (none), with a distance of ``spacing`` pixels.
      line: darkness of the ruling as a fraction of the ink's contrast; ``line_width`` is in pixels.
      blur: standard deviation of the lens blur, in pixels.
      neighbors: number of other digits, cut off at the page's borders.
      mark: side of a second mark near a corner, as a fraction of the digit's.
      tilt: maximum inward displacement of the view's corners, as a fraction of its side.
    """

    paper: Color = WHITE
    ink: Color = BLACK
    size: float = 200
    pen: float | None = None
    falloff: float = 0
    shadow: float = 0
    softness: float = 0
    noise: float = 0
    quality: int | None = None
    specks: int = 0
    speck_side: int = 2
    ruling: str = ""
    spacing: float = 24
    line: float = 0.3
    line_width: float = 1.5
    blur: float = 0
    neighbors: int = 0
    mark: float = 0
    tilt: float = 0


def photograph(
    scene: Scene, glyph: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Renders a photograph.

    Args:
      scene: its parameters.
      glyph: ``[28, 28]`` uint8, light on black: the digit near the center of the page.
      others: ``[n, 28, 28]``, from which other digits are chosen.
      rng: draws positions, the direction of the light, and noise.

    Returns:
      ``[288, 288, 3]``, uint8.
    """
    ink, corner = _written(scene, glyph, rng)
    for other_corner, fraction in _other_drawings(scene, corner, rng):
        other = others[rng.integers(len(others))]
        drawing = _strokes(other, scene.size * fraction, scene.pen)
        ink = np.maximum(ink, _keep_distance(ink, drawing, other_corner, scene.size / 12))
    ink = np.maximum(ink, scene.line * _ruling(scene, rng))
    for row, column, side in zip(
        *rng.integers(0, SIDE, (2, scene.specks)),
        rng.integers(1, scene.speck_side + 1, scene.specks),
        strict=True,
    ):
        ink[row : row + side, column : column + side] = 1
    ink = _tilted(ink, scene.tilt, rng)
    paper, pen = (np.asarray(color) for color in (scene.paper, scene.ink))
    page = paper + ink[..., None] * (pen - paper)
    page = page * _light(scene, rng)[..., None]
    page = nd.gaussian_filter(page, (scene.blur, scene.blur, 0))
    page = page + rng.normal(0, 1, page.shape) * scene.noise
    pixels = np.clip(np.round(page), 0, 255).astype(np.uint8)
    return pixels if scene.quality is None else _through_jpeg(pixels, scene.quality)


# --- ink on paper --------------------------------------------------------------------------------


def _written(
    scene: Scene, glyph: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The digit on an empty page, in [0, 1], and its square's corner (row, column)."""
    room = (SIDE - scene.size) / 2
    corner = np.round(room + rng.uniform(-0.5, 0.5, 2) * room).astype(int)
    return _placed(_strokes(glyph, scene.size, scene.pen), corner), corner


def _strokes(glyph: np.ndarray, size: float, pen: float | None) -> np.ndarray:
    """A glyph enlarged to ``[size, size]`` in [0, 1] with sharp edges, redrawn for a pen."""
    side = round(size)
    large = Image.fromarray(glyph).resize((side, side), Image.Resampling.BICUBIC)
    inside = np.asarray(large, np.float64) / 255
    if pen is None:
        # Edges of ink are two pixels wide, whatever the digit's size.
        slope = max(1.0, size / 28 / 2)
        return np.clip((inside - 0.5) * slope + 0.5, 0, 1)
    away = nd.distance_transform_edt(~thinned(inside > 0.5))
    return np.clip((pen + 1) / 2 - away, 0, 1)


def thinned(mask: np.ndarray) -> np.ndarray:
    """Thins strokes to one pixel (Zhang and Suen 1984)."""
    mask = np.pad(mask, 1).astype(np.uint8)
    around = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    while True:
        before = mask.sum()
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            p = np.stack([np.roll(mask, (-r, -c), (0, 1)) for r, c in around])
            steps = ((p == 0) & (np.roll(p, -1, 0) == 1)).sum(0)
            count = p.sum(0)
            free = (p[[*first]].prod(0) == 0) & (p[[*second]].prod(0) == 0)
            mask = mask & ~((mask == 1) & (count >= 2) & (count <= 6) & (steps == 1) & free)
        if mask.sum() == before:
            return mask[1:-1, 1:-1].astype(bool)


def _placed(drawing: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """A drawing on an empty page, clipped to it."""
    page = np.zeros((SIDE, SIDE))
    ends = [
        slice(max(c, 0), max(min(c + n, SIDE), 0))
        for c, n in zip(corner, drawing.shape, strict=True)
    ]
    parts = [slice(s.start - c, s.stop - c) for s, c in zip(ends, corner, strict=True)]
    page[tuple(ends)] = drawing[tuple(parts)]
    return page


def _keep_distance(
    ink: np.ndarray, drawing: np.ndarray, corner: np.ndarray, gap: float
) -> np.ndarray:
    """A drawing on the page, moved outwards until its distance from the ink is at least ``gap``."""
    away = nd.distance_transform_edt(ink < 0.5)
    outward = np.sign(corner + np.array(drawing.shape) / 2 - SIDE / 2) * (
        np.abs(corner + np.array(drawing.shape) / 2 - SIDE / 2) > SIDE / 4
    )
    while True:
        page = _placed(drawing, corner)
        if not (away[page > 0.5] < gap).any():
            return page
        corner = corner + 4 * outward.astype(int)


def _other_drawings(scene: Scene, corner: np.ndarray, rng: np.random.Generator) -> list:
    """Corners of other drawings, and their sizes as fractions of the digit's."""
    found = []
    for side in rng.permutation(4)[: scene.neighbors]:
        axis, last = side % 2, side >= 2
        position = corner + rng.uniform(-0.3, 0.3, 2) * scene.size
        position[axis] = last * SIDE - scene.size / 2  # half of it is beyond the border
        found.append((np.round(position).astype(int), 1.0))
    if scene.mark:
        side = scene.size * scene.mark
        ends = rng.permutation([[0, 0], [0, 1], [1, 0], [1, 1]])[0]
        found.append((np.round(ends * (SIDE - side - 8) + 4).astype(int), scene.mark))
    return found


def _ruling(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Slightly slanted lines across the page: ``[SIDE, SIDE]`` in [0, 1]."""
    if not scene.ruling:
        return np.zeros((SIDE, SIDE))
    angle = np.deg2rad(rng.uniform(-3, 3))
    rows, columns = np.indices((SIDE, SIDE))
    along = rows * np.cos(angle) + columns * np.sin(angle) + rng.uniform(0, scene.spacing)
    across = columns * np.cos(angle) - rows * np.sin(angle) + rng.uniform(0, scene.spacing)
    lines = [along] if scene.ruling == "lines" else [along, across]
    return np.max([_stripes(x, scene.spacing, scene.line_width) for x in lines], axis=0)


def _stripes(position: np.ndarray, spacing: float, width: float) -> np.ndarray:
    off = np.abs((position + spacing / 2) % spacing - spacing / 2)
    return np.clip((width + 1) / 2 - off, 0, 1)


# --- view, light, file ---------------------------------------------------------------------------


def _tilted(ink: np.ndarray, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """A perspective view of a page, by moving its corners."""
    if not tilt:
        return ink
    corners = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float64)
    # Inwards, so that the page fills the whole view.
    moved = corners + np.sign(SIDE / 2 - corners) * rng.uniform(0, 1, (4, 2)) * tilt * SIDE
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    coefficients = np.linalg.solve(rows, right).tolist()
    image = Image.fromarray(ink.astype(np.float32))
    kind = Image.Transform.PERSPECTIVE
    return np.asarray(
        image.transform(image.size, kind, coefficients, Image.Resampling.BILINEAR), np.float64
    )


def _light(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The illumination of each pixel: ``[SIDE, SIDE]`` up to 1."""
    light = 1 - scene.falloff * _across(rng.uniform(0, 2 * np.pi))
    if scene.shadow:
        # A half-plane whose edge is at most a quarter of the page away from its center.
        edge = _across(rng.uniform(0, 2 * np.pi)) - 0.5 + rng.uniform(-0.25, 0.25)
        dark = nd.gaussian_filter((edge > 0).astype(float), scene.softness, mode="nearest")
        light = light * (1 - scene.shadow * dark)
    return light


def _across(angle: float) -> np.ndarray:
    """A ramp from 0 to 1 across the page, in the given direction."""
    rows, columns = np.indices((SIDE, SIDE)) / (SIDE - 1) - 0.5
    position = columns * np.cos(angle) + rows * np.sin(angle)
    return (position - position.min()) / np.ptp(position)


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


# --- pages without a digit, or with more than one ------------------------------------------------


def no_digits(others: np.ndarray, count: int, seed: int) -> dict[str, list[np.ndarray]]:
    """Photographs without a single digit, by kind: ``[288, 288, 3]`` uint8.

    Args:
      others: ``[n, 28, 28]`` uint8, from which digits are chosen.
      count: number of photographs of each kind.
      seed: seed of the random numbers.
    """
    kinds: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
        "empty paper, noise 10": lambda rng: _empty(Scene(noise=10, falloff=0.3), rng),
        "empty squared paper, a shadow": lambda rng: _empty(
            Scene(noise=4, falloff=0.3, shadow=0.3, softness=6, ruling="squares"), rng
        ),
        "white noise": lambda rng: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
        "a filled shape": _shape,
        "a scribble": _scribble,
        "a letter": _letter,
        "two digits side by side": lambda rng: _pair(
            others[rng.integers(len(others), size=2)], rng
        ),
    }
    return {
        kind: [draw(np.random.default_rng((seed, i))) for i in range(count)]
        for kind, draw in kinds.items()
    }


def _empty(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    blank = np.zeros((28, 28), np.uint8)
    return photograph(scene, blank, blank[None], rng)


def _pair(glyphs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = 120
    corners = [(rng.integers(40, 130), column) for column in (20, SIDE - 20 - side)]
    ink = np.maximum(
        *(
            _placed(_strokes(glyph, side, None), np.array(corner))
            for glyph, corner in zip(glyphs, corners, strict=True)
        )
    )
    page = np.array(WHITE) + ink[..., None] * (np.array(BLACK) - WHITE)
    return np.round(page).astype(np.uint8)


def _page(draw: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    page = Image.new("L", (SIDE, SIDE), int(WHITE[0]))
    draw(ImageDraw.Draw(page))
    return np.asarray(page.convert("RGB"))


def _shape(rng: np.random.Generator) -> np.ndarray:
    left, top, width, height = rng.uniform((80, 80, 40, 40), (120, 120, 80, 80))
    box = (left, top, left + width, top + height)
    ink = int(BLACK[0])
    if rng.random() < 0.5:
        return _page(lambda draw: draw.ellipse(box, fill=ink))
    return _page(lambda draw: draw.rectangle(box, fill=ink))


def _scribble(rng: np.random.Generator) -> np.ndarray:
    points = [tuple(p) for p in rng.uniform(60, 230, (rng.integers(5, 14), 2))]
    width = int(rng.integers(4, 16))
    return _page(lambda draw: draw.line(points, fill=int(BLACK[0]), width=width, joint="curve"))


def _letter(rng: np.random.Generator) -> np.ndarray:
    # Without letters that resemble a digit, rotated or not: I, J, L, O, S, Z, b, e, g, l, o, q, ...
    letter = rng.choice(list("ACDEFGHKMNPRUVWXYahkmnrwx&#%"))
    font = ImageFont.load_default(180)
    middle = (SIDE / 2, SIDE / 2)
    return _page(lambda draw: draw.text(middle, letter, int(BLACK[0]), font, anchor="mm"))
