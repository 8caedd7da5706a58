"""Time of a training step by layer, from XLA's profile.

    python -m benchmarks.profile [--task=rotated_mnist] [--variants=cnn,stn-c1] [--rounds=20]

Steps are those of ``benchmarks.step``, in one dispatch. Operations are attributed to layers by
their names, and to the backward pass if they result from a transposition; sometimes XLA fuses the
operations after a layer into it. "not traced" is the rest of the time: on CPU mostly products with
a transposed left operand (the gradients of kernels), which run in the background.
"""

import collections
import contextlib
import gzip
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import Report, flags
from benchmarks.step import VARIANTS
from benchmarks.step_sides import JaxSide, initial, network_inputs, raw_batch
from stn_jax.models import create_model

_OPERATION = re.compile(r"%([\w.-]+) = .*op_name=\"([^\"]*)\"")


def layer_of(path: str) -> str:
    """The layer and the pass of an operation, from its name in the program."""
    modules = re.sub(r"/\w+\.\w+(?=/)", "", path)  # without the names of methods
    found = re.search(r"Network\)\)?/(transformer/|further_transformers_\d/)?(\w+)(/\w+)?", modules)
    if not found:
        return "optimizer and loss"
    layer, inner = found[2], found[3] or ""
    if layer.startswith("blocks_"):
        layer += " convolution" if inner == "/conv" else " pooling, ReLU"
        layer += " (for localization)" if found[1] else ""
    elif found[1]:
        layer = "localization" if layer in ("localization", "theta") else "warp"
    return f"{layer}, {'backward' if 'transpose(' in path else 'forward'}"


def by_layer(events: Sequence[Mapping[str, Any]], program: str) -> dict[str, float]:
    """The total seconds of a trace's operations, by layer.

    Args:
      events: events in Chrome's trace format.
      program: text of the compiled program, with the origins of its operations.
    """
    paths = dict(_OPERATION.findall(program))
    seconds: dict[str, float] = collections.defaultdict(float)
    for event in events:
        # Branches and loops are traced in addition to the operations inside them.
        inner = event.get("ph") == "X" and not event["name"].startswith(("cond", "while"))
        if inner and event["name"] in paths:
            seconds[layer_of(paths[event["name"]])] += event["dur"] / 1e6
    return dict(sorted(seconds.items()))


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """A program from a persistent cache is one with the same names of operations."""
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def measure(report: Report, task: str, variant: str, batch: int, steps: int) -> None:
    """A row: milliseconds per step, by layer."""
    model = create_model(task, variant)
    inputs = network_inputs(task, raw_batch(task, batch))
    side = JaxSide(model, initial(model, inputs[0], 1), inputs, steps=steps)
    with _own_names():
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
    parser.add_argument("--variants", help="comma-separated names; default: the task's own")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args(argv)
    if jax.default_backend() != "cpu":
        parser.error("this only reads traces of CPUs; view an accelerator's trace with XProf")
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("profile", shown, options.folder)
    variants = options.variants.split(",") if options.variants else VARIANTS[options.task]
    for variant in variants:
        measure(report, options.task, variant, options.batch, options.rounds)


if __name__ == "__main__":
    main()
