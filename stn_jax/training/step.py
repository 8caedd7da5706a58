"""Training steps: many a dispatch, for one seed or several at once, as one jit-compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stn_jax.data.tasks import Task, example_keys
from stn_jax.models import Network

State = dict[str, Any]  # step: int32; params, optimizer: trees whose leaves lead with [seeds]


class Data(NamedTuple):
    """A training set on the device."""

    images: jax.Array  # [N, H, W, C], uint8; or what a generated data set has in their place
    labels: jax.Array  # [N] or [N, positions], int32
    mean: jax.Array
    deviation: jax.Array


class Sums(NamedTuple):
    """Sums over the steps of a dispatch, each ``[seeds]``, and what went wrong first."""

    loss: jax.Array
    errors: jax.Array  # share of the batch
    gradient_norm: jax.Array
    bad_step: jax.Array  # the first step whose loss is not finite; -1 where there is none


def distorted_batch(
    task: Task, data: Data, keys: jax.Array, images: jax.Array, *, train: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Images as a network sees them, ``[B, H', W', C]`` float32, and the thetas applied."""
    images, theta = task.shown(train)(keys, images, data.images)
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
) -> State:
    """The state before the first step: a plain tree of arrays."""

    def init(key: jax.Array) -> tuple[Any, Any]:
        keys = example_keys(key, jnp.arange(1))
        images, _ = distorted_batch(task, data, keys, data.images[:1])
        params = model.init(jax.random.fold_in(key, 2**31 - 1), images)["params"]
        return params, optimizer.init(params)

    params, optimizer_state = jax.jit(_over_seeds(init, len(seeds)))(seed_keys(seeds))
    return {"step": jnp.int32(0), "params": params, "optimizer": optimizer_state}


def make_train_steps(
    model: Network,
    optimizer: optax.GradientTransformation,
    task: Task,
    *,
    seeds: tuple[int, ...],
    batch_size: int,
) -> Callable[[State, Data, jax.Array], tuple[State, Sums]]:
    """Compiles a function that takes several training steps.

    Everything that a step draws (order of the examples, distortions, dropout) comes from its
    seed's key and its number by ``fold_in``. So the state after a number of steps is the same
    bits, however the steps were divided into dispatches.

    Returns:
      Function of state (which it consumes), data and the number of steps, as an int32 array: a
      dispatch must not cross the end of an epoch.
    """

    def one_step(params, optimizer_state, key, step, order, data: Data):
        start = step % (len(data.images) // batch_size) * batch_size
        chosen = jax.lax.dynamic_slice(order, (start,), (batch_size,))
        key = jax.random.fold_in(key, step)
        keys = example_keys(key, jnp.arange(batch_size))
        images, _ = distorted_batch(task, data, keys, data.images[chosen])
        labels = data.labels[chosen]
        dropout = jax.random.fold_in(key, batch_size)

        def loss_fn(params):
            logits: Any = model.apply(
                {"params": params}, images, train=True, rngs={"dropout": dropout}
            )
            # Where an example has several labels, their losses add up, and one miss is an error.
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            wrong = logits.argmax(-1) != labels
            loss = losses.reshape(batch_size, -1).sum(-1).mean()
            return loss, wrong.reshape(batch_size, -1).any(-1).mean()

        (loss, errors), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        bad = jnp.where(jnp.isfinite(loss), -1, step)
        return params, optimizer_state, Sums(loss, errors, optax.tree.norm(gradients), bad)

    def steps_of_one_seed(params, optimizer_state, key, first, data: Data, count):
        per_epoch = len(data.images) // batch_size
        shuffle = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 2), first // per_epoch)
        order = jax.random.permutation(shuffle, len(data.images))

        def body(i, carry):
            params, optimizer_state, sums = carry
            params, optimizer_state, new = one_step(
                params, optimizer_state, key, first + i, order, data
            )
            total = jax.tree.map(jnp.add, sums, new)
            first_bad = jnp.where(sums.bad_step >= 0, sums.bad_step, new.bad_step)
            return params, optimizer_state, total._replace(bad_step=first_bad)

        zero = jnp.float32(0)
        start = (params, optimizer_state, Sums(zero, zero, zero, jnp.int32(-1)))
        return jax.lax.fori_loop(0, count, body, start)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_steps(state: State, data: Data, count: jax.Array) -> tuple[State, Sums]:
        run = _over_seeds(
            lambda params, optimizer_state, key: steps_of_one_seed(
                params, optimizer_state, key, state["step"], data, count
            ),
            len(seeds),
        )
        params, optimizer_state, sums = run(state["params"], state["optimizer"], seed_keys(seeds))
        step = state["step"] + count
        return {"step": step, "params": params, "optimizer": optimizer_state}, sums

    return train_steps


def _over_seeds(fn: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Maps fn over the leading axis of seeds.

    A lone seed is not mapped: mapping would turn its convolutions into grouped ones, which are
    slower.
    """
    if count > 1:
        return jax.vmap(fn)

    def alone(*trees: Any) -> Any:
        return jax.tree.map(
            lambda x: x[None], fn(*(jax.tree.map(lambda x: x[0], tree) for tree in trees))
        )

    return alone
