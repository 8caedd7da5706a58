"""Training steps: several per dispatch, for one or more seeds, as one jit-compiled program."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stn_jax.data.distortions import example_keys
from stn_jax.data.tasks import Task
from stn_jax.models import Network
from stn_jax.models.dropout import numbered
from stn_jax.models.transformer_network import is_transformer
from stn_jax.training.gradients import Loss, value_and_grad
from stn_jax.training.health import runaway, variation
from stn_jax.training.placement import Placement

State = dict[str, Any]  # step: int32; params, optimizer: trees with a leading axis [seeds]


class Data(NamedTuple):
    """A training set on the device."""

    images: jax.Array  # [N, H, W, C], uint8; or what a generated data set stores instead
    labels: jax.Array  # [N] or [N, positions], int32
    mean: jax.Array
    deviation: jax.Array


_TransformMetrics = tuple[jax.Array | None, jax.Array | None, jax.Array | None]


class Metrics(NamedTuple):
    """Metrics summed over steps, each ``[seeds]``."""

    loss: jax.Array
    errors: jax.Array  # fraction of the batch
    gradient_norm: jax.Array
    # The next three are None for networks without a transformer.
    localization_gradient_norm: jax.Array | None  # part of gradient_norm
    runaway: jax.Array | None  # fraction of the batch whose transform has run away
    theta_variation: jax.Array | None  # how much theta varies within the batch
    bad_step: jax.Array  # the first step whose loss or gradient is not finite; -1: none

    @classmethod
    def empty(cls, model: Network, seeds: int) -> "Metrics":
        """Metrics over no steps."""
        # Separate arrays, since they are donated.
        loss, errors, norm, localization_norm, runaway, varied = (
            jnp.zeros(seeds) for _ in range(6)
        )
        none = jnp.full(seeds, -1, jnp.int32)
        if model.transformer is None:
            return cls(loss, errors, norm, None, None, None, none)
        return cls(loss, errors, norm, localization_norm, runaway, varied, none)

    def plus(self, step: "Metrics") -> "Metrics":
        """These metrics with those of a further step added."""
        bad = jnp.where(self.bad_step >= 0, self.bad_step, step.bad_step)
        return jax.tree.map(jnp.add, self, step)._replace(bad_step=bad)


def distorted_batch(
    task: Task, data: Data, keys: jax.Array, images: jax.Array, *, train: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Distorted, normalized images ``[B, H', W', C]`` float32, and the thetas applied."""
    images, theta = task.transform(train)(keys, images, data.images)
    return (images - data.mean) / data.deviation, theta


def seed_keys(seeds: tuple[int, ...]) -> jax.Array:
    """One key for each seed."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def init_state(
    model: Network,
    optimizer: optax.GradientTransformation,
    task: Task,
    data: Data,
    seeds: tuple[int, ...],
    placement: Placement | None = None,
) -> State:
    """The state before the first step."""

    def init(key: jax.Array, data: Data) -> tuple[Any, Any]:
        keys = example_keys(key, jnp.arange(1))
        images, _ = distorted_batch(task, data, keys, data.images[:1])
        params = model.init(jax.random.fold_in(key, 2**31 - 1), images)["params"]
        return params, optimizer.init(params)

    def init_all(data: Data) -> State:
        run = _over_seeds(lambda key: init(key, data), len(seeds), placement)
        params, optimizer_state = run(seed_keys(seeds))
        return {"step": jnp.int32(0), "params": params, "optimizer": optimizer_state}

    shardings: dict[str, Any] = {}
    if placement is not None and not placement.single:
        shardings = {"out_shardings": placement.state()}
    return jax.jit(init_all, **shardings)(data)


def make_train_steps(
    model: Network,
    optimizer: optax.GradientTransformation,
    task: Task,
    *,
    seeds: tuple[int, ...],
    batch_size: int,
    microbatch: int = 0,
    theta_clip: float = 0.0,
    label_smoothing: float = 0.0,
    placement: Placement | None = None,
) -> Callable[[State, Metrics, Data, Any], tuple[State, Metrics]]:
    """Builds the compiled function that runs several training steps.

    All random numbers of a step (order of the examples, distortions, dropout) derive from its
    seed's key and its number by ``fold_in``, and metrics are summed step by step. State and metrics
    are therefore bit-identical however the steps are divided into dispatches. Distortions and
    dropout masks are drawn for each example separately.

    Args:
      model, optimizer, task: the network, its optimizer and the distortions.
      seeds: one network is trained for each.
      batch_size: examples in each step.
      microbatch: examples in a microbatch, a divisor; 0: all. It changes only rounding.
      theta_clip: see :func:`stn_jax.training.gradients.value_and_grad`.
      label_smoothing: fraction of the target's probability that is spread over all classes.
      placement: distribution of states and data over devices; None: one device.

    Returns:
      Function of state and metrics (both donated), data and the number of steps, an int32. A
      dispatch must not cross the end of an epoch.
    """
    constrain = (lambda x: x) if placement is None else placement.constrain
    loss = _Loss(model, task, label_smoothing, constrain)

    def one_step(params, optimizer_state, key, step, order, data: Data):
        start = step % (len(data.images) // batch_size) * batch_size
        chosen = jax.lax.dynamic_slice(order, (start,), (batch_size,))
        (value, errors, gradients), thetas = value_and_grad(
            loss.of_part(data, jax.random.fold_in(key, step), batch_size),
            params,
            (chosen, jnp.arange(batch_size)),
            size=microbatch or batch_size,
            ratio=theta_clip,
        )
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        norm = optax.tree.norm(gradients)
        bad = jnp.where(jnp.isfinite(value) & jnp.isfinite(norm), -1, step)
        health = _transform_metrics(model, thetas, gradients)
        return params, optimizer_state, Metrics(value, errors, norm, *health, bad)

    def steps_of_one_seed(params, optimizer_state, metrics, key, first, data: Data, count):
        per_epoch = len(data.images) // batch_size
        shuffle = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 2), first // per_epoch)
        order = jax.random.permutation(shuffle, len(data.images))

        def body(i, carry):
            params, optimizer_state, metrics = carry
            params, optimizer_state, new = one_step(
                params, optimizer_state, key, first + i, order, data
            )
            return params, optimizer_state, metrics.plus(new)

        return jax.lax.fori_loop(0, count, body, (params, optimizer_state, metrics))

    shardings: dict[str, Any] = {}
    if placement is not None and not placement.single:
        # Every process reads the metrics.
        shardings = {"out_shardings": (placement.state(), placement.replicated)}

    @functools.partial(jax.jit, donate_argnums=(0, 1), **shardings)
    def train_steps(
        state: State, metrics: Metrics, data: Data, count: jax.Array
    ) -> tuple[State, Metrics]:
        run = _over_seeds(
            lambda params, optimizer_state, metrics, key: steps_of_one_seed(
                params, optimizer_state, metrics, key, state["step"], data, count
            ),
            len(seeds),
            placement,
        )
        params, optimizer_state, metrics = run(
            state["params"], state["optimizer"], metrics, seed_keys(seeds)
        )
        step = state["step"] + count
        return {"step": step, "params": params, "optimizer": optimizer_state}, metrics

    return train_steps


class _Loss(NamedTuple):
    """The loss of a network on a task."""

    model: Network
    task: Task
    label_smoothing: float
    constrain: Callable[[jax.Array], jax.Array]  # shards a leading axis of examples

    def of_part(self, data: Data, key: jax.Array, batch_size: int) -> Loss:
        """The mean loss over a microbatch (indices in the data set, indices in the batch)."""
        dropout, constrain = jax.random.fold_in(key, batch_size), self.constrain

        def loss(params: Any, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
            chosen, numbers = part
            keys = constrain(example_keys(key, numbers))
            images, _ = distorted_batch(self.task, data, keys, constrain(data.images[chosen]))
            images, labels = constrain(images), constrain(data.labels[chosen])
            with numbered(numbers):
                result: Any = self.model.apply(
                    {"params": params},
                    images,
                    train=True,
                    rngs={"dropout": dropout},
                    return_details=True,
                )
            logits, details = result
            # The losses of several labels add up; an example is correct only if all of them are.
            targets = jax.nn.one_hot(labels, logits.shape[-1])
            losses = optax.softmax_cross_entropy(
                logits, optax.smooth_labels(targets, self.label_smoothing)
            )
            wrong = logits.argmax(-1) != labels
            mean = losses.reshape(len(labels), -1).sum(-1).mean()
            return mean, (wrong.reshape(len(labels), -1).any(-1).mean(), details.thetas)

        return loss


def _transform_metrics(
    model: Network, thetas: Sequence[jax.Array], gradients: Any
) -> _TransformMetrics:
    """Metrics of the transforms; of several transformers, those of the worst."""
    if model.transformer is None:
        return None, None, None
    family = model.transformer.family()
    norm = optax.tree.norm({k: g for k, g in gradients.items() if is_transformer(k)})
    affines = [family.as_affine(theta) for theta in thetas]
    away = [runaway(theta).mean() for theta in affines]
    varied = [variation(theta) for theta in affines]
    return norm, functools.reduce(jnp.maximum, away), functools.reduce(jnp.minimum, varied)


def _over_seeds(
    fn: Callable[..., Any], count: int, placement: Placement | None
) -> Callable[..., Any]:
    """Maps fn over the leading axis of seeds.

    A single seed is not mapped: vmap would turn its convolutions into grouped ones, which are
    slower.
    """
    if count > 1:
        sharded = placement is not None and not placement.single
        return jax.vmap(fn, spmd_axis_name="seeds" if sharded else None)

    def single(*trees: Any) -> Any:
        return jax.tree.map(
            lambda x: x[None], fn(*(jax.tree.map(lambda x: x[0], tree) for tree in trees))
        )

    return single
