"""Configurations: what is refused, and how it is said."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stn_jax import create_model
from stn_jax.data.tasks import make_task
from stn_jax.training import Config, ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "mnist"}, "task is 'mnist'; expected one of rotated_mnist, translated_mnist"),
        ({"variant": "stn-sl3"}, "has 2 blocks; expected a depth from 0 to 2"),
        ({"variant": "stn"}, "variant is 'stn'; expected cnn"),
        ({"recipe": "old"}, "recipe is 'old'; expected one of published, legacy"),
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"epochs": -1}, "epochs is -1; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"holdout": -5}, "holdout is -5; expected 0 or more"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1; expected 0 or more"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number"),
        ({"momentum": 1.0}, "momentum is 1.0; expected 0 or more and less than 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected 0 or more and less than 1"),
        ({"warmup": 1.5}, "warmup is 1.5; expected 0 or more and less than 1"),
        (
            {"localization_optimizer": "rmsprop"},
            "localization_optimizer is 'rmsprop'; expected one of sgd, adam",
        ),
        ({"schedule": "cosine"}, "schedule is 'cosine'; expected one of one_cycle, step, constant"),
        ({"padding_mode": "wrap"}, "padding_mode is 'wrap'; expected one of"),
        ({"transform": "homography"}, "transform is 'homography'; expected one of rotation, trans"),
        ({"transform": "tps", "iterations": 2}, "'tps', which does not compose, and iterations is"),
        (
            {"transform": "tps", "window": 0.5},
            "'tps', which does not compose, and window is 0.5",
        ),
        ({"window": 0.0}, "window is 0.0; expected more than 0 and at most 100"),
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16'; expected one of float32"),
        ({"seeds": ()}, r"seeds is \(\); expected one or more, all different"),
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\); expected one or more, all different"),
        ({"seeds": (-1,)}, r"seeds is \(-1,\); expected numbers from 0"),
        ({"seeds": "0"}, "seeds is '0'; expected whole numbers"),
        ({"epochs": 2.5}, "epochs is 2.5, of type float; expected int"),
        ({"figures": 1}, "figures is 1, of type int; expected bool"),
        ({"epochs": 2**40}, "epochs is 1099511627776; expected 1 or more and at most 21474826"),
        ({"epochs": True}, "epochs is True, of type bool; expected int"),
        ({"batch_size": "256"}, "batch_size is '256', of type str; expected int"),
        ({"batch_size": None}, "batch_size is None, of type NoneType; expected int"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch is 0; expected 1 or more"),
        ({"log_every": -3}, "log_every is -3; expected 1 or more"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1; expected 0 or more"),
        ({"test_passes": 0}, "test_passes is 0; expected 1 or more"),
        ({"iterations": 0}, "iterations is 0; expected 1 or more and at most 100"),
        ({"width": 0.0}, "width is 0.0; expected more than 0 and at most 100"),
        ({"width": 1e9}, "width is 1000000000.0; expected more than 0 and at most 100"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; expected 0 or more"),
        ({"clip_norm": float("inf")}, "clip_norm is inf; expected a finite number"),
        ({"seeds": (1.0,)}, r"seeds is \(1.0,\); expected whole numbers"),
        ({"variant": "stn-c0\n"}, r"variant is 'stn-c0\\n'; expected cnn"),
        ({"dataset": "mni\0st"}, r"dataset is 'mni\\x00st'; expected a name without NUL"),
        ({"crop": 20}, "crop is 20; expected 0 where the task is rotated_mnist"),
        ({"crop": -1}, "crop is -1; expected 0 or more"),
        ({"step_drops": 0}, "step_drops is 0; expected 1 or more"),
        ({"task": "svhn", "variant": "stn-c9"}, "has 8 blocks; expected a depth from 0 to 8"),
        ({"dataset": ""}, "dataset is empty; expected mnist_sample or a TFDS name"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Config(**values)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = [field.name for field in dataclasses.fields(Config)]


@given(st.sampled_from(NAMES), ANYTHING)
def test_any_value_is_accepted_unchanged_or_rejected_by_name(name, value):
    config, message = None, ""
    try:
        config = Config(**{name: value})
    except ConfigError as error:
        message = str(error)
    if config is None:
        assert name in message
        return
    kept = getattr(config, name)
    expected = tuple(value) if isinstance(value, list) else value
    assert kept == expected or (name, kept) == ("seeds", (value,))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_fields_are_named():
    with pytest.raises(ConfigError, match="has unknown fields: epoch"):
        Config.from_dict({"epoch": 3})
    with pytest.raises(ConfigError, match=r"holds \[1\]; expected fields and their values"):
        Config.from_dict([1])


def test_whole_numbers_serve_as_floats_and_a_lone_seed_as_seeds():
    config = Config(learning_rate=1, seeds=3)
    assert (config.learning_rate, config.seeds) == (1.0, (3,))


def test_a_configuration_survives_json(tmp_path):
    config = Config(seeds=(0, 4), epochs=3, variant="stn-c1")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert Config.load(tmp_path) == config


def test_loading_says_what_is_wrong_with_the_file(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; expected the folder of a training run"):
        Config.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    for text in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(ConfigError, match="is not valid JSON"):
            Config.load(tmp_path)
    (tmp_path / "config.json").write_text("3")
    with pytest.raises(ConfigError, match=r"config.json holds 3; expected fields"):
        Config.load(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Config.load(tmp_path)


ALL = [
    *(
        (task, v)
        for task in ("rotated_mnist", "translated_mnist", "scaled_mnist")
        for v in (*("cnn", "stn-c0", "stn-c1", "stn-sl0", "stn-sl1", "stn-dl0", "stn-dl1"),)
    ),
    *(
        (task, v)
        for task in ("svhn", "svhn_cropped")
        for v in (*("cnn", "stn-c0", "stn-c3", "stn-sl0", "stn-sl8", "stn-dl0", "stn-dl2"),)
    ),
]


@pytest.mark.parametrize(("task", "variant"), ALL)
def test_configurations_stored_without_a_recipe_are_legacy(task, variant, tmp_path):
    recipes = ("published", "legacy")
    one, other = (create_model(task, variant, recipe=recipe) for recipe in recipes)
    shows = [make_task(task, recipe).distort for recipe in recipes]
    differ = one != other or shows[0] != shows[1]

    new = Config(task=task, variant=variant)
    old = new.to_dict()
    del old["recipe"]
    stored = Config.from_stored(old)
    assert stored == dataclasses.replace(new, recipe="legacy" if differ else "published")
    # So a run goes on as it began, and one that both recipes make alike is not another.
    assert (stored.differences(new) == []) == (not differ)
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert Config.load(tmp_path) == stored
    assert Config.from_stored(new.to_dict()) == new
    assert Config(task=task, variant=variant, recipe="legacy") == stored
    # A configuration that someone writes today is today's.
    assert Config.from_dict(old) == new


def test_differences_name_only_fields_that_affect_the_training():
    config = Config(epochs=4)
    assert config.differences(Config(epochs=8, log_every=7, cache_dir="x")) == [
        "epochs: 4 against 8"
    ]
