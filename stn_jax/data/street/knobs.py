"""How strongly generated house numbers are distorted."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Knobs:
    """Strengths: 1 is as in SVHN, 0 turns a thing off.

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

    slope: float = 1.0
    shear: float = 1.0
    perspective: float = 1.0
    layout: float = 1.0
    framing: float = 1.0
    weight: float = 1.0
    color: float = 1.0
    shading: float = 1.0
    clutter: float = 1.0
    resolution: float = 1.0
    blur: float = 1.0
    noise: float = 1.0
    jpeg: float = 1.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"knob {name} is {value}; expected a number from 0 (off) on")

    @classmethod
    def off(cls, **strengths: float) -> "Knobs":
        """All knobs at 0, but those that are named."""
        return cls(**{field.name: 0.0 for field in dataclasses.fields(cls)} | strengths)


AS_IN_SVHN = Knobs()
