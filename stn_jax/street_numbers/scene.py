"""The wall with the house number on it: where its digits stand, its paint, and the light on it.

Convention
    The number's frame: x along the row of digits, y downwards, in heights of a digit, from the
    middle of the row. The view: the same as the camera sees it, x and y in the photograph.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.data.house_numbers import NONE, POSITIONS
from stn_jax.street_numbers import atlas, svhn_statistics
from stn_jax.street_numbers.generator_config import GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws
from stn_jax.warp import grid_sample

OTHERS = 3  # parts of other numbers: left, right, and above or below
SLOTS = POSITIONS + OTHERS
AWAY = 1e3  # where digits stand that are not there

GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # luminance of red, green and blue
# Steps that leave the luminance as it is: towards orange from a violet blue (as paint and daylight
# have it, not cyan), and towards green from both. One changes red less blue by 1, the other green.
WARM = np.array([0.336, -0.042, -0.664], np.float32)
GREEN = np.array([-0.587, 0.413, -0.587], np.float32)


class Row(NamedTuple):
    """The digits as they stand."""

    font: jax.Array  # int32 []
    digit: jax.Array  # int32 [SLOTS]
    middle: jax.Array  # [SLOTS, 2], number's frame
    size: jax.Array  # [SLOTS, 2]: width and height of the ink, as the font has it
    stretch: jax.Array  # []: how much wider the digits are than the font's
    tilt: jax.Array  # [SLOTS], radians
    weight: jax.Array  # []: added on either side of a stroke, in heights


def place(draws: RandomDraws, labels: jax.Array, config: GeneratorConfig) -> Row:
    """Sets the digits of a number in a row, and parts of others around it.

    Args:
      draws: random numbers.
      labels: int32 ``[POSITIONS]``.
      config: strengths.
    """
    glyphs = atlas.load()
    font = draws.integer(len(glyphs.width))
    shown = labels != NONE
    digit = jnp.concatenate([jnp.where(shown, labels, 0), draws.integer(10, (OTHERS,))])
    width = jnp.asarray(glyphs.width)[font, digit]
    height = jnp.asarray(glyphs.height)[font, digit]
    stretch = 0.8 * jnp.exp(draws.normal(0.2))

    # Gaps are alike within a number, mostly. The boxes' are less than those of the ink.
    gap = draws.quantile(svhn_statistics.LEVELS, np.clip(svhn_statistics.GAP, -0.09, 0.9))
    gap = 0.09 + config.layout * (0.8 * gap + draws.normal(0.03, (POSITIONS,)))
    # Typewriter spacing: a narrow digit stands in the middle of as much room as any other.
    own = width[:POSITIONS]
    own = jnp.where(draws.happens(0.35 * config.layout), jnp.maximum(own, 0.5), own)
    advance = jnp.where(shown, own * stretch + jnp.maximum(gap, 0.02), 0)
    end = jnp.cumsum(advance)
    x = end - advance / 2 - end[-1] / 2
    y = draws.normal(0.02 * config.layout, (POSITIONS,))
    tilt = draws.normal(0.035 * config.layout, (SLOTS,))
    tilt = tilt * jnp.where(draws.happens(0.25), 2.5, 0.5)

    # Others: beside the row, or above or below it, and partly out of sight.
    near = draws.uniform(0.05, 0.35, (OTHERS,))
    present = draws.happens(jnp.array([0.04, 0.04, 0.05]) * config.clutter, (OTHERS,))
    reach = end[-1] / 2 + width[POSITIONS:] / 2 * stretch + near
    aside = draws.uniform(-0.5, 0.5, (OTHERS,))
    other_x = jnp.stack([-reach[0], reach[1], aside[2] * end[-1]])
    other_y = jnp.stack([0.2 * aside[0], 0.2 * aside[1], jnp.sign(aside[2]) * (1.05 + near[2])])

    middle = jnp.stack([jnp.concatenate([x, other_x]), jnp.concatenate([y, other_y])], -1)
    middle = jnp.where(jnp.concatenate([shown, present])[:, None], middle, AWAY)
    # Not so much that thin strokes vanish, or holes fill.
    weight = config.weight * jnp.clip(0.006 + draws.normal(0.012), -0.02, 0.035)
    return Row(font, digit, middle, jnp.stack([width, height], -1), stretch, tilt, weight)


def slope(draws: RandomDraws, row: Row, config: GeneratorConfig) -> tuple[Row, jax.Array]:
    """Slopes the row: what is not done by the digits' places is done by the view.

    Returns:
      The row, for some its digits on a diagonal or above each other; and the view, a homography
      ``[3, 3]`` from the number's frame, whose origin it keeps.
    """
    degrees = draws.quantile(svhn_statistics.LEVELS, np.clip(svhn_statistics.SLOPE, -90, 90))
    angle = jnp.deg2rad(degrees) * config.slope
    steepness = jnp.abs(angle)
    diagonal = draws.happens(jnp.where(steepness > np.deg2rad(14), 0.6, 0.1))
    diagonal |= steepness > np.deg2rad(35)

    # On a diagonal neighbours are as far apart as they must be, across or down.
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    apart = jnp.minimum(1 / jnp.maximum(cosine, 0.05), 1.75 / jnp.maximum(jnp.abs(sine), 0.05))
    along, lifted = row.middle[:POSITIONS, 0], row.middle[:POSITIONS, 1]
    moved = jnp.stack([along * cosine * apart, lifted + along * sine * apart], -1)
    moved = row.middle.at[:POSITIONS].set(jnp.where(along[:, None] < AWAY / 2, moved, AWAY))
    row = row._replace(middle=jnp.where(diagonal, moved, row.middle))

    angle = jnp.where(diagonal, 0.0, angle)
    # Seen from the side a row slopes and its digits stay upright; a plate that hangs askew turns.
    turn = angle * jnp.where(draws.happens(0.35), 1.0, draws.uniform(0, 0.3))
    lift = jnp.tan(angle - turn)
    turn += draws.normal(0.02 * config.slope)
    slant = -config.shear * (draws.normal(0.07) + draws.happens(0.12) * draws.uniform(0, 0.25))
    sine, cosine = jnp.sin(turn), jnp.cos(turn)
    # Rotation * lift * slant, multiplied by hand.
    upright = jnp.stack([slant, 1 + lift * slant])
    across = jnp.stack([jnp.ones(()), lift])
    columns = [
        jnp.stack([cosine * x - sine * y, sine * x + cosine * y]) for x, y in (across, upright)
    ]
    vanish = config.perspective * draws.normal(jnp.array([0.07, 0.04]), (2,))
    view = jnp.eye(3).at[:2, :2].set(jnp.stack(columns, -1)).at[2, :2].set(vanish)
    return row, view


def corners(row: Row) -> tuple[jax.Array, jax.Array]:
    """The corners of the digits' boxes and whether there is such a digit.

    Returns:
      ``[POSITIONS, 4, 2]``, number's frame, and bool ``[POSITIONS]``.
    """
    half = (row.size[:POSITIONS] / 2 + row.weight) * jnp.stack([row.stretch, jnp.ones(())])
    x = half[:, :1] * np.array([-1.0, 1.0, -1.0, 1.0], np.float32)
    y = half[:, 1:] * np.array([-1.0, -1.0, 1.0, 1.0], np.float32)
    cosine, sine = jnp.cos(row.tilt[:POSITIONS, None]), jnp.sin(row.tilt[:POSITIONS, None])
    turned = jnp.stack([x * cosine - y * sine, x * sine + y * cosine], -1)
    middle = row.middle[:POSITIONS]
    return middle[:, None] + turned, middle[:, 0] < AWAY / 2


def distance(row: Row, positions: jax.Array) -> jax.Array:
    """Signed distance from the digits' outlines, in heights, positive inside.

    The digits lie side by side in one image; each position is looked up in the digit whose box is
    nearest to it.

    Args:
      row: the digits.
      positions: ``[..., H, W, 2]``, number's frame.

    Returns:
      ``[..., H, W]``; cut at ``atlas.REACH``.
    """
    cells = jnp.asarray(atlas.load().distance)[row.font, row.digit]
    strip = cells.transpose(1, 0, 2).reshape(atlas.CELL, SLOTS * atlas.CELL, 1)
    half = atlas.CELL / 2 / atlas.HEIGHT
    edge = half - 0.5 / atlas.HEIGHT  # not so near to the next cell that it shows
    nearest = jnp.full(positions.shape[:-1], jnp.inf)
    across = down = jnp.zeros(positions.shape[:-1])
    for slot in range(SLOTS):  # one at a time: the compiler makes a single pass of it
        offset = positions - row.middle[slot]
        cosine, sine = jnp.cos(row.tilt[slot]), jnp.sin(row.tilt[slot])
        x = (offset[..., 0] * cosine + offset[..., 1] * sine) / row.stretch
        y = offset[..., 1] * cosine - offset[..., 0] * sine
        beyond = jnp.maximum(jnp.abs(x) - row.size[slot, 0] / 2, jnp.abs(y) - row.size[slot, 1] / 2)
        nearer = beyond < nearest
        nearest = jnp.where(nearer, beyond, nearest)
        cell = (2 * slot + 1 + jnp.clip(x, -edge, edge) / half) / SLOTS - 1
        across = jnp.where(nearer, cell, across)
        down = jnp.where(nearer, jnp.clip(y, -edge, edge) / half, down)
    grid = jnp.stack([across, down], -1)
    return grid_sample(strip, grid, padding_mode="border")[..., 0] + row.weight


class Paint(NamedTuple):
    """Colours, ``[3]`` each, in [0, 1] or a little beyond."""

    digits: jax.Array
    ground: jax.Array  # what the digits are on
    wall: jax.Array  # what is around a plate
    rim: jax.Array  # of the plate


def mix(draws: RandomDraws, config: GeneratorConfig) -> Paint:
    """Colours as in SVHN: half of the numbers light on dark, most of them nearly gray."""
    light = draws.happens(0.5)
    ground = jnp.where(light, 0.31 + draws.normal(0.13), 0.66 + draws.normal(0.18))
    ground = jnp.clip(ground, 0.06, 0.97)
    contrast = jnp.clip(0.31 * jnp.exp(draws.normal(0.36)), 0.22, 0.8)
    digits = jnp.clip(ground + jnp.where(light, contrast, -contrast), 0.03, 1.0)
    wall = jnp.clip(ground + draws.normal(0.22), 0.05, 0.95)
    like_digits = draws.happens(0.6)
    edge = jnp.clip(ground - 0.2, 0.03, 1)

    def tint(bias: float, strength: ArrayLike) -> jax.Array:
        warm, green = bias + draws.normal(0.08), -0.004 + draws.normal(0.02)
        return config.color * jnp.asarray(strength) * (warm * WARM + green * GREEN)

    # A few plates are plainly blue, red, green or yellow: steps of WARM and GREEN.
    dark = jnp.array([[-0.55, -0.02], [-0.45, -0.01], [-0.35, 0.02], [0.4, -0.12], [0.0, 0.1]])
    bright = jnp.array([[-0.2, 0.0], [0.35, 0.05], [0.45, 0.08], [0.25, -0.05], [-0.1, 0.06]])
    hue = jnp.where(light, dark, bright)[draws.integer(5)]
    warm, green = hue * jnp.clip(ground, 0.2, 0.6) / 0.4 * draws.uniform(0.5, 1.1)
    vivid = draws.happens(0.13 * config.color) * (warm * WARM + green * GREEN)
    # What light there is falls on all of it.
    cast = tint(-0.05, jnp.where(draws.happens(0.12), 2.0, 0.75))

    def lit(shade: jax.Array) -> jax.Array:
        return shade + cast * (0.4 + shade)

    digits_color = lit(digits) + tint(-0.03, 0.55)
    return Paint(
        digits=digits_color,
        ground=lit(ground) + tint(0.0, 0.5) + vivid,
        wall=lit(wall) + tint(0.02, 0.9),
        rim=jnp.where(like_digits, digits_color, lit(edge)),
    )


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What a scene is painted on, and with.

    Attributes:
      draws: random numbers.
      config: strengths.
      positions: ``[H, W, 2]``, number's frame.
      across: ``[H, W, 2]``: the same in the crop, from (-1, -1) to (1, 1).
      pixel: ``[]``, a pixel's size in heights; edges are that soft.
      textures: ``[H, W, 2]``: a coarse and a fine one, normal about 0.
    """

    draws: RandomDraws
    config: GeneratorConfig
    positions: jax.Array
    across: jax.Array
    pixel: jax.Array
    textures: jax.Array

    def cover(self, signed: jax.Array, softness: ArrayLike = 0.0) -> jax.Array:
        """How much of each pixel is inside, ``[H, W, 1]``, by its distance from the edge."""
        return jnp.clip(signed / (self.pixel + softness) + 0.5, 0, 1)[..., None]

    def maybe(self, probability: ArrayLike, value: ArrayLike) -> jax.Array:
        """The value with this probability, else 0."""
        return jnp.where(self.draws.happens(probability), value, 0.0)


def paint(canvas: Canvas, row: Row) -> jax.Array:
    """Paints what is seen at each position, ``[H, W, 3]``."""
    colors = mix(canvas.draws, canvas.config)
    boards = _boards(canvas)
    ground = colors.ground * jnp.where(canvas.draws.happens(0.4), boards, 1.0)
    scene = _plate(canvas, row, ground, colors.wall * boards, colors.rim)
    scene = _end_of_wall(canvas, scene, colors.wall)
    scene = _digits(canvas, row, scene, colors.digits)
    return _light(canvas, scene)


def _boards(canvas: Canvas) -> jax.Array:
    """Boards or bricks: dark lines, and a shade that falls from each to the next; a factor."""
    draws = canvas.draws
    period = draws.uniform(0.35, 1.6)
    along = jnp.where(draws.happens(0.3), canvas.positions[..., 0], canvas.positions[..., 1])
    phase = jnp.mod(along / period + draws.uniform(), 1.0)
    line = jnp.exp(-(((phase - 0.5) * period / 0.05) ** 2))
    depth = canvas.maybe(0.22 * canvas.config.clutter, draws.uniform(0.04, 0.25))
    return (1 - depth * line - 0.4 * depth * phase)[..., None]


def _plate(
    canvas: Canvas, row: Row, ground: jax.Array, wall: jax.Array, rim: jax.Array
) -> jax.Array:
    """For some a plate: a rectangle with round corners or an oval, a rim, screws, a shadow."""
    draws, config = canvas.draws, canvas.config
    box, there = corners(row)
    reach = jnp.where(there[:, None, None], jnp.abs(box), 0).max((0, 1))
    half = reach + 0.06 + 0.22 * jnp.exp(draws.normal(0.6, (2,)))
    place = canvas.positions - draws.normal(0.04, (2,))
    radius = jnp.minimum(half.min(), 0.02 + canvas.maybe(0.4, draws.uniform(0.05, 0.4)))
    inner = jnp.abs(place) - (half - radius)
    outside = jnp.maximum(inner, 0)
    rectangle = radius - jnp.hypot(outside[..., 0], outside[..., 1])
    rectangle -= jnp.minimum(inner.max(-1), 0)
    oval = place / (half * 1.25)
    oval = (1 - jnp.hypot(oval[..., 0], oval[..., 1])) * half.min()
    signed = jnp.where(draws.happens(0.06), oval, rectangle)

    inset, thick = draws.uniform(0, 0.09), draws.uniform(0.012, 0.05)
    line = canvas.cover(thick - jnp.abs(signed - inset - thick)) * draws.happens(0.45)
    plate = ground * (1 - line) + rim * line
    drop = config.shading * canvas.maybe(0.5, draws.uniform(0.1, 0.5))
    shade = drop * jnp.exp(jnp.minimum(signed, 0) / draws.uniform(0.03, 0.15))
    around = wall * (1 - jnp.where(signed < 0, shade, 0))[..., None]
    inside = canvas.cover(signed)
    plated = around * (1 - inside) + plate * inside
    scene = jnp.where(draws.happens(0.55 * config.clutter), plated, ground)

    # Screws: left and right of the number, or in the corners.
    spot = (reach + jnp.array([0.18, 0.02])) * jnp.stack([1.0, canvas.maybe(0.5, 0.9)])
    apart = jnp.abs(canvas.positions) - spot
    dots = canvas.cover(0.055 - jnp.hypot(apart[..., 0], apart[..., 1]))
    dots *= draws.happens(0.12 * config.clutter)
    return scene * (1 - dots) + draws.uniform(0.1, 0.8) * dots


def _end_of_wall(canvas: Canvas, scene: jax.Array, wall: jax.Array) -> jax.Array:
    """For some a door frame, a gutter, a neighbour's wall: a band, or all beyond some line."""
    draws = canvas.draws
    turn = canvas.maybe(0.4, jnp.pi / 2) + canvas.maybe(0.5, jnp.pi) + draws.normal(0.08)
    beyond = canvas.across[..., 0] * jnp.cos(turn) + canvas.across[..., 1] * jnp.sin(turn)
    beyond = (beyond - draws.uniform(0.76, 1.02)) * 1.3
    band = jnp.where(draws.happens(0.4), jnp.minimum(beyond, 0.12 - beyond), beyond)
    shown = canvas.cover(band) * draws.happens(0.22 * canvas.config.clutter)
    return scene * (1 - shown) + jnp.clip(wall + draws.normal(0.25), 0.02, 1) * shown


def _digits(canvas: Canvas, row: Row, scene: jax.Array, color: jax.Array) -> jax.Array:
    """The digits: the shadow that they throw, outlines, light on the edges of raised ones, wear."""
    draws, config = canvas.draws, canvas.config
    x, y = canvas.positions[..., 0], canvas.positions[..., 1]
    light = jnp.stack([draws.normal(0.6), 0.7 + draws.normal(0.3)])
    throw = draws.uniform(0.03, 0.10)
    step = light * throw / jnp.hypot(light[0], light[1])
    ink, behind = distance(row, jnp.stack([canvas.positions, canvas.positions - step]))
    dark = config.shading * canvas.maybe(0.33, draws.uniform(0.15, 0.6))
    scene = scene * (1 - dark * canvas.cover(behind, draws.uniform(0.0, 0.06)))
    outline = canvas.cover(ink + 0.05) * draws.happens(0.05 * config.clutter)
    scene = scene * (1 - outline) + jnp.clip(1.1 - color, 0.05, 0.9) * outline

    relief = jnp.clip((ink - behind) / throw, -1, 1) * canvas.maybe(0.3, draws.uniform(0.05, 0.35))
    ramp = x * draws.normal(0.04) + y * draws.normal(0.12)
    gleam = jnp.exp(-(((y - draws.normal(0.3)) / 0.25) ** 2))
    gleam = config.shading * canvas.maybe(0.15, draws.normal(0.2)) * gleam
    body = color * (1 + config.shading * (relief + ramp))[..., None] + gleam[..., None]
    worn = config.clutter * canvas.maybe(0.25, 0.3)
    worn = worn * jnp.clip(canvas.textures[..., 1:] - 0.3, 0, 1)
    covered = canvas.cover(ink) * (1 - worn)
    return scene * (1 - covered) + body * covered


def _light(canvas: Canvas, scene: jax.Array) -> jax.Array:
    """Texture, light that falls off, and for some the edge of a shadow, over all of it."""
    draws, config = canvas.draws, canvas.config
    coarse = config.clutter * 0.035 * jnp.exp(draws.normal(0.6))
    fine = config.clutter * 0.009 * jnp.exp(draws.normal(0.7))
    scene = scene * (1 + coarse * canvas.textures[..., :1]) + fine * canvas.textures[..., 1:]
    x, y = canvas.across[..., :1], canvas.across[..., 1:]
    fall = x * draws.normal(0.07) + y * (0.02 + draws.normal(0.08))
    turn = draws.uniform(0, 2 * jnp.pi)
    side = x * jnp.cos(turn) + y * jnp.sin(turn) - draws.normal(0.5)
    shadow = jnp.clip(side / draws.uniform(0.05, 0.5) + 0.5, 0, 1)
    shadow = shadow * canvas.maybe(0.15, draws.uniform(0.1, 0.45))
    return scene * (1 + config.shading * fall) * (1 - config.shading * shadow)
