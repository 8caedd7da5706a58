"""The layout of a house number's digits: their row, its slope, and distances from the digits.

Convention
    The number's frame: x along the row of digits, y downwards, in heights of a digit, from the
    center of the row. The view: the same as seen by the camera, x and y in the photograph.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.house_numbers import NONE, POSITIONS
from stn_jax.street_numbers import atlas, svhn_statistics
from stn_jax.street_numbers.generator_config import GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws
from stn_jax.warp import grid_sample

OTHERS = 3  # parts of other numbers: left, right, and above or below
SLOTS = POSITIONS + OTHERS
AWAY = 1e3  # position of absent digits


class Row(NamedTuple):
    """The layout of the digits."""

    font: jax.Array  # int32 []
    digit: jax.Array  # int32 [SLOTS]
    middle: jax.Array  # [SLOTS, 2], centers in the number's frame
    size: jax.Array  # [SLOTS, 2]: width and height of the ink in the font
    stretch: jax.Array  # []: horizontal stretch of the digits
    tilt: jax.Array  # [SLOTS], radians
    weight: jax.Array  # []: added on either side of a stroke, in heights


def arrange(draws: RandomDraws, labels: jax.Array, config: GeneratorConfig) -> Row:
    """Arranges the digits of a number in a row, with parts of other numbers around it.

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

    # Gaps are mostly equal within a number. Gaps between boxes are smaller than between the ink.
    gap = draws.quantile(svhn_statistics.LEVELS, np.clip(svhn_statistics.GAP, -0.09, 0.9))
    gap = 0.09 + config.layout * (0.8 * gap + draws.normal(0.03, (POSITIONS,)))
    # Monospacing: narrow digits are centered in the same advance width as others.
    own = width[:POSITIONS]
    own = jnp.where(draws.happens(0.35 * config.layout), jnp.maximum(own, 0.5), own)
    advance = jnp.where(shown, own * stretch + jnp.maximum(gap, 0.02), 0)
    end = jnp.cumsum(advance)
    x = end - advance / 2 - end[-1] / 2
    y = draws.normal(0.02 * config.layout, (POSITIONS,))
    tilt = draws.normal(0.035 * config.layout, (SLOTS,))
    tilt = tilt * jnp.where(draws.happens(0.25), 2.5, 0.5)

    # Other numbers: beside the row, or above or below it, and partly outside the image.
    near = draws.uniform(0.05, 0.35, (OTHERS,))
    present = draws.happens(jnp.array([0.04, 0.04, 0.05]) * config.clutter, (OTHERS,))
    reach = end[-1] / 2 + width[POSITIONS:] / 2 * stretch + near
    aside = draws.uniform(-0.5, 0.5, (OTHERS,))
    other_x = jnp.stack([-reach[0], reach[1], aside[2] * end[-1]])
    other_y = jnp.stack([0.2 * aside[0], 0.2 * aside[1], jnp.sign(aside[2]) * (1.05 + near[2])])

    middle = jnp.stack([jnp.concatenate([x, other_x]), jnp.concatenate([y, other_y])], -1)
    middle = jnp.where(jnp.concatenate([shown, present])[:, None], middle, AWAY)
    # Limited, so that thin strokes do not vanish and holes do not fill.
    weight = config.weight * jnp.clip(0.006 + draws.normal(0.012), -0.02, 0.035)
    return Row(font, digit, middle, jnp.stack([width, height], -1), stretch, tilt, weight)


def slope(draws: RandomDraws, row: Row, config: GeneratorConfig) -> tuple[Row, jax.Array]:
    """Slopes the row, by the digits' positions or by the view.

    Returns:
      The row, in some cases with its digits on a diagonal or above each other; and the view, a
      homography ``[3, 3]`` from the number's frame that keeps its origin.
    """
    degrees = draws.quantile(svhn_statistics.LEVELS, np.clip(svhn_statistics.SLOPE, -90, 90))
    angle = jnp.deg2rad(degrees) * config.slope
    steepness = jnp.abs(angle)
    diagonal = draws.happens(jnp.where(steepness > np.deg2rad(14), 0.6, 0.1))
    diagonal |= steepness > np.deg2rad(35)

    # On a diagonal, neighbors are as far apart as they need to be, across or down.
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    apart = jnp.minimum(1 / jnp.maximum(cosine, 0.05), 1.75 / jnp.maximum(jnp.abs(sine), 0.05))
    along, lifted = row.middle[:POSITIONS, 0], row.middle[:POSITIONS, 1]
    moved = jnp.stack([along * cosine * apart, lifted + along * sine * apart], -1)
    moved = row.middle.at[:POSITIONS].set(jnp.where(along[:, None] < AWAY / 2, moved, AWAY))
    row = row._replace(middle=jnp.where(diagonal, moved, row.middle))

    angle = jnp.where(diagonal, 0.0, angle)
    # Seen from the side, a row slopes while its digits stay upright; a crooked plate is rotated.
    turn = angle * jnp.where(draws.happens(0.35), 1.0, draws.uniform(0, 0.3))
    lift = jnp.tan(angle - turn)
    turn += draws.normal(0.02 * config.slope)
    slant = -config.shear * (draws.normal(0.07) + draws.happens(0.12) * draws.uniform(0, 0.25))
    sine, cosine = jnp.sin(turn), jnp.cos(turn)
    # The product rotation * lift * slant, see stn_jax.warp.products.
    upright = jnp.stack([slant, 1 + lift * slant])
    across = jnp.stack([jnp.ones(()), lift])
    columns = [
        jnp.stack([cosine * x - sine * y, sine * x + cosine * y]) for x, y in (across, upright)
    ]
    vanish = config.perspective * draws.normal(jnp.array([0.07, 0.04]), (2,))
    view = jnp.eye(3).at[:2, :2].set(jnp.stack(columns, -1)).at[2, :2].set(vanish)
    return row, view


def corners(row: Row) -> tuple[jax.Array, jax.Array]:
    """The corners of the digits' boxes, and which digits are present.

    Returns:
      ``[POSITIONS, 4, 2]``, in the number's frame, and bool ``[POSITIONS]``.
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

    The digits are side by side in one image; each position samples the digit with the nearest box.

    Args:
      row: the digits.
      positions: ``[..., H, W, 2]``, in the number's frame.

    Returns:
      ``[..., H, W]``; clipped to ``atlas.REACH``.
    """
    cells = jnp.asarray(atlas.load().distance)[row.font, row.digit]
    strip = cells.transpose(1, 0, 2).reshape(atlas.CELL, SLOTS * atlas.CELL, 1)
    half = atlas.CELL / 2 / atlas.HEIGHT
    edge = half - 0.5 / atlas.HEIGHT  # far enough from the next cell not to interpolate with it
    nearest = jnp.full(positions.shape[:-1], jnp.inf)
    across = down = jnp.zeros(positions.shape[:-1])
    for slot in range(SLOTS):  # the compiler fuses this loop into a single pass
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
