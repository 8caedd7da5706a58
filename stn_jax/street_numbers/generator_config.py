"""The strengths of the variations in generated house numbers."""

import dataclasses
import math

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Strengths of the variations: 1 is as in SVHN, 0 turns one off.

    A JAX pytree of numbers: it can be passed to compiled functions without recompilation, and
    mapped over.

    Attributes:
      slope: of the row of digits, by a rotated or sheared plate or digits on a diagonal.
      shear: slanted digits.
      perspective: digits larger on one side.
      layout: misaligned, tilted, loosely or unevenly spaced digits.
      framing: inaccurate boxes, and crops truncated at the edge of a photograph.
      weight: strokes bolder or lighter than the font's.
      color: hues of digits and background.
      shading: gradients, shadows, raised digits.
      clutter: plates, frames, screws, boards, texture, parts of other digits.
      resolution: low resolution, as in SVHN.
      blur: defocus, chromatic aberration, sharpening.
      noise: sensor noise.
      jpeg: compression loss.
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
            # JAX also puts other objects into its pytrees.
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; expected a finite number, 0 (off) or more")

    @classmethod
    def off(cls, **strengths: float | jax.Array) -> "GeneratorConfig":
        """All strengths 0, except the given ones."""
        return cls(**{field.name: 0.0 for field in dataclasses.fields(cls)} | strengths)


AS_IN_SVHN = GeneratorConfig()
