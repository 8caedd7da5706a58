"""Time of a training step by layer, from XLA's profile.

    python -m benchmarks.profile [--task=rotated_mnist] [--variants=cnn,stn-c1] [--rounds=20]

Steps as ``benchmarks.step`` takes them, in one dispatch. An operation belongs to the layer that its
name says, and to the backward pass where it was made by transposing; XLA fuses what follows a layer
into it now and then. "not traced" is the rest of the time: on a CPU that is foremost products
with a transposed left side (the gradients of kernels), which run in the background.
"""

import collections
import gzip
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import Report, flags
from benchmarks.step import VARIANTS, JaxSide, initial, raw_batch, seen_batch
from stn_jax.models import create_model

_OPERATION = re.compile(r"%([\w.-]+) = .*op_name=\"([^\"]*)\"")


def layer_of(path: str) -> str:
    """The layer and the pass that an operation belongs to, from its name in the program."""
    found = re.search(r"Network\)\)?/(transformer/)?(\w+)(/\w+)?", path)
    if not found:
        return "optimizer and loss"
    layer, inner = found[2], found[3] or ""
    if layer.startswith("blocks_"):
        layer += " convolution" if inner == "/conv" else " pooling, ReLU"
        layer += " (looked at)" if found[1] else ""
    elif found[1]:
        layer = "localization" if layer in ("localization", "theta") else "warp"
    return f"{layer}, {'backward' if 'transpose(' in path else 'forward'}"


def by_layer(events: Sequence[Mapping[str, Any]], program: str) -> dict[str, float]:
    """Seconds in the trace's operations, added up by layer.

    Args:
      events: of the trace, as in Chrome's trace format.
      program: the compiled program's text, which says where its operations come from.
    """
    paths = dict(_OPERATION.findall(program))
    seconds: dict[str, float] = collections.defaultdict(float)
    for event in events:
        # What runs within a branch is traced on its own, and so is the branch.
        inner = event.get("ph") == "X" and not event["name"].startswith(("cond", "while"))
        if inner and event["name"] in paths:
            seconds[layer_of(paths[event["name"]])] += event["dur"] / 1e6
    return dict(sorted(seconds.items()))


def measure(report: Report, task: str, variant: str, batch: int, steps: int) -> None:
    """A row: milliseconds a step, by layer."""
    model = create_model(task, variant)
    seen = seen_batch(task, raw_batch(task, batch))
    side = JaxSide(model, initial(model, seen[0], 1), seen, steps=steps)
    program = side.program.as_text()
    jax.block_until_ready(side())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            begun = time.perf_counter()
            jax.block_until_ready(side())
            whole = time.perf_counter() - begun
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    layers = by_layer(events, program)
    layers["not traced"] = whole - sum(layers.values())
    values = {"step (ms)": whole} | layers
    report.row(
        f"{task}, {variant}, batch {batch}",
        {"task": task, "variant": variant, "batch": batch},
        values={name: 1e3 * seconds / steps for name, seconds in values.items()},
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=20)
    parser.add_argument("--task", choices=VARIANTS, default="rotated_mnist")
    parser.add_argument("--variants", help="names with commas; the task's own where not given")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args(argv)
    if jax.default_backend() != "cpu":
        parser.error("the names in an accelerator's trace are others; look at it with XProf")
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("profile", shown, options.folder)
    variants = options.variants.split(",") if options.variants else VARIANTS[options.task]
    for variant in variants:
        measure(report, options.task, variant, options.batch, options.rounds)


if __name__ == "__main__":
    main()
