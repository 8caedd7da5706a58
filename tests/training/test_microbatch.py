"""Batches taken in parts: the same gradients as the whole, in less memory."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_jax.training import Config, ConfigError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.microbatch import automatic_size, map_microbatches
from stn_jax.training.placement import Placement
from stn_jax.training.run import Run
from stn_jax.training.step import Metrics, make_train_steps


@settings(max_examples=settings().max_examples // 3)  # each is compiled
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**16))
def test_means_and_arrays_of_the_parts(count, size, seed):
    rng = np.random.default_rng(seed)
    batch = {"x": rng.normal(size=(count * size, 3)), "y": rng.normal(size=count * size)}
    batch = jax.tree.map(lambda x: x.astype(np.float32), batch)

    def fn(part, number):
        assert part["x"].shape == (size, 3)
        total = part["x"].sum(-1) * part["y"]
        return {"mean": total.mean(), "number": number}, (total, jnp.full(size, number))

    means, (kept, numbers) = jax.jit(lambda batch: map_microbatches(fn, batch, size))(batch)
    expected = batch["x"].astype(np.float64).sum(-1) * batch["y"]
    np.testing.assert_allclose(kept, expected, atol=1e-5)
    np.testing.assert_allclose(means["mean"], expected.mean(), atol=1e-5)
    np.testing.assert_array_equal(numbers, np.repeat(np.arange(count), size))
    np.testing.assert_allclose(means["number"], (count - 1) / 2)


@pytest.fixture(scope="module")
def run(tiny_cache) -> Run:
    # Adam would make whole steps of what rounding leaves of a gradient of 0.
    config = Config(
        cache_dir=str(tiny_cache),
        width=1 / 16,
        batch_size=48,
        epochs=2,
        localization_optimizer="sgd",
        localization_rate=0.3,
    )
    return assemble(config)


@pytest.mark.thin("seeds0")
@pytest.mark.parametrize("seeds", [(0,), (0, 3)])
def test_steps_with_microbatches_learn_the_same_as_whole_batches(run, seeds):
    config = Config(**{**run.config.to_dict(), "seeds": seeds})
    one = Run(config, run.task, run.model, run.data, run.test)
    ends = []
    for size in (0, 16, 1):
        steps = make_train_steps(
            run.model, run.optimizer, run.task, seeds=seeds, batch_size=48, microbatch=size
        )
        sums = Metrics.empty(run.model, len(seeds))
        state, sums = steps(one.init_state(), sums, run.data, jnp.int32(3))
        ends.append((state["params"], sums))
    for params, sums in ends[1:]:
        chex.assert_trees_all_close(params, ends[0][0], atol=1e-5)
        chex.assert_trees_all_close(sums, ends[0][1], rtol=1e-4)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), ends[0][0], one.init_state()["params"])
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
def test_memory_is_that_of_a_part(run):
    def temporary(size: int) -> int:
        steps = make_train_steps(
            run.model, run.optimizer, run.task, seeds=(0,), batch_size=48, microbatch=size
        )
        sums = Metrics.empty(run.model, 1)
        program = steps.lower(run.init_state(), sums, run.data, jnp.int32(1)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(8) < temporary(48) / 3


@pytest.mark.parametrize(
    ("batch_size", "side", "expected"),
    [(256, 28, 64), (256, 60, 32), (500, 60, 25), (32, 60, 32), (256, 112, 32), (127, 60, 127)],
)
def test_the_size_chosen_on_a_cpu(batch_size, side, expected):
    assert automatic_size(batch_size, side**2) == expected


@given(st.integers(1, 600), st.integers(1, 10**7))
def test_the_chosen_size_divides_the_batch(batch_size, values):
    assert batch_size % automatic_size(batch_size, values) == 0


@pytest.mark.parametrize("value", [48, 512, -1, 2.5, "half"])
def test_a_size_that_does_not_fit_is_rejected(value):
    with pytest.raises(ConfigError, match="microbatch is"):
        Config(microbatch=value)


def test_devices_divide_the_microbatches():
    config = Config(batch_size=256, microbatch=32)
    with pytest.raises(ConfigError, match=r"cannot share 32 \(microbatch\) evenly"):
        Placement.choose(config, "batch=3")


@pytest.mark.slow
def test_training_with_microbatches_equals_training_with_whole_batches(tiny_config, tmp_path):
    values = {**tiny_config, "learning_rate": 0.02, "test_passes": 1, "log_every": 1}
    losses = []
    for size, name in [(32, "parts"), (128, "whole")]:
        train(Config(**{**values, "microbatch": size}), tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"][0] for line in lines])
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert len(losses[0]) == 8
    assert min(losses[0]) < max(losses[0]) - 0.01
