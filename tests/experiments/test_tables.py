"""The rows: what they train, and what they are called."""

import dataclasses
import itertools

import pytest

from stn_jax.data.tasks import TASKS
from stn_jax.experiments import tables
from stn_jax.experiments.jobs import GUESS, TRAIN_IMAGES
from stn_jax.experiments.tables import NETWORK, TABLES
from stn_jax.training import Config, ConfigError
from stn_jax.training.config_files import read_config_file


def test_table_1_is_the_papers():
    """arXiv 2001.05858, Table 1."""
    reported = {
        "cnn": (1.71, 1.72),
        "stn-c0": (1.08, 1.08),
        "stn-c1": (1.32, 1.15),
        "stn-sl1": (0.98, 1.10),
    }
    tasks = {"rotation": "rotated_mnist", "translation": "translated_mnist"}
    ours = {}
    for row in TABLES["table1"].rows:
        config = row.config()
        assert (config.dataset, config.iterations, config.test_passes) == ("mnist", 1, 10)
        ours[config.task, config.variant] = row.paper
    assert ours == {
        (task, variant): errors[i]
        for i, task in enumerate(tasks.values())
        for variant, errors in reported.items()
    }


def test_table_2_is_the_papers():
    """arXiv 2001.05858, Table 2; at depth 0 both columns are the same network."""
    reported = {0: (3.81, 3.81), 3: (3.70, 3.54), 6: (3.91, 3.29), 8: (4.00, 3.27)}
    ours = {}
    for row in TABLES["table2"].rows:
        config = row.config()
        assert (config.task, config.dataset, config.test_passes) == ("svhn", "svhn_numbers", 1)
        assert config.localization_rate == 0.1
        ours[config.variant] = row.paper
    assert ours.pop("cnn") is None
    expected = {f"stn-c{x}": c for x, (c, _) in reported.items()}
    expected |= {f"stn-sl{x}": sl for x, (_, sl) in reported.items() if x}
    assert ours == expected


def test_the_published_training_of_svhn_is_400_000_steps_of_128():
    config = read_config_file("svhn_published", {})
    assert abs(TRAIN_IMAGES["svhn_numbers"] // 128 * config.epochs - 400_000) < 1000
    assert (config.batch_size, config.weight_decay, config.step_drops) == (128, 5e-4, 4)


def test_mnist_rot_is_the_studys_networks_on_the_full_circle():
    rows = {row.name.partition("/")[2]: row.config() for row in TABLES["mnist_rot"].rows}
    assert list(rows) == ["cnn", "stn-c0", "stn-sl1"]
    for variant, config in rows.items():
        study = TABLES["table1"].select([f"rotation/{variant}"])[0].config()
        assert set(config.differences(study, ignored=())) == {
            "dataset: mnist_rot against mnist",
            "max_angle: 180.0 against 90.0",
            "epochs: 200 against 20",
            "checkpoint_every: 5 against 1",
            "test_passes: 1 against 10",
        }


def test_larger_images_take_lower_rates():
    """So that ReLUs do not die; where the classifier's is as ever, so is the plain CNN's."""

    def adam(config):
        return config.learning_rate * config.localization_rate

    rows = {row.name: row.config() for name in ("table1", "scaled") for row in TABLES[name].rows}
    for network in ("stn-c0", "stn-c1", "stn-sl1"):
        on = {task: adam(rows[f"{task}/{network}"]) for task in tables.TASKS}
        assert on["rotation"] > on["translation"] > on["scaling"]
    assert rows["rotation/stn-c0"].localization_rate == Config().localization_rate
    assert rows["translation/cnn"] == dataclasses.replace(
        rows["rotation/cnn"], task="translated_mnist"
    )
    scaled = {c.learning_rate for name, c in rows.items() if name.startswith("scaling")}
    assert scaled == {rows["rotation/cnn"].learning_rate / 4}
    assert TABLES["deeper"].select(["scaling/*"])[0].config() == dataclasses.replace(
        rows["scaling/stn-sl1"], variant="stn-dl1"
    )


def test_settings_come_before_a_rows_defaults():
    row = TABLES["table2"].select(["svhn/cnn"])[0]
    assert row.config({"epochs": 3, "dataset": "made_up"}).dataset == "made_up"
    with pytest.raises(ConfigError, match=r"--config\.task is set by the rows"):
        row.config({"task": "svhn_cropped"})


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_distinct_networks(name):
    rows = TABLES[name].rows
    for row in rows:
        config = row.config({"seeds": (3,)})
        assert config.seeds == (3,)
        assert all(config.task in guesses for guesses in GUESS.values())
    for a, b in itertools.combinations(rows, 2):
        assert a.name != b.name
        assert any(getattr(a.config(), field) != getattr(b.config(), field) for field in NETWORK)


def test_all_tasks_of_mnist_have_rows():
    used = {row.config().task for table in TABLES.values() for row in table.rows}
    assert {name for name in TASKS if name.endswith("mnist")} <= used


def test_rows_are_chosen_by_names_and_patterns_and_come_in_the_tables_order():
    def chosen(*patterns):
        return [row.name for row in TABLES["table1"].select(patterns)]

    assert chosen("translation/cnn", "rotation/stn-sl1") == ["rotation/stn-sl1", "translation/cnn"]
    assert chosen("*/cnn") == ["rotation/cnn", "translation/cnn"]
    assert len(chosen("*")) == 8
    with pytest.raises(ConfigError, match=r"'sl1'; expected one or more of rotation/cnn, rot"):
        chosen("rotation/cnn", "sl1")


@pytest.mark.parametrize("field", ["task", "variant", "iterations"])
def test_settings_cannot_make_another_network_of_a_row(field):
    with pytest.raises(ConfigError, match=f"--config.{field} is set by the rows of a table"):
        TABLES["table1"].rows[0].config({field: 1})
