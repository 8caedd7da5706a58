"""Synthetic house numbers: 64x64 crops like those of SVHN, drawn by a pure function of a key.

    number = street.number(jax.random.key(0))  # .image [64, 64, 3], .labels [5]
    numbers = jax.jit(jax.vmap(street.number))(jax.random.split(jax.random.key(0), 256))
    train = street.make("train", 10_000, seed=0)  # uint8 arrays for a trainer

Lengths, digits, sizes and slopes are distributed as in SVHN (``svhn_statistics.py``), the digits
are from a hundred open fonts (``fonts.txt``, ``atlas.py``), and everything else is modeled to look
similar (``scene.py``, ``camera.py``). Results on these images are synthetic, and must be labeled
as such.
"""

from stn_jax.extras import extra

with extra("train"):
    from stn_jax.street_numbers.atlas import fonts
    from stn_jax.street_numbers.generate import (
        Number,
        draw,
        draw_labels,
        keep,
        make,
        number,
        source,
    )
    from stn_jax.street_numbers.generator_config import GeneratorConfig

__all__ = [
    "GeneratorConfig",
    "Number",
    "draw",
    "draw_labels",
    "fonts",
    "keep",
    "make",
    "number",
    "source",
]
