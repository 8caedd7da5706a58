"""Networks that guess, whose ReLUs are dead, or whose transforms are the same for all images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats

import stn_jax
from stn_jax.models.activity import apply_and_observe
from stn_jax.training import Config
from stn_jax.training.assemble import assemble
from stn_jax.training.diagnosis import constant_loss, diagnose
from stn_jax.training.evaluation import Predictions
from stn_jax.training.health import at_chance, chance_error, collapsed
from stn_jax.warp import affine


def test_chance_is_the_most_frequent_label():
    assert chance_error(np.array([0, 1, 1, 2])) == 0.5
    numbers = np.array([[1, 10], [1, 10], [1, 2], [3, 10]])
    assert chance_error(numbers) == 0.5


def test_an_error_is_at_chance_within_two_standard_errors():
    chance, count = 0.9, 2500  # a standard error of 0.6 %
    errors = np.array([0.887, 0.889, 0.9, 0.95])
    assert at_chance(errors, chance, count).tolist() == [False, True, True, True]
    # As binomial statistics have it.
    bound = stats.binom(count, chance).mean() - 2 * stats.binom(count, chance).std()
    assert at_chance(np.array([bound / count + 1e-9]), chance, count).all()


@pytest.mark.parametrize(
    ("error", "best", "expected"),
    [
        (88.9, 59.5, True),  # guessing again, though no more than 29.4 points above the best
        (88.9, 86.0, False),  # it has hardly begun
        (70.0, 59.5, False),
        (70.0, 30.0, True),
        (90.0, np.inf, False),
    ],
)
def test_a_collapse_is_a_return_to_chance_or_a_steep_rise(error, best, expected):
    found = collapsed(np.array([error]), np.array([best]), 0.887)
    assert found.tolist() == [expected]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_without_images_is_the_entropy(smoothing):
    labels = np.array([0, 0, 0, 1, 2, 2, 4, 4])
    p = (1 - smoothing) * np.bincount(labels) / 8 + smoothing / 5
    assert constant_loss(labels, smoothing) == pytest.approx(stats.entropy(p))
    twice = np.stack([labels, labels], 1)
    assert constant_loss(twice, smoothing) == pytest.approx(2 * stats.entropy(p))


def test_units_that_are_never_active_are_observed():
    model = stn_jax.create_model("plain", "stn-sl1", classifier="small", width=1 / 4)
    images = jax.random.normal(jax.random.key(0), (5, 8, 10, 2))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    conv = variables["params"]["blocks_0"]["conv"]
    conv["bias"] = conv["bias"].at[3].set(-100.0)
    logits, active = apply_and_observe(model, variables, images)
    np.testing.assert_array_equal(logits, model.apply(variables, images))
    assert set(active) == {
        *("blocks_0/relu", "blocks_1/relu"),
        *("transformer/localization/relu_0", "transformer/localization/relu_1"),
    }
    assert np.flatnonzero(~active["blocks_0/relu"]).tolist() == [3]
    maps = model.apply(variables, images, method=lambda net, x: net.blocks[0](x))
    np.testing.assert_array_equal(active["blocks_0/relu"], (maps > 0).any((0, 1, 2)))


def test_modules_without_such_layers_have_none():
    images = jnp.ones((2, 3))
    logits, active = apply_and_observe(
        nn.Dense(4), nn.Dense(4).init(jax.random.key(0), images), images
    )
    assert (logits.shape, active) == ((2, 4), {})


@pytest.fixture(scope="module")
def run(tiny_cache):
    config = Config(
        cache_dir=str(tiny_cache), width=1 / 16, batch_size=64, learning_rate=0.04, seeds=(3, 4)
    )
    return assemble(config)


LINES = [
    {"train_error_percent": [60.0, 88.0], "theta_variation": [0.1, 0.1], "loss": [1.9, 2.29]},
    {"train_error_percent": [90.0, 87.0], "theta_variation": [0.1, 0.1], "loss": [2.31, 2.28]},
]


def predictions(run, **changes) -> Predictions:
    """Those of two healthy networks, with changes."""
    labels = np.asarray(run.test.labels)
    count = len(labels)
    applied = np.asarray(affine.rotation(np.linspace(-90, 90, count)))[None]
    active = {
        layer: np.arange(2 * 8).reshape(2, 8) % 8 > 0  # one of eight is dead
        for layer in ("blocks_0/relu", "transformer/localization/relu_0")
    }
    healthy = Predictions(
        classes=np.broadcast_to(labels, (2, 1, count)).copy(),
        confidence=np.ones((2, 1, count)),
        poses=np.broadcast_to(applied[..., None, :, :], (2, 1, count, 1, 2, 3)).copy(),
        applied=applied,
        labels=labels,
        active=active,
    )
    return healthy._replace(**changes)


def test_healthy_networks_are_not_warned_of(run):
    found = diagnose(run, predictions(run), LINES)
    assert found.warnings == {}
    assert found.numbers["dead_relu_percent"] == {
        "classifier": [12.5, 12.5],
        "localization": [12.5, 12.5],
    }
    # Rotated uniformly between -90 and 90 degrees, a corner moves on a half circle.
    radius = 14 * 2**0.5
    expected = radius * (1 - (2 / np.pi) ** 2) ** 0.5
    assert found.numbers["theta_variation_pixels"] == pytest.approx([expected] * 2, rel=0.02)


def guesses(run, seed) -> np.ndarray:
    classes = predictions(run).classes
    classes[seed] = 5
    return classes


def test_a_collapse_is_told_from_a_training_that_has_hardly_begun(run):
    fell = diagnose(run, predictions(run, classes=guesses(run, 0)), LINES).warnings
    assert set(fell) == {"at_chance"}
    chance = 100 * chance_error(run.test.labels)
    assert "% (seed 3) is not clearly below that of always predicting" in fell["at_chance"]
    assert f"the most frequent label, {chance:.1f} %" in fell["at_chance"]
    assert "the training loss is 2.31" in fell["at_chance"]
    assert "collapsed (its training error was 60.0 % before)" in fell["at_chance"]
    rate = run.config.learning_rate / 4
    assert f"try --config.learning_rate={rate:.2g}" in fell["at_chance"]
    new = diagnose(run, predictions(run, classes=guesses(run, 1)), LINES).warnings
    assert "(seed 4)" in new["at_chance"]
    assert "hardly begun after 160 steps: try --config.epochs=80" in new["at_chance"]
    silent = diagnose(run, predictions(run, classes=guesses(run, 1)), [])
    assert set(silent.warnings) == {"at_chance"}


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        (
            "blocks_0/relu",
            "the prediction no longer depends on the image, and no training revives "
            "them: try --config.learning_rate=0.01",
        ),
        (
            "transformer/localization/relu_0",
            "the transform no longer depends on the image, and no "
            "training revives them: try --config.localization_rate=0.0037",
        ),
    ],
)
def test_a_layer_whose_relus_are_all_dead_is_named(run, layer, advice):
    active = predictions(run).active | {layer: np.zeros((2, 8), bool)}
    text = diagnose(run, predictions(run, active=active), LINES).warnings["dead_relus"]
    assert text.startswith(f"all ReLUs of {layer} are 0 for every image, so")
    assert advice in text
    active[layer][1, 2] = True
    text = diagnose(run, predictions(run, active=active), LINES).warnings["dead_relus"]
    assert "(seed 3)" in text


def test_transforms_that_are_the_same_for_all_images(run):
    poses = np.broadcast_to(affine.rotation(20.0), predictions(run).poses.shape)
    found = diagnose(run, predictions(run, poses=poses), LINES)
    assert found.numbers["theta_variation_pixels"] == pytest.approx([0, 0], abs=1e-4)
    text = found.warnings["same_transforms"]
    assert "has not begun to learn: try --config.localization_rate=0.06" in text
    ended = [LINES[0], LINES[1] | {"theta_variation": [0.0, 0.0]}]
    text = diagnose(run, predictions(run, poses=poses), ended).warnings["same_transforms"]
    assert "no longer depends on the image: try --config.localization_rate=0.0037" in text
    # Not trained at all, it is the user's wish.
    still = dataclasses.replace(run, config=dataclasses.replace(run.config, localization_rate=0.0))
    assert diagnose(still, predictions(run, poses=poses), LINES).warnings == {}


def test_one_of_several_transformers_is_the_same_for_all_images(run):
    poses = predictions(run).poses
    resting = np.broadcast_to(affine.identity(), poses.shape)
    both = predictions(run, poses=np.concatenate([poses, resting], 3))
    assert list(diagnose(run, both, LINES).warnings) == ["same_transforms"]
