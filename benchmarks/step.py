"""Time of a training step, against the same network in PyTorch and in plain Flax.

    python -m benchmarks.step [--task=rotated_mnist] [--variants=cnn,stn-c0] [--batch=256]
                              [--seeds=1] [--steps=5] [--dtype=float32] [--rounds=15] [--budget=15]
                              [--compile]

A step is forward pass, loss, backward pass and an update by SGD with Nesterov momentum, from the
same weights and on the same batch for all sides. The batch is distorted and normalized outside the
timed step; a row of its own times our step with the distortion in it. As in training, a dispatch
of ours takes several steps. "flax" is our network with convolutions and pooling as Flax writes
them (``lax.conv_general_dilated``, ``lax.reduce_window``), a step a dispatch: in a loop XLA runs
these on one core of a CPU; its warp is ours. PyTorch runs eagerly in both memory formats and, with
--compile (always on a GPU), compiled; in bfloat16 it uses autocast. Several seeds are one program
in JAX, and one after the other in PyTorch.

Errors are those of the loss and of the gradients (the worst parameter's largest difference,
divided by its largest element) in the first step, from PyTorch in float64.
"""

import argparse
import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Report, compare, flags, optional_torch, ratio
from stn_jax.data import sources
from stn_jax.data.distortions import example_keys
from stn_jax.data.tasks import TASKS
from stn_jax.models import Network, create_model, layers
from stn_jax.training.microbatch import automatic_size, map_microbatches
from stn_jax.training.step import Data, distorted_batch

VARIANTS = {
    "rotated_mnist": ("cnn", "stn-c0", "stn-c1", "stn-sl1"),
    "translated_mnist": ("cnn", "stn-c0", "stn-c1", "stn-sl1"),
    "svhn": ("cnn", "stn-sl8"),
}
RATE, MOMENTUM = 0.001, 0.9  # gentle: it goes on with one batch for as long as it is timed

Batch = tuple[Any, Any]  # images [B, H, W, C], labels [B] or [B, positions]


def sample(task: str) -> Data:
    """The embedded sample, for a task that distorts it."""
    train = sources.load("mnist_sample").train
    images = jnp.asarray(train.images)
    statistics = TASKS[task].statistics("mnist_sample", images)
    return Data(images, jnp.asarray(train.labels), *statistics)


def raw_batch(task: str, size: int, seed: int = 0) -> Batch:
    """Images before the distortion, and labels. SVHN: noise, since time does not depend on it."""
    rng = np.random.default_rng(seed)
    if not TASKS[task].distorts:
        images = rng.normal(size=(size, 64, 64, 3)).astype(np.float32)
        return jnp.asarray(images), jnp.asarray(rng.integers(0, 11, (size, 5)))
    data = sample(task)
    chosen = rng.integers(0, len(data.images), size)
    return data.images[chosen], data.labels[chosen]


def seen_batch(task: str, raw: Batch, data: Data | None = None) -> Batch:
    """A batch as the network sees it: distorted and normalized."""
    if not TASKS[task].distorts:
        return raw
    data = data or sample(task)
    keys = example_keys(jax.random.key(0), jnp.arange(len(raw[0])))
    images, _ = jax.jit(functools.partial(distorted_batch, TASKS[task]))(data, keys, raw[0])
    return images, raw[1]


# --- in JAX --------------------------------------------------------------------------------------


def loss_of(model: Network, params: Any, batch: Batch, key: jax.Array) -> jax.Array:
    """The mean over the batch; where an image has several labels, their losses add up."""
    images, labels = batch
    logits: Any = model.apply({"params": params}, images, train=True, rngs={"dropout": key})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.sum() / len(images)


def make_step(
    model: Network,
    microbatch: int,
    prepare: Callable[[Batch, jax.Array], Batch] = lambda batch, key: batch,
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimizer, and a step: ``(params, state), batch, key -> (params, state), loss``."""
    optimizer = optax.sgd(RATE, MOMENTUM, nesterov=True)

    def step(state: tuple[Any, Any], batch: Batch, key: jax.Array) -> tuple[Any, jax.Array]:
        params, optimizer_state = state

        def of_part(part: Batch, number: jax.Array) -> tuple[Any, None]:
            own = jax.random.fold_in(key, number)
            loss = functools.partial(loss_of, model, batch=prepare(part, own), key=own)
            return jax.value_and_grad(loss)(params), None

        (loss, gradients), _ = map_microbatches(of_part, batch, microbatch)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    return optimizer, step


def initial(model: Network, images: jax.Array, seeds: int) -> list[Any]:
    """A parameter tree for each seed, whose layer to theta does not produce the identity.

    At the identity all positions are whole pixels, where the gradient jumps: a rounding decides.
    """
    init = jax.jit(model.init)
    trees = []
    for seed in range(seeds):
        tree = init(jax.random.key(seed), images[:1])["params"]
        if "transformer" in tree:
            rng = np.random.default_rng(seed)
            layer = tree["transformer"]["theta"]
            for name, scale in (("kernel", 0.02), ("bias", 0.1)):
                layer[name] = jnp.asarray(rng.normal(0, scale, layer[name].shape), jnp.float32)
        trees.append(tree)
    return trees


class JaxSide:
    """A program that runs steps, with the state that it carries from call to call.

    Args:
      model: the network.
      params: a tree for each seed.
      batch: what each step trains on.
      plain: whether convolution and pooling are as Flax writes them.
      microbatch: how much of the batch at once; as in training where None (all, if plain).
      prepare: what is done to the batch within the step.
      steps: how many a call takes, in one dispatch, as in training.
    """

    def __init__(
        self,
        model: Network,
        params: Sequence[Any],
        batch: Batch,
        *,
        plain: bool = False,
        microbatch: int | None = None,
        prepare: Callable[[Batch, jax.Array], Batch] | None = None,
        steps: int = 1,
    ):
        whole = len(batch[0])
        size = microbatch or (
            whole if plain else automatic_size(whole, math.prod(batch[0].shape[1:]))
        )
        #: In how many parts the batch is taken.
        self.parts = whole // size
        optimizer, step = make_step(model, size, *([prepare] if prepare else []))
        self._batch, self._key = batch, jax.random.key(0)
        if len(params) == 1:  # mapping would make its convolutions grouped ones
            tree = jax.tree.map(jnp.copy, params[0])
            self._state = (tree, optimizer.init(tree))
        else:
            tree = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
            self._state = (tree, jax.vmap(optimizer.init)(tree))
            step = jax.vmap(step, (0, None, None))

        def several(state: Any, batch: Batch, key: jax.Array) -> Any:
            shape = jax.eval_shape(step, state, batch, key)[1]
            start = state, jnp.zeros(shape.shape, shape.dtype)
            return jax.lax.fori_loop(0, steps, lambda _, now: step(now[0], batch, key), start)

        args = (self._state, self._batch, self._key)
        with layers.force_implementation("lax") if plain else contextlib.nullcontext():
            #: One step.
            self.lowered = jax.jit(step).lower(*args)
            self._program = jax.jit(several, donate_argnums=0).lower(*args)

    @functools.cached_property
    def program(self) -> Any:
        return self._program.compile()

    def __call__(self) -> jax.Array:
        self._state, loss = self.program(self._state, self._batch, self._key)
        return loss


def work(lowered: Any) -> tuple[float, float]:
    """Floating-point operations and bytes of a program, as XLA counts them; NaN: it does not."""
    counts = lowered.cost_analysis() or {}
    return counts.get("flops", np.nan), counts.get("bytes accessed", np.nan)


# --- in PyTorch ----------------------------------------------------------------------------------


class TorchSide:
    """The same in PyTorch; several seeds, and several steps, in sequence."""

    def __init__(
        self,
        torch: Any,
        task: str,
        variant: str,
        params: Sequence[Any],
        batch: Batch,
        *,
        channels_last: bool = False,
        compiled: bool = False,
        autocast: bool = False,
        dtype: Any = None,
        device: str | None = None,
        steps: int = 1,
    ):
        from stn_jax import interop

        self._torch = torch
        self._steps = steps
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._autocast = autocast
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        images = torch.tensor(np.array(batch[0]), dtype=dtype or torch.float32)
        images = images.permute(0, 3, 1, 2).to(self.device)
        self._images = images.contiguous(memory_format=memory_format)
        self._labels = torch.tensor(np.array(batch[1]), dtype=torch.int64).to(self.device)
        self.modules, self._forward, self._optimizers = [], [], []
        for tree in params:
            module = interop.create(task, variant)
            interop.load_flax(module, tree)
            module = module.to(self.device, dtype).train()
            module.to(memory_format=memory_format)  # type: ignore[call-overload]
            self.modules.append(module)
            self._forward.append(torch.compile(self._loss) if compiled else self._loss)
            self._optimizers.append(
                torch.optim.SGD(module.parameters(), RATE, MOMENTUM, nesterov=True)
            )

    def _loss(self, module: Any) -> Any:
        logits = module(self._images)
        losses = self._torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), self._labels.flatten(), reduction="sum"
        )
        return losses / len(self._images)

    def __call__(self) -> Any:
        networks = zip(self.modules, self._forward, self._optimizers, strict=True)
        for module, forward, optimizer in [*networks] * self._steps:
            optimizer.zero_grad(set_to_none=True)
            with self._torch.autocast(self.device, self._torch.bfloat16, enabled=self._autocast):
                loss = forward(module)
            loss.backward()
            optimizer.step()
        return loss

    def loss_and_gradients(self) -> tuple[float, Any]:
        """The first network's values, as a Flax tree; without dropout, which is random."""
        from stn_jax import interop

        module = self.modules[0]
        module.eval()
        module.zero_grad()
        with self._torch.autocast(self.device, self._torch.bfloat16, enabled=self._autocast):
            loss = self._loss(module)
        loss.backward()
        gradients = interop.to_flax(module, gradients=True)
        module.zero_grad()
        module.train()
        return loss.item(), gradients


# --- the measurement -----------------------------------------------------------------------------


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
    """Relative error of the loss, and the worst one of a parameter's gradient."""

    def off(a: Any, b: Any) -> float:
        scale = np.abs(b).max()
        return float(np.abs(np.asarray(a, np.float64) - b).max() / scale) if scale else 0.0

    gradients = jax.tree.leaves(jax.tree.map(off, found[1], exact[1]))
    return {"loss": off(found[0], exact[0]), "gradients": max(gradients)}


def peaks(dtype: Any) -> tuple[float, float]:
    """This device's rates: operations per second in matrix products, and bytes per second."""
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
    batch = seen_batch(task, raw)
    params = initial(model, batch[0], seeds)
    steps = options.steps
    ours = JaxSide(model, params, batch, steps=steps)
    flax = JaxSide(model, params, batch, plain=True)
    sides: dict[str, Callable[[], Any]] = {
        "stn_jax": ours,
        "flax": lambda: [flax() for _ in range(steps)],
    }
    off = {}
    if torch is not None:
        make = functools.partial(TorchSide, torch, task, variant, params, batch, steps=steps)
        exact = make(dtype=torch.float64, device="cpu").loss_and_gradients()
        sides["torch"] = eager = make(autocast=half)
        sides["torch channels last"] = make(autocast=half, channels_last=True)
        if options.compile or eager.device == "cuda":
            sides["torch compiled"] = make(autocast=half, channels_last=True, compiled=True)
        off["stn_jax"] = accuracy(model, params[0], batch, exact)
        off["flax"] = accuracy(model, params[0], batch, exact, plain=True)
        off["torch"] = errors(eager.loss_and_gradients(), exact)
    times = compare(sides, options.rounds, budget=options.budget, steps=steps)
    if not np.isfinite(ours()).all():
        raise RuntimeError(f"the loss of {variant} is no longer finite: these are no real steps")
    seconds = times["stn_jax"].median
    # Operations of the network as it is defined: our own forms of it may need more of them.
    operations, _ = work(flax.lowered)
    # XLA counts the parts of a batch once.
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
            "share of the matrix product's peak": operations / seconds / product,
            "GB/s": moved / seconds / 1e9,
            "share of the bandwidth": moved / seconds / bandwidth,
            "peak GFLOP/s": product / 1e9,
            "peak GB/s": bandwidth / 1e9,
        },
    )
    if TASKS[task].distorts:
        data = sample(task)

        def distort(batch: Batch, key: jax.Array) -> Batch:
            keys = example_keys(key, jnp.arange(len(batch[0])))
            return distorted_batch(TASKS[task], data, keys, batch[0])[0], batch[1]

        size = options.batch // ours.parts
        fused = JaxSide(model, params, raw, microbatch=size, prepare=distort, steps=steps)
        sides = {"with the distortion": fused, "without": ours}
        times = compare(sides, options.rounds, budget=options.budget, steps=steps)
        share = 1 - times["without"].median / times["with the distortion"].median
        report.row(
            f"{name}, distorted in the step",
            {**case, "distorted": True},
            times=times,
            values={"share of the distortion": share},
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=15, budget=15)
    parser.add_argument("--task", choices=VARIANTS, default="rotated_mnist")
    parser.add_argument("--variants", help="names with commas; the task's own where not given")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1, help="networks trained together")
    parser.add_argument("--steps", type=int, default=5, help="steps a dispatch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU as well")
    options = parser.parse_args(argv)
    variants = options.variants.split(",") if options.variants else VARIANTS[options.task]
    torch = optional_torch()
    if torch is not None:
        torch.set_float32_matmul_precision("high")  # TF32, as JAX has it on NVIDIA GPUs
    shown = {name: value for name, value in vars(options).items() if name != "folder"}
    report = Report("step", shown, options.folder)
    for variant in variants:
        measure(report, variant, options, torch)


if __name__ == "__main__":
    main()
