"""The overhead of a training epoch: distortion, shuffling, logging, checkpoints.

    python -m benchmarks.pipeline [--task=rotated_mnist] [--variants=cnn,stn-sl1] [--epochs=5]
                                  [--steps=20] [--batch=256] [--dataset=mnist_sample]

Trains with the package's loop and default settings on the digits that come with the package, or on
another data set: --dataset=mnist --steps=234 makes epochs of all of MNIST. After each epoch, the
same number of steps runs twice more: as one dispatch of the loop's compiled steps (with shuffling
and distortion, without the loop around them), and bare (the same network, optimizer and batch size
on batches distorted beforehand).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.harness import Report, Timing
from stn_jax.data import sources
from stn_jax.data.distortions import example_keys
from stn_jax.training import Config, Hooks
from stn_jax.training.assemble import assemble
from stn_jax.training.loop import fit
from stn_jax.training.microbatch import map_microbatches
from stn_jax.training.run import Run
from stn_jax.training.step import distorted_batch
from stn_jax.training.workdir import Workdir


class Interleaved(Hooks):
    """At the end of each epoch, also times other programs.

    The loop writes a line of metrics when an epoch's results have arrived, and then the checkpoint:
    between two such lines lies a complete epoch.
    """

    def __init__(self, run: Run, others: dict[str, Callable[[], Any]]):
        self._per_epoch = run.steps_per_epoch
        self._others = others
        self._begun: float | None = None
        self.seconds: dict[str, list[float]] = {name: [] for name in ("epoch", *others)}

    def write_metrics(self, line: dict[str, Any]) -> None:
        if line["step"] % self._per_epoch:
            return
        if self._begun is None:  # compiles them, as the first epoch has compiled the loop
            jax.block_until_ready([fn() for fn in self._others.values()])
        else:
            self.seconds["epoch"].append(time.perf_counter() - self._begun)
        for name, fn in self._others.items():
            start = time.perf_counter()
            jax.block_until_ready(fn())
            self.seconds[name].append(time.perf_counter() - start)
        self._begun = time.perf_counter()


def dispatch(run: Run) -> Callable[[], Any]:
    """An epoch of the loop's compiled steps in one dispatch."""
    train_steps = run.train_steps()
    state = run.init_state()

    def epoch() -> Any:
        nonlocal state
        state["step"] = jnp.int32(0)
        sums = run.empty_metrics()
        state, sums = train_steps(state, sums, run.data, jnp.int32(run.steps_per_epoch))
        return sums

    return epoch


def bare(run: Run) -> Callable[[], Any]:
    """An epoch of steps on batches distorted beforehand."""
    size, steps = run.config.batch_size, run.steps_per_epoch
    keys = example_keys(jax.random.key(0), jnp.arange(steps * size))
    raw = run.data.images[: steps * size]
    images, _ = jax.jit(lambda: distorted_batch(run.task, run.data, keys, raw))()
    images = images.reshape(steps, size, *images.shape[1:])
    labels = run.data.labels[: steps * size].reshape(steps, size)
    state = run.init_state()
    carry = jax.tree.map(lambda x: x[0], (state["params"], state["optimizer"]))

    def loss_fn(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits: Any = run.model.apply({"params": params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(i: jax.Array, carry: tuple[Any, Any, jax.Array]) -> tuple[Any, Any, jax.Array]:
        params, optimizer_state, total = carry

        def of_part(part: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[Any, None]:
            return jax.value_and_grad(loss_fn)(params, *part), None

        (loss, gradients), _ = map_microbatches(of_part, (images[i], labels[i]), run.microbatch)
        updates, optimizer_state = run.optimizer.update(gradients, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, total + loss

    @jax.jit
    def program(params: Any, optimizer_state: Any, count: jax.Array) -> tuple[Any, Any, jax.Array]:
        # The number of steps is an argument, as in the loop.
        return jax.lax.fori_loop(0, count, step, (params, optimizer_state, jnp.float32(0)))

    def epoch() -> Any:
        nonlocal carry
        *rest, total = program(*carry, jnp.int32(steps))
        carry = tuple(rest)
        return total

    return epoch


def measure(report: Report, variant: str, options: argparse.Namespace) -> None:
    """One row."""
    used = options.steps * options.batch
    available = len(sources.load(options.dataset).train.images)
    config = Config(
        task=options.task,
        variant=variant,
        dataset=options.dataset,
        holdout=max(0, available - used),
        batch_size=options.batch,
        epochs=options.epochs,
    )
    run = assemble(config)
    with tempfile.TemporaryDirectory() as folder:
        timed = Interleaved(run, {"dispatch": dispatch(run), "bare": bare(run)})
        fit(run, Workdir(folder), hooks=timed)
    times = {name: Timing.of(seconds) for name, seconds in timed.seconds.items()}
    epoch, steps, network = (times[name].median for name in ("epoch", "dispatch", "bare"))
    report.row(
        f"{options.task}, {variant}, batch {options.batch}",
        {
            "task": options.task,
            "variant": variant,
            "batch": options.batch,
            "steps": run.steps_per_epoch,
            "dataset": options.dataset,
        },
        times=times,
        values={
            "fraction for distortion and shuffling": (steps - network) / epoch,
            "fraction for the rest of the loop": (epoch - steps) / epoch,
            "fraction outside the network": (epoch - network) / epoch,
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("rotated_mnist", "translated_mnist"))
    parser.add_argument("--variants", default="cnn,stn-sl1", help="comma-separated names")
    parser.add_argument("--epochs", type=int, default=5, help="the first one is not counted")
    parser.add_argument("--steps", type=int, default=20, help="steps per epoch")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dataset", default="mnist_sample")
    parser.add_argument("--folder", help="folder of the results")
    parser.set_defaults(task="rotated_mnist")
    options = parser.parse_args(argv)
    if options.epochs < 2:
        parser.error(f"--epochs is {options.epochs}; expected 2 or more: the first is not counted")
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("pipeline", shown, options.folder)
    for variant in options.variants.split(","):
        measure(report, variant, options)


if __name__ == "__main__":
    main()
