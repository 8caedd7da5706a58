"""How a training step's time grows with batch, image side, channels and seeds.

    python -m benchmarks.scaling [--variant=stn-sl1] [--rounds=7] [--budget=2] [--only=batch]

A step is that of ``benchmarks.step``, on noise. One quantity is varied with the others fixed, and a
power law is fitted: the slope of a line through the logarithms, with its standard error. It is
fitted twice, against the quantity and against the number of operations as counted by XLA, since the
work of a convolution without padding grows faster than the square of the image's side, and with the
square of its width.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks.harness import Report, compare, flags
from benchmarks.step_sides import JaxSide, initial, work
from stn_jax.models import create_model

FIXED = {"batch": 64, "side": 28, "width": 1.0, "seeds": 1}
SIZES = {
    "batch": (32, 64, 128, 256, 512),
    "side": (28, 40, 56, 80),
    "width": (0.5, 1.0, 2.0, 4.0),
    "seeds": (1, 2, 3, 5),
}


@functools.cache  # one setting is common to all quantities
def side_of(
    variant: str, batch: int, side: int, width: float, seeds: int, plain: bool = False
) -> JaxSide:
    """A step on noise."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, side, side, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, batch))
    model = create_model("rotated_mnist", variant, width=width)
    return JaxSide(model, initial(model, images, seeds), (images, labels), plain=plain)


def operations(variant: str, seeds: int, **setting: Any) -> float:
    """The number of the networks' operations with XLA's plain convolutions."""
    return seeds * work(side_of(variant, seeds=1, plain=True, **setting).lowered)[0]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Slope of log seconds over log size, and its standard error.

    Raises:
      ValueError: there are fewer than three sizes, too few for a standard error.
    """
    if len(sizes) < 3:
        raise ValueError(f"there are {len(sizes)} sizes; expected 3 or more for a standard error")
    fit = stats.linregress(np.log(sizes), np.log(seconds))
    return float(fit.slope), float(fit.stderr)


def measure(
    report: Report, variant: str, quantity: str, sizes: Sequence[float], rounds: int, budget: float
) -> None:
    """One row."""
    settings: dict[str, dict[str, Any]] = {
        f"{quantity} {size:g}": {**FIXED, quantity: size} for size in sizes
    }
    sides = {name: side_of(variant, **setting) for name, setting in settings.items()}
    times = compare(sides, rounds, budget=budget)
    needed = [operations(variant, **setting) for setting in settings.values()]
    seconds = [timing.median for timing in times.values()]
    slope, error = exponent(sizes, seconds)
    values = {"exponent": slope, "its standard error": error}
    if np.isfinite(needed).all():
        slope, error = exponent(needed, seconds)
        values |= {"exponent in operations": slope, "standard error in operations": error}
    others = {name: value for name, value in FIXED.items() if name != quantity}
    fixed = ", ".join(f"{name} {value:g}" for name, value in others.items())
    report.row(
        f"{variant} over {quantity} ({fixed})",
        {"variant": variant, "quantity": quantity, "sizes": list(sizes), **others},
        times=times,
        values=values,
    )


def main(
    argv: Sequence[str] | None = None, sizes: dict[str, tuple[float, ...]] | None = None
) -> None:
    parser = flags(__doc__, rounds=7, budget=2)
    parser.add_argument("--variant", default="stn-sl1")
    parser.add_argument("--only", choices=SIZES)
    options = parser.parse_args(argv)
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("scaling", shown, options.folder)
    for quantity, values in (sizes or SIZES).items():
        if options.only in (None, quantity):
            measure(report, options.variant, quantity, values, options.rounds, options.budget)


if __name__ == "__main__":
    main()
