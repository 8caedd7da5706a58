"""Configurations: what is refused, and how it is said."""

import json

import pytest

from stn_jax.training import Config, ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "mnist"}, "task is 'mnist'; expected one of rotated_mnist, translated_mnist"),
        ({"variant": "stn-sl3"}, "has 2 blocks; expected a depth from 0 to 2"),
        ({"variant": "stn"}, "variant is 'stn'; expected cnn"),
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"epochs": -1}, "epochs is -1; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"holdout": -5}, "holdout is -5; expected 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number"),
        ({"momentum": 1.0}, "momentum is 1.0; expected 0 or more and less than 1"),
        ({"warmup": 1.5}, "warmup is 1.5; expected 0 or more and less than 1"),
        (
            {"localization_optimizer": "rmsprop"},
            "localization_optimizer is 'rmsprop'; expected one of sgd, adam",
        ),
        ({"schedule": "cosine"}, "schedule is 'cosine'; expected one of one_cycle, step, constant"),
        ({"padding_mode": "wrap"}, "padding_mode is 'wrap'; expected one of"),
        ({"transform": "homography"}, "transform is 'homography'; expected one of rotation, atten"),
        ({"transform": "tps", "iterations": 2}, "'tps', which does not compose, and iterations is"),
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16'; expected one of float32"),
        ({"seeds": ()}, r"seeds is \(\); expected one or more, all different"),
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\); expected one or more, all different"),
        ({"seeds": (-1,)}, r"seeds is \(-1,\); expected numbers from 0"),
        ({"seeds": "0"}, "seeds is '0'; expected whole numbers"),
        ({"epochs": 2.5}, "epochs is 2.5, of type float; expected int"),
        ({"figures": 1}, "figures is 1, of type int; expected bool"),
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


def test_unknown_fields_are_named():
    with pytest.raises(ConfigError, match="has unknown fields: epoch"):
        Config.from_dict({"epoch": 3})


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
    with pytest.raises(ConfigError, match="is not readable as JSON"):
        Config.load(tmp_path)


def test_differences_name_what_shapes_the_training_and_nothing_else():
    config = Config(epochs=4)
    assert config.differences(Config(epochs=8, log_every=7, cache_dir="x")) == [
        "epochs: 4 against 8"
    ]
