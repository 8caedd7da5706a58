"""Time of operations called outside ``jax.jit``.

    python -m benchmarks.eager [--rounds=20] [--budget=1] [--only=TEXT]

Each public operation is one compiled program. "operation by operation" is the same function without
that (calls of other operations inside it are still compiled). The first call includes compilation.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax
import stn_jax.augment
from benchmarks.harness import Report, compare, flags, ratio


def calls() -> dict[str, functools.partial[Any]]:
    """Calls with small arrays, by the operation's name."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((4, 40, 40, 3)), jnp.float32)
    boxes = jnp.asarray([[[2.0, 3, 20, 30], [1, 1, 9, 9]]])
    where = jnp.linspace(0.0, 30.0, 50)
    key, targets = jax.random.key(0), stn_jax.augment.Targets(image)
    part = functools.partial
    return {
        "affine_transform": part(stn_jax.affine_transform, image, jnp.eye(2, 3)),
        "affine_transform, antialias": part(
            stn_jax.affine_transform, image, jnp.eye(2, 3), (20, 20), antialias=True
        ),
        "warp_perspective": part(stn_jax.warp_perspective, image, jnp.eye(3), (40, 40)),
        "flow_warp": part(stn_jax.flow_warp, image, jnp.zeros((40, 40, 2))),
        "crop_and_resize": part(stn_jax.crop_and_resize, image, boxes, (3, 2)),
        "roi_align": part(stn_jax.roi_align, image, boxes, (3, 2)),
        "map_coordinates, order 3": part(
            stn_jax.map_coordinates, image[0, :, :, 0], [where, where]
        ),
        "random_affine": part(stn_jax.augment.random_affine, key, targets, angle=20.0),
    }


def first(call: Callable[[], Any]) -> float:
    """Seconds of a first call."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=20, budget=1)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    options = parser.parse_args(argv)
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("eager", shown, options.folder)
    for name, call in calls().items():
        if options.only not in name:
            continue
        function: Any = call.func
        plain = functools.partial(function.__wrapped__, *call.args, **call.keywords)
        sides = {"stn_jax": call, "operation by operation": plain}
        values = {f"first call, {side} (s)": first(fn) for side, fn in sides.items()}
        times = compare(sides, options.rounds, budget=options.budget)
        report.row(name, {}, times=times, values={**values, "ratio": ratio(times)})


if __name__ == "__main__":
    main()
