"""Time of a training step by microbatch size.

    python -m benchmarks.microbatch [--task=rotated_mnist] [--variants=cnn,stn-sl1] [--batch=256]
                                    [--sizes=256,128,64,32,16] [--steps=5] [--rounds=9]

A step is that of ``benchmarks.step``; gradients are averaged over the microbatches, so that all
sides compute the same. Prefix the command with ``taskset -c 0`` to measure a single core.
"""

import math
from collections.abc import Sequence

from benchmarks.harness import Report, compare, flags
from benchmarks.step import VARIANTS
from benchmarks.step_sides import JaxSide, initial, network_inputs, raw_batch
from stn_jax.models import create_model
from stn_jax.training.microbatch import automatic_size


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=9, budget=10)
    parser.add_argument("--task", choices=VARIANTS, default="rotated_mnist")
    parser.add_argument("--variants", help="comma-separated names; default: the task's own")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sizes", default="256,128,64,32,16", help="comma-separated sizes")
    parser.add_argument("--steps", type=int, default=5, help="steps per dispatch")
    options = parser.parse_args(argv)
    task, batch, steps = options.task, options.batch, options.steps
    sizes = [int(size) for size in options.sizes.split(",")]
    if any(size < 1 or batch % size for size in sizes):
        parser.error(f"--sizes is {options.sizes}; expected divisors of the batch, {batch}")
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("microbatch", shown, options.folder)
    for variant in options.variants.split(",") if options.variants else VARIANTS[task]:
        model = create_model(task, variant)
        inputs = network_inputs(task, raw_batch(task, batch))
        params = initial(model, inputs[0], 1)
        sides = {
            f"{size} at once": JaxSide(model, params, inputs, microbatch=size, steps=steps)
            for size in sizes
        }
        times = compare(sides, options.rounds, budget=options.budget, steps=steps)
        size = automatic_size(batch, math.prod(inputs[0].shape[1:]))
        values = {"chosen": float(size)}
        whole, chosen = times.get(f"{batch} at once"), times.get(f"{size} at once")
        if whole and chosen:
            values["whole / chosen"] = whole.median / chosen.median
        case = {"task": task, "variant": variant, "batch": batch, "steps": steps}
        report.row(f"{task}, {variant}, batch {batch}", case, times=times, values=values)


if __name__ == "__main__":
    main()
