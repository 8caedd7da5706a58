"""Time of a training step by microbatch size.

    python -m benchmarks.microbatch [--task=rotated_mnist] [--variants=cnn,stn-sl1] [--batch=256]
                                    [--sizes=256,128,64,32,16] [--steps=5] [--rounds=9]

A step is the one of ``benchmarks.step``; the parts' gradients are averaged, so that all sides do
the same. ``taskset -c 0`` before it shows one core alone.
"""

import math
from collections.abc import Sequence

from benchmarks.harness import Report, compare, flags
from benchmarks.step import VARIANTS, JaxSide, initial, raw_batch, seen_batch
from stn_jax.models import create_model
from stn_jax.training.microbatch import automatic_size


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=9, budget=10)
    parser.add_argument("--task", choices=VARIANTS, default="rotated_mnist")
    parser.add_argument("--variants", help="names with commas; the task's own where not given")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sizes", default="256,128,64,32,16", help="of the parts, with commas")
    parser.add_argument("--steps", type=int, default=5, help="steps a dispatch")
    options = parser.parse_args(argv)
    task, batch, steps = options.task, options.batch, options.steps
    sizes = [int(size) for size in options.sizes.split(",")]
    if any(size < 1 or batch % size for size in sizes):
        parser.error(f"--sizes is {options.sizes}; expected divisors of the batch, {batch}")
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("microbatch", shown, options.folder)
    for variant in options.variants.split(",") if options.variants else VARIANTS[task]:
        model = create_model(task, variant)
        seen = seen_batch(task, raw_batch(task, batch))
        params = initial(model, seen[0], 1)
        sides = {
            f"{size} at once": JaxSide(model, params, seen, microbatch=size, steps=steps)
            for size in sizes
        }
        times = compare(sides, options.rounds, budget=options.budget, steps=steps)
        size = automatic_size(batch, math.prod(seen[0].shape[1:]))
        values = {"chosen": float(size)}
        whole, chosen = times.get(f"{batch} at once"), times.get(f"{size} at once")
        if whole and chosen:
            values["whole / chosen"] = whole.median / chosen.median
        case = {"task": task, "variant": variant, "batch": batch, "steps": steps}
        report.row(f"{task}, {variant}, batch {batch}", case, times=times, values=values)


if __name__ == "__main__":
    main()
