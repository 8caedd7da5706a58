"""Time of the bilinear warp in plain JAX, in forms for accelerators.

    python -m benchmarks.gather [--rounds=30] [--budget=0.5] [--only=TEXT]

The first side is the package's form without native kernels: a gather for each of the four taps, and
for the gradient to the image a scatter for each. "packed" gathers once: the four neighbors of each
pixel are stacked along the channels, as in scenic's deformable attention, written for TPUs.
"deterministic" sums gradients in a fixed order, see ``stn_jax.grid_sample``; it is timed only on
accelerators, since on a CPU it is the first side. Errors are the largest differences from the first
side, for gradients relative to the largest element.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Report, compare, flags
from benchmarks.warp import Case, draw
from stn_jax.warp import grid_sample, normalized_to_pixel
from stn_jax.warp.primitives import force_implementation

CASES = (
    Case((256, 28, 28, 1), (28, 28), "flow"),
    Case((128, 64, 64, 3), (64, 64), "flow"),
    Case((128, 16, 16, 128), (16, 16), "flow"),
    Case((8, 256, 256, 3), (256, 256), "flow"),
    Case((2, 96, 160, 128), (96, 160), "flow"),
    Case((3, 256, 256, 32), (1, 300_000), "points"),
)

# The arguments to which gradients are computed: 0 is the image, 1 the grid.
KINDS = {"forward": (), "backward to grid": (1,), "backward to image and grid": (0, 1)}


def packed_sample(image: jax.Array, grid: jax.Array) -> jax.Array:
    """:func:`stn_jax.grid_sample` by a single gather: bilinear, zeros outside.

    Args:
      image: ``[B, H, W, C]``.
      grid: ``[B, H_out, W_out, 2]``, finite.

    Returns:
      ``[B, H_out, W_out, C]``.
    """
    batch, height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [padded[:, i : i + height + 1, j : j + width + 1] for i in (0, 1) for j in (0, 1)]
    packed = jnp.concatenate(corners, -1).reshape(batch, (height + 1) * (width + 1), 4 * channels)
    (column, u), (row, v) = (
        _low_and_fraction(normalized_to_pixel(grid[..., k], size), size)
        for k, size in enumerate((width, height))
    )
    index = ((row + 1) * (width + 1) + column + 1).reshape(batch, -1)
    found = jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds"))(packed, index)
    found = found.reshape(*grid.shape[:-1], 4, channels)
    weights = jnp.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], -1)
    return (found * weights[..., None]).sum(-2)


def _low_and_fraction(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The pixel below a position, from -1 to size - 1, and the position's distance from it."""
    x = jax.lax.optimization_barrier(jnp.clip(x, -1, size))
    low = jnp.minimum(jnp.floor(x), size - 1)
    return low.astype(jnp.int32), x - low


def sides() -> dict[str, Callable[..., jax.Array]]:
    """Functions of an image and a grid; the first is the package's form."""
    found: dict[str, Callable[..., jax.Array]] = {"stn_jax": grid_sample, "packed": packed_sample}
    if jax.default_backend() != "cpu":
        found["deterministic"] = functools.partial(grid_sample, deterministic=True)
    return found


def compiled(warp: Callable[..., jax.Array], wrt: Sequence[int], args: Sequence[Any]) -> Any:
    """The compiled program for the output, or for the gradients to some of the arguments."""

    def program(image: jax.Array, grid: jax.Array, cotangent: jax.Array) -> Any:
        if not wrt:
            return (warp(image, grid),)
        return jax.grad(lambda *both: (warp(*both) * cotangent).sum(), wrt)(image, grid)

    with force_implementation("xla"):
        return jax.jit(program).lower(*args).compile()


def main(argv: Sequence[str] | None = None, cases: Sequence[Case] = CASES) -> None:
    parser = flags(__doc__, rounds=30, budget=0.5)
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    options = parser.parse_args(argv)
    report = Report("gather", {"rounds": options.rounds, "budget": options.budget}, options.folder)
    for case in cases:
        args = [jnp.asarray(x) for x in draw(case)]
        for kind, wrt in KINDS.items():
            name = f"{case.name}, {kind}"
            if options.only not in name:
                continue
            programs = {side: compiled(warp, wrt, args) for side, warp in sides().items()}
            expected, *others = (program(*args) for program in programs.values())
            accuracy = {
                side: {"largest": max(map(_error, found, expected))}
                for side, found in zip(list(programs)[1:], others, strict=True)
            }
            report.row(
                name,
                {"image": case.image, "out": case.out, "gradients": len(wrt)},
                times=compare(
                    {side: functools.partial(program, *args) for side, program in programs.items()},
                    options.rounds,
                    budget=options.budget,
                ),
                accuracy=accuracy,
            )


def _error(found: jax.Array, expected: jax.Array) -> float:
    largest = max(1.0, float(jnp.abs(expected).max()))
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max()) / largest


if __name__ == "__main__":
    main()
