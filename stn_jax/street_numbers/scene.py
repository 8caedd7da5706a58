"""The scene: a wall with a house number, its colors, and the illumination.

Convention
    As in :mod:`stn_jax.street_numbers.digit_row`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stn_jax.street_numbers.digit_row import Row, corners, distance
from stn_jax.street_numbers.generator_config import GeneratorConfig
from stn_jax.street_numbers.random_draws import RandomDraws

GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # luminance of red, green and blue
# Color steps that keep the luminance: from a violet blue (as in paint and daylight, not cyan)
# towards orange, which changes red minus blue by 1; and towards green.
WARM = np.array([0.336, -0.042, -0.664], np.float32)
GREEN = np.array([-0.587, 0.413, -0.587], np.float32)


class Paint(NamedTuple):
    """Colors, ``[3]`` each, in [0, 1] or slightly beyond."""

    digits: jax.Array
    ground: jax.Array  # background of the digits
    wall: jax.Array  # background of a plate
    rim: jax.Array  # rim of the plate


def mix(draws: RandomDraws, config: GeneratorConfig) -> Paint:
    """Colors as in SVHN: half of the numbers light on dark, most of them nearly gray."""
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
    # The color of the light affects everything.
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
    """The inputs for painting a scene.

    Attributes:
      draws: random numbers.
      config: strengths.
      positions: ``[H, W, 2]``, in the number's frame.
      across: ``[H, W, 2]``: the same in the crop's coordinates, from (-1, -1) to (1, 1).
      pixel: ``[]``, a pixel's size in heights, the width of soft edges.
      textures: ``[H, W, 2]``: a coarse and a fine one, normal with mean 0.
    """

    draws: RandomDraws
    config: GeneratorConfig
    positions: jax.Array
    across: jax.Array
    pixel: jax.Array
    textures: jax.Array

    def cover(self, signed: jax.Array, softness: ArrayLike = 0.0) -> jax.Array:
        """The coverage of each pixel, ``[H, W, 1]``, from its signed distance to the edge."""
        return jnp.clip(signed / (self.pixel + softness) + 0.5, 0, 1)[..., None]

    def maybe(self, probability: ArrayLike, value: ArrayLike) -> jax.Array:
        """The value with this probability, otherwise 0."""
        return jnp.where(self.draws.happens(probability), value, 0.0)


def paint(canvas: Canvas, row: Row) -> jax.Array:
    """Paints the scene, ``[H, W, 3]``."""
    colors = mix(canvas.draws, canvas.config)
    boards = _boards(canvas)
    ground = colors.ground * jnp.where(canvas.draws.happens(0.4), boards, 1.0)
    scene = _plate(canvas, row, ground, colors.wall * boards, colors.rim)
    scene = _end_of_wall(canvas, scene, colors.wall)
    scene = _digits(canvas, row, scene, colors.digits)
    return _light(canvas, scene)


def _boards(canvas: Canvas) -> jax.Array:
    """Boards or bricks, as a factor: dark lines, and a gradient from each line to the next."""
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
    """In some scenes a plate: a rounded rectangle or an oval, with a rim, screws, a shadow."""
    draws, config = canvas.draws, canvas.config
    box, present = corners(row)
    reach = jnp.where(present[:, None, None], jnp.abs(box), 0).max((0, 1))
    half = reach + 0.06 + 0.22 * jnp.exp(draws.normal(0.6, (2,)))
    position = canvas.positions - draws.normal(0.04, (2,))
    radius = jnp.minimum(half.min(), 0.02 + canvas.maybe(0.4, draws.uniform(0.05, 0.4)))
    inner = jnp.abs(position) - (half - radius)
    outside = jnp.maximum(inner, 0)
    rectangle = radius - jnp.hypot(outside[..., 0], outside[..., 1])
    rectangle -= jnp.minimum(inner.max(-1), 0)
    oval = position / (half * 1.25)
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

    # Screws, left and right of the number or in the corners.
    spot = (reach + jnp.array([0.18, 0.02])) * jnp.stack([1.0, canvas.maybe(0.5, 0.9)])
    apart = jnp.abs(canvas.positions) - spot
    dots = canvas.cover(0.055 - jnp.hypot(apart[..., 0], apart[..., 1]))
    dots *= draws.happens(0.12 * config.clutter)
    return scene * (1 - dots) + draws.uniform(0.1, 0.8) * dots


def _end_of_wall(canvas: Canvas, scene: jax.Array, wall: jax.Array) -> jax.Array:
    """In some scenes a door frame, a gutter, a neighbor's wall: a band or a half-plane."""
    draws = canvas.draws
    turn = canvas.maybe(0.4, jnp.pi / 2) + canvas.maybe(0.5, jnp.pi) + draws.normal(0.08)
    beyond = canvas.across[..., 0] * jnp.cos(turn) + canvas.across[..., 1] * jnp.sin(turn)
    beyond = (beyond - draws.uniform(0.76, 1.02)) * 1.3
    band = jnp.where(draws.happens(0.4), jnp.minimum(beyond, 0.12 - beyond), beyond)
    shown = canvas.cover(band) * draws.happens(0.22 * canvas.config.clutter)
    return scene * (1 - shown) + jnp.clip(wall + draws.normal(0.25), 0.02, 1) * shown


def _digits(canvas: Canvas, row: Row, scene: jax.Array, color: jax.Array) -> jax.Array:
    """The digits, with shadows, outlines, lit edges of raised digits, and wear."""
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
    """Texture and illumination of the whole scene: gradients, and sometimes a shadow's edge."""
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
