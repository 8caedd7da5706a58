"""The sides of ``benchmarks.step``: training steps of the same network in JAX and in PyTorch."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stn_jax.data import sources
from stn_jax.data.distortions import example_keys
from stn_jax.data.tasks import TASKS
from stn_jax.models import Network, layers
from stn_jax.training.microbatch import automatic_size, map_microbatches
from stn_jax.training.step import Data, distorted_batch

# The learning rate is low, since one batch is used for as long as the step is timed.
RATE, MOMENTUM = 0.001, 0.9

Batch = tuple[Any, Any]  # images [B, H, W, C], labels [B] or [B, positions]


def sample(task: str) -> Data:
    """The embedded sample of MNIST, with a task's normalization."""
    train = sources.load("mnist_sample").train
    images = jnp.asarray(train.images)
    statistics = TASKS[task].statistics("mnist_sample", images)
    return Data(images, jnp.asarray(train.labels), *statistics)


def raw_batch(task: str, size: int, seed: int = 0) -> Batch:
    """Undistorted images, and labels. For SVHN noise, since times do not depend on the content."""
    rng = np.random.default_rng(seed)
    if not TASKS[task].distorts:
        images = rng.normal(size=(size, 64, 64, 3)).astype(np.float32)
        return jnp.asarray(images), jnp.asarray(rng.integers(0, 11, (size, 5)))
    data = sample(task)
    chosen = rng.integers(0, len(data.images), size)
    return data.images[chosen], data.labels[chosen]


def network_inputs(task: str, raw: Batch, data: Data | None = None) -> Batch:
    """A distorted and normalized batch."""
    if not TASKS[task].distorts:
        return raw
    data = data or sample(task)
    keys = example_keys(jax.random.key(0), jnp.arange(len(raw[0])))
    images, _ = jax.jit(functools.partial(distorted_batch, TASKS[task]))(data, keys, raw[0])
    return images, raw[1]


def distortion(task: str) -> Callable[[Batch, jax.Array], Batch]:
    """Distorts and normalizes a raw batch inside a step, as training does; drawn from a key."""
    data = sample(task)

    def distort(batch: Batch, key: jax.Array) -> Batch:
        keys = example_keys(key, jnp.arange(len(batch[0])))
        return distorted_batch(TASKS[task], data, keys, batch[0])[0], batch[1]

    return distort


# --- in JAX --------------------------------------------------------------------------------------


def loss_of(model: Network, params: Any, batch: Batch, key: jax.Array) -> jax.Array:
    """The mean loss over the batch; the losses of an image's labels are added."""
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
    """A parameter tree for each seed, with thetas that differ from the identity.

    At the identity all positions are whole pixels, where the gradient is discontinuous and depends
    on rounding.
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
    """A callable that runs training steps and keeps the state between calls.

    Args:
      model: the network.
      params: a tree for each seed.
      batch: the batch of all steps.
      plain: whether to use Flax's own convolution and pooling.
      microbatch: the microbatch size; None: as in training (if plain, the whole batch).
      prepare: applied to each microbatch inside the step.
      steps: number of steps per call, in one dispatch as in training.
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
        #: The number of microbatches.
        self.parts = whole // size
        optimizer, step = make_step(model, size, *([prepare] if prepare else []))
        self._batch, self._key = batch, jax.random.key(0)
        if len(params) == 1:  # vmap would turn its convolutions into grouped ones
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
    """A program's floating-point operations and bytes as counted by XLA; NaN if unknown."""
    counts = lowered.cost_analysis() or {}
    return counts.get("flops", np.nan), counts.get("bytes accessed", np.nan)


# --- in PyTorch ----------------------------------------------------------------------------------


class TorchSide:
    """The same in PyTorch, with seeds and steps in sequence."""

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
        """The first network's loss, and its gradients as a Flax tree; without dropout."""
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
