"""Transforms that run away or are all the same, trainings that collapse, and their warnings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stn_jax.data.distortions import example_keys
from stn_jax.training import Config, health, train
from stn_jax.training.assemble import assemble
from stn_jax.training.health import MIN_VARIATION, runaway, singular_values, variation
from stn_jax.training.run import Run
from stn_jax.training.step import Metrics, distorted_batch, make_train_steps, seed_keys
from stn_jax.warp import affine

floats = st.floats(-20, 20, width=32)


@given(arrays(np.float32, (2, 3), elements=floats))
def test_stretches_are_the_singular_values(theta):
    expected = np.linalg.svd(theta[:, :2].astype(np.float64), compute_uv=False)
    found = singular_values(jnp.asarray(theta))
    np.testing.assert_allclose(found, expected[::-1], atol=1e-5 * max(1, expected[0]))


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        (affine.identity(), False),
        (affine.rotation(70.0), False),
        (affine.scaling(0.25), False),
        (affine.scaling(0.04), True),
        (affine.scaling(jnp.array([1.0, 0.01])), True),
        (affine.scaling(-1.0), False),
        (affine.scaling(11.0), True),
        (affine.shearing(20.0), True),
        (affine.identity().at[0, 0].set(jnp.nan), True),
        (affine.identity().at[1, 1].set(jnp.inf), True),
        (jnp.zeros((2, 3)), True),
    ],
)
def test_runaway(theta, expected):
    assert bool(runaway(theta)) is expected


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2), st.just(3)), elements=floats))
def test_variation_is_the_greatest_standard_deviation(thetas):
    expected = np.std(thetas.astype(np.float64), 0).max()
    np.testing.assert_allclose(variation(jnp.asarray(thetas)), expected, atol=1e-5)


@pytest.fixture(scope="module")
def run(tiny_cache) -> Run:
    return assemble(Config(cache_dir=str(tiny_cache), width=1 / 16, batch_size=64))


@pytest.mark.slow
def test_the_norm_of_the_localization_networks_gradient(run):
    """Against the gradient of the same loss, differentiated here for its parameters alone."""
    state = run.init_state()
    # Where theta's layer is 0, all gradients before it are.
    kernel = state["params"]["transformer"]["theta"]["kernel"]
    state["params"]["transformer"]["theta"]["kernel"] = kernel + 0.01
    params = jax.tree.map(lambda x: x[0], state["params"])
    key = seed_keys((0,))[0]
    order = jax.random.permutation(
        jax.random.fold_in(jax.random.fold_in(key, 2**31 - 2), 0), len(run.data.images)
    )[:64]
    keys = example_keys(jax.random.fold_in(key, 0), jnp.arange(64))
    images, _ = distorted_batch(run.task, run.data, keys, run.data.images[order])

    @jax.jit
    def loss(part):
        logits = run.model.apply({"params": {**params, "transformer": part}}, images)
        labels = run.data.labels[order]
        return -jax.nn.log_softmax(logits)[jnp.arange(64), labels].mean()

    expected = optax.tree.norm(jax.grad(loss)(params["transformer"]))
    assert expected > 1e-3
    steps = make_train_steps(run.model, run.optimizer, run.task, seeds=(0,), batch_size=64)
    _, sums = steps(state, Metrics.empty(run.model, 1), run.data, jnp.int32(1))
    np.testing.assert_allclose(sums.localization_gradient_norm, expected, rtol=1e-4)
    assert sums.localization_gradient_norm[0] < sums.gradient_norm[0]
    assert sums.runaway.tolist() == [0.0]
    theta = run.model.apply({"params": params}, images, return_details=True)[1].theta
    np.testing.assert_allclose(sums.theta_variation, np.std(theta, 0).max(), rtol=1e-4)
    assert sums.theta_variation[0] > 1e-3


def logged(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_transforms_that_run_away_are_reported_with_advice(tiny_config, tmp_path, capsys):
    values = {"localization_rate": 1000.0, "clip_norm": 0.5, "test_passes": 1}
    train(Config(**{**tiny_config, **values}), tmp_path)
    errors = capsys.readouterr().err
    assert errors.count("% of the transforms have run away") == 1
    assert "Lower localization_rate, set clip_norm" in errors
    assert max(line["runaway_theta_percent"][0] for line in logged(tmp_path)) > 10


@pytest.mark.thin("1e-09-1")
@pytest.mark.parametrize(("rate", "warned"), [(1e-9, 1), (0.0, 0)])
def test_constant_transforms_are_reported(tiny_config, tmp_path, capsys, monkeypatch, rate, warned):
    # Without any rate it is the user's wish.
    monkeypatch.setattr(health, "GRACE_STEPS", 2)
    values = {"localization_rate": rate, "log_every": 1, "test_passes": 1}
    result = train(Config(**{**tiny_config, **values}), tmp_path)
    errors = capsys.readouterr().err
    assert errors.count("the transforms are the same for all images: the localization") == warned
    assert ("same_transforms" in result["warnings"]) == warned
    assert errors.count("try --config.localization_rate=4e-09") == warned
    assert all(line["theta_variation"][0] < MIN_VARIATION for line in logged(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "warned"), [(0.4, 1), (0.05, 0)])
def test_a_training_that_collapses_is_reported(tiny_config, tmp_path, capsys, rate, warned):
    values = {"variant": "cnn", "width": 0.25, "learning_rate": rate, "warmup": 0.9, "epochs": 12}
    config = Config(**{**tiny_config, **values, "batch_size": 64, "test_passes": 1})
    found = set(train(config, tmp_path)["warnings"])
    assert ("at_chance" in found) == warned
    # How it collapses, with its ReLUs or without, differs between versions of JAX.
    assert found <= ({"at_chance", "dead_relus"} if warned else set())
    assert capsys.readouterr().err.count("the training has collapsed") == warned
    errors = [line["train_error_percent"][0] for line in logged(tmp_path)]
    assert (errors[-1] > min(errors) + 30) == warned


@pytest.mark.slow
def test_a_healthy_run_is_not_warned_of(tiny_config, tmp_path, capsys):
    # At a higher rate, so narrow a network may lose all of its ReLUs.
    values = {"width": 0.25, "learning_rate": 0.05, "epochs": 12, "batch_size": 64}
    result = train(Config(**{**tiny_config, **values, "test_passes": 1}), tmp_path)
    assert result["warnings"] == {}
    assert "warning" not in capsys.readouterr().err
    for line in logged(tmp_path)[2:]:  # at first all thetas are the identity
        assert line["theta_variation"][0] > MIN_VARIATION
        assert line["runaway_theta_percent"] == [0.0]
        assert 0 < line["localization_gradient_norm"][0] < line["gradient_norm"][0]


def test_a_network_without_a_transformer_has_none_of_it(tiny_config, tmp_path):
    train(Config(**{**tiny_config, "variant": "cnn", "test_passes": 1}), tmp_path)
    of_transforms = {"runaway_theta_percent", "localization_gradient_norm", "theta_variation"}
    assert not of_transforms & set(logged(tmp_path)[0])
