"""Where the time of a warp and its gradients goes: each of its operations alone.

    python -m benchmarks.parts [--rounds=30] [--budget=0.5] [--only=TEXT]

The whole is a forward and backward pass to image and theta (or grid), as ``benchmarks.warp`` times
it. The parts are given stored arrays, so their sum is not quite the whole, which XLA fuses where
it can and where it stores less.
"""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.harness import Report, compare, flags
from benchmarks.warp import CASES, Case, draw, ours
from stn_jax.warp import sample, taps


def parts(case: Case) -> dict[str, Any]:
    """The whole and its parts, as functions without arguments."""
    image, where, cotangent = map(jnp.asarray, draw(case))
    warp = ours(case)
    kept: dict[str, Any] = {}

    def keep(pixels: jax.Array, index: Any, weights: Any, **options: Any) -> jax.Array:
        kept.update(arrays=(pixels, index, weights), options=options)
        return taps.gather(pixels, index, weights, **options)

    @jax.jit
    def before(image: jax.Array, where: jax.Array) -> Any:
        with mock.patch.object(sample, "gather", keep):
            warp(image, where)
        return kept["arrays"]

    pixels, index, weights = before(image, where)
    options = kept["options"]

    @jax.jit
    def gathered(pixels: jax.Array, index: Any, weights: Any) -> jax.Array:
        return taps.gather(pixels, index, weights, **options)

    @jax.jit
    def to_weights(pixels: jax.Array, index: Any, weights: Any, values: jax.Array) -> Any:
        return jax.vjp(lambda w: taps.gather(pixels, index, w, **options), weights)[1](values)

    @jax.jit
    def to_pixels(pixels: jax.Array, index: Any, weights: Any, values: jax.Array) -> Any:
        return jax.vjp(lambda p: taps.gather(p, index, weights, **options), pixels)[1](values)

    @jax.jit
    def whole(image: jax.Array, where: jax.Array, cotangent: jax.Array) -> Any:
        out, pull_back = jax.vjp(warp, image, where)
        return out, pull_back(cotangent)

    values = cotangent.reshape(*pixels.shape[:1], -1, pixels.shape[2])
    return {
        "whole": lambda: whole(image, where, cotangent),
        "positions, indices, weights": lambda: before(image, where),
        "gather": lambda: gathered(pixels, index, weights),
        "dots (to theta or grid)": lambda: to_weights(pixels, index, weights, values),
        "scatter (to the image)": lambda: to_pixels(pixels, index, weights, values),
    }


def main(argv: Sequence[str] | None = None, cases: Sequence[Case] = CASES) -> None:
    parser = flags(__doc__, rounds=30, budget=0.5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args(argv)
    report = Report("parts", {"rounds": options.rounds, "budget": options.budget}, options.folder)
    for case in cases:
        if options.only in case.name:
            times = compare(parts(case), options.rounds, budget=options.budget)
            report.row(case.name, case._asdict(), times=times)


if __name__ == "__main__":
    main()
