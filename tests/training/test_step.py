"""Training steps: what they draw, and that their division into dispatches does not matter."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.data.distortions import Distorted
from stn_jax.data.tasks import Task
from stn_jax.models import Intermediates
from stn_jax.training import Config
from stn_jax.training.assemble import assemble
from stn_jax.training.run import Run
from stn_jax.training.step import Data, Metrics, make_train_steps, seed_keys


@pytest.fixture(scope="module")
def run(tiny_cache) -> Run:
    config = Config(
        cache_dir=str(tiny_cache),
        variant="stn-sl1",
        width=1 / 16,
        batch_size=64,
        epochs=2,
        seeds=(0,),
    )
    return assemble(config)


def stepper(run: Run, seeds=(0,)):
    return make_train_steps(
        run.model, run.optimizer, run.task, seeds=seeds, batch_size=run.config.batch_size
    )


def empty_metrics(run: Run, seeds=(0,)) -> Metrics:
    return Metrics.empty(run.model, len(seeds))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0,), (0, 3)])
def test_however_steps_are_divided_into_dispatches_the_bits_are_the_same(run, seeds):
    config = Config(**{**run.config.to_dict(), "seeds": seeds})
    one = Run(config, run.task, run.model, run.data, run.test)
    steps = stepper(one, seeds)
    ends = []
    for counts in ([6], [1] * 6, [4, 2]):
        state, sums = one.init_state(), empty_metrics(run, seeds)
        for count in counts:
            state, sums = steps(state, sums, run.data, jnp.int32(count))
        ends.append((state, sums))
    chex.assert_trees_all_equal(*ends)
    assert int(ends[0][0]["step"]) == 6


@pytest.mark.slow
def test_a_program_is_compiled_once_for_dispatches_of_all_lengths(run):
    steps = stepper(run)
    state, sums = run.init_state(), empty_metrics(run)
    for count in (1, 2, 3):
        state, sums = steps(state, sums, run.data, jnp.int32(count))
    assert steps._cache_size() == 1


def test_seeds_in_one_program_learn_the_same_as_separately(run):
    def states_after(seeds):
        # Adam's first steps have the sign of what may be rounding.
        fields = {"seeds": seeds, "localization_optimizer": "sgd"}
        config = Config(**{**run.config.to_dict(), **fields})
        one = Run(config, run.task, run.model, run.data, run.test)
        return stepper(one, seeds)(
            one.init_state(), empty_metrics(run, seeds), run.data, jnp.int32(3)
        )

    (together, sums), (alone, lone) = states_after((5, 0)), states_after((5,))
    first = jax.tree.map(lambda x: x[:1], together["params"])
    chex.assert_trees_all_close(first, alone["params"], atol=1e-5)
    chex.assert_trees_all_close(sums.loss[:1], lone.loss, rtol=1e-5)
    assert not np.allclose(sums.loss[0], sums.loss[1], rtol=1e-4)


class Recorder:
    """A stand-in for a network that hands out the examples it is shown, as its loss."""

    transformer = None

    def init(self, key, images):
        return {"params": {"blocks_0": {"kernel": jnp.zeros((1, 1))}}}

    def apply(self, variables, images, train, rngs, return_details):
        # The loss of class 0 against class 1 with logit x is close to x when x is large.
        x = images[:, 0, 0, 0] + variables["params"]["blocks_0"]["kernel"][0, 0]
        return jnp.stack([jnp.zeros_like(x), x], -1), Intermediates(None, images)


def test_an_epoch_shows_each_example_once_in_an_order_of_its_own():
    plain = Task("plain", lambda keys, x, _: Distorted(x.astype(jnp.float32), None), (0, 1), False)
    values = jnp.arange(100, 160, dtype=jnp.uint8).reshape(60, 1, 1, 1)
    data = Data(values, jnp.zeros(60, jnp.int32), jnp.float32(0), jnp.float32(1))
    config = Config(learning_rate=1e-9, batch_size=1)
    from stn_jax.training.optimizer import make_optimizer
    from stn_jax.training.step import init_state

    optimizer = make_optimizer(config, 120)
    steps = make_train_steps(Recorder(), optimizer, plain, seeds=(0,), batch_size=1)
    state = init_state(Recorder(), optimizer, plain, data, (0,))
    shown = []
    for _ in range(120):
        state, sums = steps(state, Metrics.empty(Recorder(), 1), data, jnp.int32(1))
        shown.append(round(float(sums.loss[0])))
    assert sorted(shown[:60]) == sorted(shown[60:]) == list(range(100, 160))
    assert shown[:60] != shown[60:]
    assert shown[:60] != sorted(shown[:60])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_under_label_smoothing(smoothing):
    # A network whose logits of two classes are 0 and x: class 0 has log-probability -log(1 + e^x).
    plain = Task("plain", lambda keys, x, _: Distorted(x.astype(jnp.float32), None), (0, 1), False)
    data = Data(jnp.full((1, 1, 1, 1), 3, jnp.uint8), jnp.zeros(1, jnp.int32), *jnp.float32([0, 1]))
    from stn_jax.training.optimizer import make_optimizer
    from stn_jax.training.step import init_state

    optimizer = make_optimizer(Config(), 1)
    steps = make_train_steps(
        Recorder(), optimizer, plain, seeds=(0,), batch_size=1, label_smoothing=smoothing
    )
    state = init_state(Recorder(), optimizer, plain, data, (0,))
    _, sums = steps(state, Metrics.empty(Recorder(), 1), data, jnp.int32(1))
    log_p = np.array([0, 3]) - np.log(1 + np.exp(3.0))
    expected = -(1 - smoothing / 2) * log_p[0] - smoothing / 2 * log_p[1]
    np.testing.assert_allclose(sums.loss[0], expected, rtol=1e-6)


def test_the_first_step_that_is_not_finite_is_reported(run):
    steps = stepper(run)
    state = run.init_state()
    state["params"]["head"]["logits"]["bias"] = jnp.full((1, 10), jnp.nan)
    _, sums = steps(state, empty_metrics(run), run.data, jnp.int32(3))
    assert sums.bad_step.tolist() == [0]


class Steep(Recorder):
    """A stand-in whose loss is finite where its gradient is not: a root at 0."""

    def apply(self, variables, images, **options):
        root = jnp.sqrt(variables["params"]["blocks_0"]["kernel"][0, 0])
        return jnp.tile(root * jnp.arange(10), (len(images), 1)), Intermediates(None, images)


def test_a_gradient_that_is_not_finite_is_reported_while_the_loss_still_is(run):
    steps = make_train_steps(Steep(), run.optimizer, run.task, seeds=(0,), batch_size=64)
    params = {"blocks_0": {"kernel": jnp.zeros((1, 1, 1))}}
    optimizer = jax.vmap(run.optimizer.init)(params)
    state = {"step": jnp.int32(0), "params": params, "optimizer": optimizer}
    _, sums = steps(state, Metrics.empty(Steep(), 1), run.data, jnp.int32(1))
    assert np.isfinite(sums.loss).all()
    assert sums.bad_step.tolist() == [0]


def test_each_seed_has_a_key():
    keys = jax.random.key_data(seed_keys((0, 1, 2**32 - 1)))
    assert len(np.unique(keys, axis=0)) == 3


@pytest.mark.slow
def test_a_step_without_jit_is_the_same(run):
    """As with JAX_DISABLE_JIT=1."""
    ends = []
    for disabled in (False, True):
        state, sums = run.init_state(), empty_metrics(run)
        with jax.disable_jit(disabled):
            ends.append(stepper(run)(state, sums, run.data, jnp.int32(1)))
    chex.assert_trees_all_close(*ends, rtol=1e-4, atol=1e-5)
