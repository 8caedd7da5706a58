"""The wall with the house number on it: where its digits stand, and what light comes from where.

Convention
    The number's frame: x along the row of digits, y downwards, in heights of a digit, from the
    middle of the row. The view: the same as the camera sees it, x and y in the photograph.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.street import atlas, statistics
from stn_jax.data.street.chance import Chance
from stn_jax.data.street.knobs import Knobs
from stn_jax.warp import grid_sample

POSITIONS = statistics.POSITIONS
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
    size: jax.Array  # [SLOTS, 2]: width and height of the ink; width as the font has it
    stretch: jax.Array  # []: how much wider the digits are than the font's
    tilt: jax.Array  # [SLOTS], radians
    weight: jax.Array  # []: added to the stroke, half on each side, in heights


def place(chance: Chance, labels: jax.Array, knobs: Knobs) -> Row:
    """Sets the digits of a number in a row, or on a diagonal, and parts of others around it.

    Args:
      chance: random numbers.
      labels: int32 ``[POSITIONS]``.
      knobs: strengths.
    """
    glyphs = atlas.load()
    font = jnp.minimum(chance.uniform(0, len(glyphs.width)).astype(int), len(glyphs.width) - 1)
    shown = labels < 10
    count = shown.sum()
    others = chance.uniform(0, 10, (OTHERS,)).astype(int)
    digit = jnp.concatenate([jnp.where(shown, labels, 0), others])
    width = jnp.asarray(glyphs.width)[font, digit]
    height = jnp.asarray(glyphs.height)[font, digit]
    stretch = 0.8 * jnp.exp(chance.normal(0.2))

    # Gaps are alike within a number, mostly.
    gap = chance.quantile(statistics.LEVELS, np.clip(statistics.GAP, -0.12, 0.9))
    uneven = chance.normal(0.03, (POSITIONS,))
    gap = 0.09 + knobs.layout * (0.8 * jnp.maximum(gap, -0.09) + uneven)
    # Typewriter spacing: a narrow digit stands in the middle of as much room as any other.
    own_width = width[:POSITIONS]
    even = chance.happens(0.35 * knobs.layout)
    room = jnp.where(even, jnp.maximum(own_width, 0.5), own_width)
    advance = room * stretch + jnp.maximum(gap, 0.02)
    own = jnp.where(shown, advance, 0)
    end = jnp.cumsum(own)
    x = end - own / 2 - end[-1] / 2
    y = chance.normal(0.02 * knobs.layout, (POSITIONS,))
    tilt = chance.normal(0.035 * knobs.layout, (SLOTS,))
    tilt = tilt * jnp.where(chance.happens(0.25), 2.5, 0.5)
    first = jnp.stack([x, y], -1)

    # Others: beside the row, or above or below it, and partly out of sight.
    near = chance.uniform(0.05, 0.35, (OTHERS,))
    present = chance.happens(jnp.array([0.04, 0.04, 0.05]) * knobs.clutter, (OTHERS,))
    half = end[-1] / 2 + width[POSITIONS:] / 2 * stretch + near
    side = chance.uniform(-0.5, 0.5, (OTHERS,))
    over = jnp.where(side[2] < 0, -1.0, 1.0) * (1.05 + near[2])
    beside = jnp.stack(
        [
            jnp.stack([-half[0], 0.2 * side[0]]),
            jnp.stack([half[1], 0.2 * side[1]]),
            jnp.stack([side[2] * end[-1], over]),
        ]
    )
    shown = jnp.concatenate([shown, present & (count > 0)])
    middle = jnp.where(shown[:, None], jnp.concatenate([first, beside]), AWAY)
    size = jnp.stack([width, height], -1)
    # Not so much that thin strokes vanish, or holes fill.
    weight = knobs.weight * jnp.clip(0.006 + chance.normal(0.012), -0.02, 0.035)
    return Row(font, digit, middle, size, stretch, tilt, weight)


def slope(chance: Chance, row: Row, knobs: Knobs) -> tuple[Row, jax.Array]:
    """Slopes the row: what is not done by the digits' places is done by the view.

    Returns:
      The row, its digits on a diagonal or above each other for some; and the view of the number's
      frame as a homography ``[3, 3]`` from there to the photograph.
    """
    degrees = chance.quantile(statistics.LEVELS, np.clip(statistics.SLOPE, -90, 90))
    angle = jnp.deg2rad(degrees) * knobs.slope
    steep = jnp.abs(angle) > np.deg2rad(14)
    diagonal = chance.happens(jnp.where(steep, 0.6, 0.1)) | (jnp.abs(angle) > np.deg2rad(35))

    # On a diagonal neighbours are as far apart as they must be, across or down.
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    steps = jnp.minimum(1 / jnp.maximum(cosine, 0.05), 1.75 / jnp.maximum(jnp.abs(sine), 0.05))
    along = row.middle[:POSITIONS, 0]
    moved = jnp.stack([along * cosine * steps, row.middle[:POSITIONS, 1] + along * sine * steps], -1)
    moved = row.middle.at[:POSITIONS].set(jnp.where(along[:, None] < AWAY / 2, moved, AWAY))
    row = row._replace(middle=jnp.where(diagonal, moved, row.middle))

    angle = jnp.where(diagonal, 0.0, angle)
    # Seen from the side a row slopes and its digits stay upright; a plate that hangs askew turns.
    turn = angle * jnp.where(chance.happens(0.35), 1.0, chance.uniform(0, 0.3))
    lift = jnp.tan(angle - turn)
    askew = chance.normal(0.02 * knobs.slope)
    turn = turn + askew
    slant = -knobs.shear * (chance.normal(0.07) + chance.happens(0.12) * chance.uniform(0, 0.25))
    cosine, sine = jnp.cos(turn), jnp.sin(turn)
    rotation = jnp.array([[cosine, -sine], [sine, cosine]])
    matrix = rotation @ jnp.array([[1.0, 0.0], [lift, 1.0]]) @ jnp.array([[1.0, slant], [0.0, 1.0]])
    vanish = knobs.perspective * chance.normal(jnp.array([0.07, 0.04]), (2,))
    view = jnp.zeros((3, 3)).at[:2, :2].set(matrix).at[2, :2].set(vanish).at[2, 2].set(1.0)
    return row, view


def corners(row: Row) -> tuple[jax.Array, jax.Array]:
    """The corners of the digits' boxes ``[POSITIONS, 4, 2]``, and which there are ``[POSITIONS]``."""
    half = (row.size[:POSITIONS] + row.weight * 2) / 2
    half = half * jnp.stack([row.stretch, jnp.ones(())])
    signs = jnp.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    around = half[:, None] * signs
    cosine, sine = jnp.cos(row.tilt[:POSITIONS]), jnp.sin(row.tilt[:POSITIONS])
    turned = jnp.stack(
        [
            around[..., 0] * cosine[:, None] - around[..., 1] * sine[:, None],
            around[..., 0] * sine[:, None] + around[..., 1] * cosine[:, None],
        ],
        -1,
    )
    middle = row.middle[:POSITIONS]
    return middle[:, None] + turned, middle[:, 0] < AWAY / 2


def distance(row: Row, positions: jax.Array) -> jax.Array:
    """Signed distance from the digits' outlines, in heights, positive inside.

    The digits lie side by side in one image; each position is looked up in the digit whose box is
    nearest to it.

    Args:
      row: the digits.
      positions: ``[H, W, 2]``, number's frame.

    Returns:
      ``[H, W]``; cut at ``atlas.REACH``.
    """
    cells = jnp.asarray(atlas.load().distance)[row.font, row.digit]
    strip = cells.transpose(1, 0, 2).reshape(atlas.CELL, SLOTS * atlas.CELL, 1)
    offset = positions[..., None, :] - row.middle
    cosine, sine = jnp.cos(row.tilt), jnp.sin(row.tilt)
    local_x = (offset[..., 0] * cosine + offset[..., 1] * sine) / row.stretch
    local_y = offset[..., 1] * cosine - offset[..., 0] * sine
    beyond = jnp.maximum(
        jnp.abs(local_x) - row.size[:, 0] / 2, jnp.abs(local_y) - row.size[:, 1] / 2
    )
    slot = jnp.argmin(beyond, -1)
    nearest = slot[..., None] == jnp.arange(SLOTS)
    # Within the cell, and not so near to its edge that the next one shows.
    edge = (atlas.CELL - 1) / 2 / atlas.HEIGHT
    x, y = (
        jnp.clip(jnp.sum(jnp.where(nearest, local, 0), -1), -edge, edge)
        for local in (local_x, local_y)
    )
    half_cell = atlas.CELL / 2 / atlas.HEIGHT
    across = (2 * slot + 1 + x / half_cell) / SLOTS - 1
    grid = jnp.stack([across, y / half_cell], -1)
    return grid_sample(strip, grid, padding_mode="border")[..., 0] + row.weight


class Paint(NamedTuple):
    """Colours, ``[3]`` each, in [0, 1] or a little beyond."""

    digits: jax.Array
    ground: jax.Array  # what the digits are on
    wall: jax.Array  # what is around a plate
    rim: jax.Array  # of the plate


def mix(chance: Chance, knobs: Knobs) -> Paint:
    """Colours as in SVHN: half of the numbers light on dark, most of them nearly gray."""

    def tint(bias: float, strength: jax.Array) -> jax.Array:
        warm = bias + chance.normal(0.07)
        green = -0.004 + chance.normal(0.02)
        return knobs.color * strength * (warm * WARM + green * GREEN)

    light = chance.happens(0.5)
    ground = jnp.where(light, 0.30 + chance.normal(0.13), 0.64 + chance.normal(0.18))
    contrast = jnp.clip(0.31 * jnp.exp(chance.normal(0.40)), 0.16, 0.8)
    ground = jnp.clip(ground, 0.06, 0.97)
    digits = jnp.clip(ground + jnp.where(light, contrast, -contrast), 0.03, 1.0)
    wall = jnp.clip(ground + chance.normal(0.22), 0.05, 0.95)
    rim = jnp.where(chance.happens(0.6), digits, jnp.clip(ground - 0.2, 0.03, 1))

    # A few plates are plainly blue, red, green or yellow: steps of WARM and GREEN.
    vivid = chance.happens(0.13 * knobs.color)
    dark = jnp.array([[-0.55, -0.02], [-0.45, -0.01], [-0.35, 0.02], [0.4, -0.12], [0.0, 0.1]])
    bright = jnp.array([[-0.2, 0.0], [0.35, 0.05], [0.45, 0.08], [0.25, -0.05], [-0.1, 0.06]])
    which = jnp.minimum(chance.uniform(0, 5).astype(int), 4)
    hue = jnp.where(light, dark, bright)[which]
    warm, green = hue * jnp.clip(ground, 0.2, 0.6) / 0.4 * chance.uniform(0.5, 1.1)
    # Light falls on all of it.
    cast = tint(-0.05, jnp.where(chance.happens(0.12), 2.0, 0.75))
    plain = jnp.ones(3)
    ground_color = ground * plain + cast * (0.4 + ground) + tint(0, jnp.full((), 0.5))
    ground_color += jnp.where(vivid, warm * WARM + green * GREEN, 0)
    digits_color = digits * plain + cast * (0.4 + digits) + tint(-0.03, jnp.full((), 0.55))
    wall_color = wall * plain + cast * (0.4 + wall) + tint(0.02, jnp.full((), 0.9))
    rim_color = jnp.where(rim == digits, digits_color, rim * plain + cast)
    return Paint(digits_color, ground_color, wall_color, rim_color)


def paint(
    chance: Chance,
    row: Row,
    positions: jax.Array,
    across: jax.Array,
    pixel: jax.Array,
    textures: jax.Array,
    knobs: Knobs,
) -> jax.Array:
    """Paints what is seen at each position.

    Args:
      chance: random numbers.
      row: the digits.
      positions: ``[H, W, 2]``, number's frame.
      across: ``[H, W, 2]``: the same in the crop, from (-1, -1) to (1, 1).
      pixel: a pixel's size in heights; edges are that soft.
      textures: ``[H, W, 2]``: a coarse and a fine one, normal about 0.
      knobs: strengths.

    Returns:
      ``[H, W, 3]``.
    """
    colors = mix(chance, knobs)
    x, y = positions[..., 0], positions[..., 1]

    def cover(signed: jax.Array, softness: jax.Array | float = 0.0) -> jax.Array:
        return jnp.clip(signed / (pixel + softness) + 0.5, 0, 1)[..., None]

    def maybe(probability: float, value: jax.Array) -> jax.Array:
        return jnp.where(chance.happens(probability), value, 0.0)

    # A wall of boards, or bricks: dark lines, and a shade that falls from each to the next.
    wall = colors.wall
    ground = colors.ground
    boards_on_ground = chance.happens(0.4)
    period = chance.uniform(0.35, 1.6)
    upright = chance.happens(0.3)
    along = jnp.where(upright, x, y)
    phase = jnp.mod(along / period + chance.uniform(), 1.0)
    line = jnp.exp(-(((phase - 0.5) * period / 0.05) ** 2))
    depth = maybe(0.22 * knobs.clutter, chance.uniform(0.04, 0.25))
    boards = (1 - depth * line - 0.4 * depth * phase)[..., None]
    wall = wall * boards
    ground = ground * jnp.where(boards_on_ground, boards, 1.0)

    # A plate: a rectangle with round corners, often with a rim.
    plated = chance.happens(0.55 * knobs.clutter)
    box, there = corners(row)
    reach = jnp.where(there[:, None, None], jnp.abs(box), 0).max((0, 1))
    margin = 0.06 + 0.22 * jnp.exp(chance.normal(0.6, (2,)))
    half = reach + margin
    shift = chance.normal(0.04, (2,))
    radius = jnp.minimum(half.min(), 0.02 + maybe(0.4, chance.uniform(0.05, 0.4)))
    inner = jnp.abs(positions - shift) - (half - radius)
    signed = radius - jnp.hypot(jnp.maximum(inner[..., 0], 0), jnp.maximum(inner[..., 1], 0))
    signed = signed - jnp.minimum(inner.max(-1), 0)
    round_plate = chance.happens(0.06)
    oval = (1 - jnp.hypot(*(jnp.moveaxis((positions - shift) / (half * 1.25), -1, 0)))) * half.min()
    signed = jnp.where(round_plate, oval, signed)
    inset, thick = chance.uniform(0, 0.09), chance.uniform(0.012, 0.05)
    rim = cover(thick - jnp.abs(signed - inset - thick)) * chance.happens(0.45)
    plate = ground * (1 - rim) + colors.rim * rim
    drop = knobs.shading * maybe(0.5, chance.uniform(0.1, 0.5))
    shade = drop * jnp.exp(jnp.minimum(signed, 0) / chance.uniform(0.03, 0.15))[..., None]
    around = wall * (1 - jnp.where(signed < 0, 1.0, 0.0)[..., None] * shade)
    inside = cover(signed)
    scene = jnp.where(plated, around * (1 - inside) + plate * inside, ground)

    # Screws: dots left and right of the number, or in the corners.
    spot = reach + jnp.stack([0.16, 0.0]) + margin * 0.1
    spot = spot * jnp.stack([1.0, jnp.where(chance.happens(0.5), 0.0, 0.9)])
    dot = 0.055 - jnp.hypot(jnp.abs(x) - spot[0], jnp.abs(y) - spot[1])
    screws = cover(dot) * chance.happens(0.12 * knobs.clutter)
    scene = scene * (1 - screws) + screws * chance.uniform(0.1, 0.8)

    # The end of the wall, a door frame, a gutter: another colour on one side, or a band.
    turn = jnp.where(chance.happens(0.6), 0.0, jnp.pi / 2) + chance.normal(0.08)
    turn = turn + jnp.where(chance.happens(0.5), jnp.pi, 0.0)
    beyond = across[..., 0] * jnp.cos(turn) + across[..., 1] * jnp.sin(turn)
    beyond = (beyond - chance.uniform(0.76, 1.02)) * 1.3
    band = jnp.where(chance.happens(0.4), jnp.minimum(beyond, 0.12 - beyond), beyond)
    frame = cover(band) * chance.happens(0.22 * knobs.clutter)
    other = jnp.clip(colors.wall + chance.normal(0.25), 0.02, 1)
    scene = scene * (1 - frame) + other * frame

    # Digits, what shadow they throw, and light on the edges of raised ones.
    ink = distance(row, positions)
    light = jnp.stack([chance.normal(0.6), 0.7 + chance.normal(0.3)])
    light = light / jnp.hypot(light[0], light[1])
    throw = chance.uniform(0.03, 0.10)
    behind = distance(row, positions - light * throw)
    raised = chance.happens(0.33)
    dark = knobs.shading * jnp.where(raised, chance.uniform(0.15, 0.6), 0.0)
    scene = scene * (1 - dark * cover(behind, chance.uniform(0.0, 0.06)))
    outline = chance.happens(0.05 * knobs.clutter)
    edge = cover(ink + 0.05) * outline
    scene = scene * (1 - edge) + jnp.clip(1.1 - colors.digits, 0.05, 0.9) * edge
    relief = jnp.clip((ink - behind) / throw, -1, 1)[..., None]
    relief = relief * knobs.shading * maybe(0.3, chance.uniform(0.05, 0.35))
    ramp = knobs.shading * (x * chance.normal(0.04) + y * chance.normal(0.12))[..., None]
    gleam = jnp.exp(-(((y - chance.normal(0.3)) / 0.25) ** 2))[..., None]
    gleam = gleam * knobs.shading * maybe(0.15, chance.normal(0.2))
    worn = 1 - knobs.clutter * maybe(0.25, jnp.full((), 0.3)) * jnp.clip(
        textures[..., 1:] - 0.3, 0, 1
    )
    body = colors.digits * (1 + ramp + relief) + gleam
    covered = cover(ink) * worn
    scene = scene * (1 - covered) + body * covered

    # Texture and light over all of it.
    coarse = knobs.clutter * 0.035 * jnp.exp(chance.normal(0.6))
    fine = knobs.clutter * 0.009 * jnp.exp(chance.normal(0.7))
    scene = scene * (1 + coarse * textures[..., :1]) + fine * textures[..., 1:]
    slope_x, slope_y = chance.normal(0.07), 0.02 + chance.normal(0.08)
    scene = scene * (1 + knobs.shading * (slope_x * across[..., :1] + slope_y * across[..., 1:]))
    turn = chance.uniform(0, 2 * jnp.pi)
    side = across[..., 0] * jnp.cos(turn) + across[..., 1] * jnp.sin(turn) - chance.normal(0.5)
    shadow = jnp.clip(side / chance.uniform(0.05, 0.5) + 0.5, 0, 1)[..., None]
    shadow = shadow * knobs.shading * maybe(0.15, chance.uniform(0.1, 0.45))
    return scene * (1 - shadow)
