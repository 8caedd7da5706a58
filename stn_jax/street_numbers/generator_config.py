"""How strongly generated house numbers are distorted."""

import dataclasses
import math

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Strengths: 1 is as in SVHN, 0 turns a thing off.

    A tree of numbers for JAX: an argument of compiled functions that can change from call to call,
    and be mapped over.

    Attributes:
      slope: of the row of digits, by a turned or sheared plate or digits on a diagonal.
      shear: slanted digits.
      perspective: digits larger on one side.
      layout: digits out of line, tilted, loosely or unevenly spaced.
      framing: boxes off the digits' outlines, and crops cut at the edge of a photograph.
      weight: strokes bolder or lighter than the font's.
      color: hues of digits and background.
      shading: gradients, shadows, raised digits.
      clutter: plates, frames, screws, boards, texture, parts of other digits.
      resolution: few pixels, as many as SVHN's boxes have.
      blur: out of focus, fringes of colour, sharpening.
      noise: of the sensor.
      jpeg: loss by compression.
    """

    slope: float | jax.Array = 1.0
    shear: float | jax.Array = 1.0
    perspective: float | jax.Array = 1.0
    layout: float | jax.Array = 1.0
    framing: float | jax.Array = 1.0
    weight: float | jax.Array = 1.0
    color: float | jax.Array = 1.0
    shading: float | jax.Array = 1.0
    clutter: float | jax.Array = 1.0
    resolution: float | jax.Array = 1.0
    blur: float | jax.Array = 1.0
    noise: float | jax.Array = 1.0
    jpeg: float | jax.Array = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            # JAX puts other things into its trees, too.
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"setting {name} is {value}; expected a number from 0 (off) on")

    @classmethod
    def off(cls, **strengths: float | jax.Array) -> "GeneratorConfig":
        """All config at 0, but those that are named."""
        return cls(**{field.name: 0.0 for field in dataclasses.fields(cls)} | strengths)


AS_IN_SVHN = GeneratorConfig()
