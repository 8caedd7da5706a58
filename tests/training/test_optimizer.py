"""The optimizer: its schedule, and which parameters get what."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stn_jax.experiments.tables import TABLES
from stn_jax.training import Config
from stn_jax.training.assemble import assemble
from stn_jax.training.config_files import named_config
from stn_jax.training.optimizer import (
    default_learning_rate,
    make_adam_schedule,
    make_optimizer,
    make_schedule,
)


def test_one_cycle_rises_to_its_peak_and_falls_to_nothing():
    schedule = make_schedule(Config(learning_rate=0.2, warmup=0.3), 100)
    rates = np.array([schedule(step) for step in range(101)])
    assert rates.argmax() == 30
    assert rates[30] == pytest.approx(0.2)
    assert rates[0] == pytest.approx(0.2 / 25)
    assert rates[100] == pytest.approx(0.2 / 10_000)
    assert (np.diff(rates[:31]) > 0).all()
    assert (np.diff(rates[30:]) < 0).all()


@pytest.mark.parametrize(
    ("batch_size", "steps", "rate"),
    [
        (256, 936, 0.2),  # the quickstart
        (256, 600, 0.2),
        (512, 10_000, 0.2),
        (32, 10_000, 0.025),
        (256, 150, 0.1),
        (128, 150, 0.05),
        (32, 1, 0.00102),
    ],
)
def test_the_rate_is_chosen_for_batch_and_steps(batch_size, steps, rate):
    assert default_learning_rate(batch_size, steps) == pytest.approx(rate)


def test_a_run_holds_the_rate_that_is_chosen(tiny_cache):
    values = {"cache_dir": str(tiny_cache), "width": 1 / 16, "batch_size": 64, "epochs": 2}
    run = assemble(Config(**values))
    assert run.total_steps == 16
    assert run.config == dataclasses.replace(
        Config(**values), learning_rate=default_learning_rate(64, 16)
    )
    peak = max(float(run.schedule(step)) for step in range(17))
    assert peak == pytest.approx(run.config.learning_rate)
    given = Config(**values, learning_rate=0.03)
    assert assemble(given).config == given


def test_tables_and_published_trainings_have_rates_of_their_own():
    rates = {
        name: named_config(name)["learning_rate"]
        for name in ("rotated_mnist", "translated_mnist", "scaled_mnist", "svhn", "svhn_cropped")
    }
    assert rates == {
        "rotated_mnist": 0.2,
        "translated_mnist": 0.2,
        "scaled_mnist": 0.05,
        "svhn": 0.03,
        "svhn_cropped": 0.03,
    }
    for name in ("svhn_published", "paper_schedule"):
        assert named_config(name)["learning_rate"] == 0.01
    for table in TABLES.values():
        assert all(row.config().learning_rate > 0 for row in table.rows)
    # As stored configurations without the field were trained.
    assert Config.from_stored({}).learning_rate == 0.2


def test_the_papers_schedule_falls_to_a_tenth_after_each_third():
    schedule = make_schedule(Config(learning_rate=0.01, schedule="step"), 150)
    rates = [float(schedule(step)) for step in (0, 49, 51, 99, 101, 149)]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-6)


def test_a_schedule_of_steps_may_fall_more_often():
    schedule = make_schedule(Config(learning_rate=1.0, schedule="step", step_drops=4), 400)
    rates = [float(schedule(step)) for step in (0, 79, 81, 159, 161, 241, 321, 399)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 1e-2, 1e-3, 1e-4, 1e-4], rtol=1e-5)


def test_constant_is_constant():
    schedule = make_schedule(Config(learning_rate=0.01, schedule="constant"), 10)
    assert [float(schedule(step)) for step in range(10)] == [pytest.approx(0.01)] * 10


PARAMS = {
    "blocks_0": {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "transformer": {"theta": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
}


def updates(gradients, localization_optimizer="sgd", **values):
    config = Config(
        schedule="constant",
        learning_rate=0.1,
        momentum=0.0,
        localization_optimizer=localization_optimizer,
        **values,
    )
    optimizer = make_optimizer(config, 10)
    return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


def test_the_localization_network_learns_at_its_own_rate():
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    moved = updates(gradients, localization_rate=0.25, weight_decay=0.0, clip_norm=0.0)
    chex.assert_trees_all_close(moved["blocks_0"]["conv"]["kernel"], jnp.full((2, 2), -0.1))
    chex.assert_trees_all_close(moved["transformer"]["theta"]["bias"], jnp.full(2, -0.025))


def test_weight_decay_leaves_biases_alone():
    gradients = jax.tree.map(jnp.zeros_like, PARAMS)
    moved = updates(gradients, weight_decay=0.5, clip_norm=0.0)
    chex.assert_trees_all_close(moved["blocks_0"]["conv"]["kernel"], jnp.full((2, 2), -0.05))
    chex.assert_trees_all_equal(moved["blocks_0"]["conv"]["bias"], jnp.zeros(2))


def test_clipping_bounds_the_norm_and_0_turns_it_off():
    gradients = jax.tree.map(lambda x: 100 * jnp.ones_like(x), PARAMS)
    clipped = updates(gradients, clip_norm=2.0, weight_decay=0.0, localization_rate=1.0)
    assert float(optax.tree.norm(clipped)) == pytest.approx(0.1 * 2.0, rel=1e-5)
    free = updates(gradients, clip_norm=0.0, weight_decay=0.0, localization_rate=1.0)
    assert float(optax.tree.norm(free)) == pytest.approx(0.1 * 100 * np.sqrt(12), rel=1e-5)


def test_adam_is_at_its_peak_while_the_classifier_warms_up():
    config = Config(learning_rate=0.2, localization_rate=0.5, warmup=0.5)
    rate, classifier = make_adam_schedule(config, 1000), make_schedule(config, 1000)
    assert float(rate(0)) == 0
    assert [float(rate(step)) for step in (50, 500, 800)] == pytest.approx([0.1] * 3)
    assert float(classifier(50)) < 0.05
    assert float(rate(900)) == pytest.approx(0.1 * 0.505)
    assert float(rate(1000)) == pytest.approx(0.001)
    early = Config(learning_rate=0.2, localization_rate=0.5, localization_decay=0.6)
    rates = [float(make_adam_schedule(early, 1000)(step)) for step in (50, 400, 700, 1000)]
    assert rates == pytest.approx([0.1, 0.1, 0.1 * 0.505, 0.001])
    steps = Config(learning_rate=0.2, localization_rate=0.5, schedule="step")
    assert float(make_adam_schedule(steps, 90)(40)) == pytest.approx(0.01)


def test_adam_updates_only_the_localization_network():
    values = {"weight_decay": 0.5, "clip_norm": 1.0, "localization_rate": 0.25}
    gradients = jax.tree.map(lambda x: 100 * jnp.ones_like(x), PARAMS)
    moved = updates(gradients, localization_optimizer="adam", **values)
    # Adam's first step is as long as its rate, whatever the gradient; nothing is clipped there.
    expected = jax.tree.map(lambda x: jnp.full_like(x, -0.1 * 0.25), PARAMS["transformer"])
    chex.assert_trees_all_close(moved["transformer"], expected, rtol=1e-4)
    own = {"blocks_0": gradients["blocks_0"]}
    clipped = 1 / float(optax.tree.norm(own))
    kernel = -0.1 * (100 * clipped + 0.5)
    chex.assert_trees_all_close(
        moved["blocks_0"]["conv"]["kernel"], jnp.full((2, 2), kernel), rtol=1e-5
    )
