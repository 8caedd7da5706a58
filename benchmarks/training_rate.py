"""Training images per second on the rows of Table 1, with the native kernels and without them.

    taskset -c 0 python -m benchmarks.training_rate [--rows=rotation/*] [--batch=256] [--steps=2]
                                                    [--rounds=9] [--budget=12]

A step as the table trains it: distortion, forward and backward pass and update of one network, on
whatever cores the process may use. "without native kernels" computes warps by XLA's operations,
convolutions as matrix products of windows or of their Fourier transforms, and pooling elementwise,
as where the libraries are not installed.
"""

import contextlib
from collections.abc import Iterator, Sequence

from benchmarks.harness import Report, compare, flags
from benchmarks.step_sides import JaxSide, distortion, initial, network_inputs, raw_batch
from stn_jax.experiments.tables import TABLES
from stn_jax.models import create_model, layers
from stn_jax.training.microbatch import automatic_size
from stn_jax.warp import primitives


@contextlib.contextmanager
def without_native() -> Iterator[None]:
    """What is traced inside calls none of the native kernels."""
    with layers.force_implementation("cpu"), primitives.force_implementation("xla"):
        yield


def step(task: str, variant: str, batch: int, steps: int) -> JaxSide:
    """Training steps of a row."""
    model = create_model(task, variant)
    raw = raw_batch(task, batch)
    images = network_inputs(task, raw)[0]
    return JaxSide(
        model,
        initial(model, images, 1),
        raw,
        microbatch=automatic_size(batch, images[0].size),
        prepare=distortion(task),
        steps=steps,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=9, budget=12)
    parser.add_argument("--rows", default="*", help="comma-separated names or patterns")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2, help="steps per dispatch")
    options = parser.parse_args(argv)
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("training_rate", shown, options.folder)
    for row in TABLES["table1"].select(options.rows.split(",")):
        case = {name: row.overrides[name] for name in ("task", "variant")}
        sides = {"stn_jax": step(**case, batch=options.batch, steps=options.steps)}
        with without_native():
            sides["without native kernels"] = step(**case, batch=options.batch, steps=options.steps)
        times = compare(sides, options.rounds, budget=options.budget, steps=options.steps)
        rates = {f"images per second, {n}": options.batch / t.median for n, t in times.items()}
        report.row(row.name, {**case, "batch": options.batch}, times=times, values=rates)


if __name__ == "__main__":
    main()
