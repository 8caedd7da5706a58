"""Time of a training step, compared with the same network in PyTorch and in plain Flax.

    python -m benchmarks.step [--task=rotated_mnist] [--variants=cnn,stn-c0] [--batch=256]
                              [--seeds=1] [--steps=5] [--dtype=float32] [--rounds=15] [--budget=15]
                              [--compile] [--without_flax]

A step consists of forward pass, loss, backward pass and an update by SGD with Nesterov momentum,
with the same weights and batch for all sides. The batch is distorted and normalized beforehand; a
separate row times our step including the distortion. As in training, each of our dispatches takes
several steps. "flax" is our network with Flax's own convolutions and pooling
(``lax.conv_general_dilated``, ``lax.reduce_window``) and our warp, one step per dispatch, since in
a loop XLA runs these on a single CPU core; --without_flax leaves it out. PyTorch runs eagerly in
both memory formats and, with --compile (always on a GPU), compiled; in bfloat16 it uses autocast.
Several seeds are one program in JAX, and run one after the other in PyTorch.

Errors are those of the loss and of the gradients in the first step, compared with PyTorch in
float64: the largest difference in a parameter's gradient divided by its largest element, for the
worst parameter.
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Report, compare, flags, optional_torch, ratio
from benchmarks.step_sides import (
    Batch,
    JaxSide,
    TorchSide,
    distortion,
    initial,
    network_inputs,
    raw_batch,
    work,
)
from stn_jax.data.tasks import TASKS
from stn_jax.models import Network, create_model, layers

VARIANTS = {
    "rotated_mnist": ("cnn", "stn-c0", "stn-c1", "stn-sl1"),
    "translated_mnist": ("cnn", "stn-c0", "stn-c1", "stn-sl1"),
    "svhn": ("cnn", "stn-sl8"),
}


def accuracy(
    model: Network, params: Any, batch: Batch, exact: tuple[float, Any], plain: bool = False
) -> dict[str, float]:
    """Errors of our loss and gradients."""

    def loss_fn(params: Any) -> jax.Array:
        logits: Any = model.apply({"params": params}, batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.sum() / len(batch[0])

    with layers.force_implementation("lax") if plain else contextlib.nullcontext():
        found = jax.jit(jax.value_and_grad(loss_fn))(params)
    return errors(found, exact)


def errors(found: tuple[Any, Any], exact: tuple[float, Any]) -> dict[str, float]:
    """The relative error of the loss, and the largest one of the parameters' gradients."""

    def off(a: Any, b: Any) -> float:
        scale = np.abs(b).max()
        return float(np.abs(np.asarray(a, np.float64) - b).max() / scale) if scale else 0.0

    gradients = jax.tree.leaves(jax.tree.map(off, found[1], exact[1]))
    return {"loss": off(found[0], exact[0]), "gradients": max(gradients)}


def peaks(dtype: Any) -> tuple[float, float]:
    """This device's peak rates: operations per second in matrix products, and bytes per second."""
    on_cpu = jax.default_backend() == "cpu"
    side, size = (1536, 2**24) if on_cpu else (8192, 2**28)
    a = jnp.ones((side, side), dtype)
    x = jnp.ones(size, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    times = compare({"product": lambda: product(a, a), "copy": lambda: copy(x)}, 9)
    return 2 * side**3 / times["product"].quartiles[0], 8 * size / times["copy"].quartiles[0]


def measure(report: Report, variant: str, options: argparse.Namespace, torch: Any) -> None:
    """The rows of a network."""
    task, seeds = options.task, options.seeds
    half = options.dtype == "bfloat16"
    model = create_model(task, variant, dtype=jnp.bfloat16 if half else None)
    raw = raw_batch(task, options.batch)
    batch = network_inputs(task, raw)
    params = initial(model, batch[0], seeds)
    steps = options.steps
    ours = JaxSide(model, params, batch, steps=steps)
    flax = JaxSide(model, params, batch, plain=True)
    sides: dict[str, Callable[[], Any]] = {"stn_jax": ours}
    if not options.without_flax:
        sides["flax"] = lambda: [flax() for _ in range(steps)]
    off = {}
    if torch is not None:
        make = functools.partial(TorchSide, torch, task, variant, params, batch, steps=steps)
        exact = make(dtype=torch.float64, device="cpu").loss_and_gradients()
        sides["torch"] = eager = make(autocast=half)
        sides["torch channels last"] = make(autocast=half, channels_last=True)
        if options.compile or eager.device == "cuda":
            sides["torch compiled"] = make(autocast=half, channels_last=True, compiled=True)
        off["stn_jax"] = accuracy(model, params[0], batch, exact)
        if "flax" in sides:
            off["flax"] = accuracy(model, params[0], batch, exact, plain=True)
        off["torch"] = errors(eager.loss_and_gradients(), exact)
    times = compare(sides, options.rounds, budget=options.budget, steps=steps)
    if not np.isfinite(ours()).all():
        raise RuntimeError(f"the loss of {variant} is no longer finite: the times are not valid")
    seconds = times["stn_jax"].median
    # The operations of the network as defined; our implementation may need more.
    operations, _ = work(flax.lowered)
    # XLA counts a loop over microbatches once.
    moved = ours.parts * work(ours.lowered.compile())[1]
    product, bandwidth = peaks(jnp.bfloat16 if half else jnp.float32)
    name = f"{task}, {variant}, batch {options.batch}"
    name += f", {seeds} seeds" if seeds > 1 else ""
    name += ", bfloat16" if half else ""
    case = {
        "task": task,
        "variant": variant,
        "batch": options.batch,
        "seeds": seeds,
        "steps": steps,
        "dtype": options.dtype,
        "distorted": False,
    }
    report.row(
        name,
        case,
        times=times,
        accuracy=off,
        values={
            "ratio to torch": ratio(times, ["torch"]),
            "ratio to flax": ratio(times, ["flax"]),
            "GFLOP/s": operations / seconds / 1e9,
            "fraction of peak GFLOP/s": operations / seconds / product,
            "GB/s": moved / seconds / 1e9,
            "fraction of peak GB/s": moved / seconds / bandwidth,
            "peak GFLOP/s": product / 1e9,
            "peak GB/s": bandwidth / 1e9,
        },
    )
    if TASKS[task].distorts:
        size = options.batch // ours.parts
        prepare = distortion(task)
        fused = JaxSide(model, params, raw, microbatch=size, prepare=prepare, steps=steps)
        sides = {"with the distortion": fused, "without": ours}
        times = compare(sides, options.rounds, budget=options.budget, steps=steps)
        fraction = 1 - times["without"].median / times["with the distortion"].median
        report.row(
            f"{name}, distorted in the step",
            {**case, "distorted": True},
            times=times,
            values={"fraction for the distortion": fraction},
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=15, budget=15)
    parser.add_argument("--task", choices=VARIANTS, default="rotated_mnist")
    parser.add_argument("--variants", help="comma-separated names; default: the task's own")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1, help="networks in one program")
    parser.add_argument("--steps", type=int, default=5, help="steps per dispatch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="use torch.compile on CPU, too")
    parser.add_argument(
        "--without_flax", action="store_true", help="leave out the side that takes longest on CPU"
    )
    options = parser.parse_args(argv)
    variants = options.variants.split(",") if options.variants else VARIANTS[options.task]
    torch = optional_torch()
    if torch is not None:
        torch.set_float32_matmul_precision("high")  # TF32, JAX's default on NVIDIA GPUs
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("step", shown, options.folder)
    for variant in variants:
        measure(report, variant, options, torch)


if __name__ == "__main__":
    main()
