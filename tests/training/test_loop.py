"""Training from a configuration to a result, on a few real digits."""

import json
import math

import chex
import jax
import numpy as np
import pytest

from stn_jax.analysis.intervals import mean_and_interval
from stn_jax.files import atomic_write
from stn_jax.report.gallery import DrawFigures
from stn_jax.training import Config, ConfigError, Hooks, TrainingError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.evaluation import predict, summarize
from stn_jax.training.restore import evaluate_workdir, load
from stn_jax.training.run import Run
from stn_jax.training.workdir import Workdir

TIMED = {"seconds", "images_per_second"}


def history(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]


def params_of(path):
    return load(path)[1]["params"]


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A run of eight steps that was never interrupted, its config and its result."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    config = Config(**tiny_config | {"seeds": (0, 1), "tensorboard": True, "figures": True})
    return path, config, train(config, str(path), DrawFigures())


def test_a_run_leaves_what_the_readme_promises(finished):
    path, config, result = finished
    assert json.loads((path / "result.json").read_text()) == result
    assert Config.load(path) == config
    expected = {
        "task": "rotated_mnist",
        "variant": "stn-sl1",
        "seeds": [0, 1],
        "train_examples": 520,
        "epochs": 2,
        "step": 8,
        "test_examples": 90,
        "evaluated_on": "test set",
    }
    assert {k: result[k] for k in expected} == expected
    assert len(result["test_error_percent"]) == 2
    assert result["mean"] == pytest.approx(np.mean(result["test_error_percent"]))
    assert result["ci95"] > 0
    assert result["seconds"] > 0
    assert {"device", "versions", "commit", "config"} <= set(result)
    for name in ("gallery.png", "angles.png"):
        assert (path / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert list((path / "tensorboard").iterdir())
    # Log points: every third step, and wherever a checkpoint is written.
    lines = history(path)
    assert [line["step"] for line in lines] == [3, 4, 6, 8]
    assert all(math.isfinite(x) for line in lines for x in line["loss"])


def test_a_finished_run_is_not_done_again(finished, capsys):
    path, config, result = finished
    assert train(config, str(path)) == result
    assert "is already trained and evaluated" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_never_was(finished, tmp_path, monkeypatch):
    path, config, result = finished

    class CutOffError(Exception):
        pass

    class Dying(Hooks):
        def after_checkpoint(self, step):
            raise CutOffError

    with pytest.raises(CutOffError):
        train(config, str(tmp_path), Dying())
    # Lines from after the checkpoint are from steps that are now taken again.
    Workdir(tmp_path).append_metrics({**history(tmp_path)[-1], "step": 6, "seconds": 1.0})
    again = train(config, str(tmp_path))
    chex.assert_trees_all_equal(params_of(tmp_path), params_of(path))
    assert history(tmp_path) == history(path)
    differ = {key for key in result if result[key] != again[key]}
    assert differ <= {"seconds"}


def test_a_workdir_of_another_configuration_is_rejected(finished):
    path, config, _ = finished
    other = Config(**{**config.to_dict(), "epochs": 3})
    with pytest.raises(ConfigError, match=r"another configuration \(epochs: 2 against 3\)"):
        train(other, str(path))


def test_a_workdir_that_cannot_be_made_is_rejected(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to workdir"):
        train(Config(**tiny_config), str(tmp_path / "file" / "run"))


def test_training_stops_where_the_loss_is_not_finite(tiny_config, tmp_path):
    values = {**tiny_config, "learning_rate": 1e30, "clip_norm": 0.0, "variant": "cnn"}
    with pytest.raises(
        TrainingError, match=r"not finite at step \d+ \(seed 0\); there is no check"
    ):
        train(Config(**values), str(tmp_path))
    assert not (tmp_path / "result.json").exists()
    assert Checkpoints(tmp_path / "checkpoints").latest_step() is None


def test_more_examples_a_batch_than_there_are_is_rejected(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match="batch_size is 521, but mnist has 520"):
        train(Config(**{**tiny_config, "batch_size": 521}), str(tmp_path))
    with pytest.raises(ConfigError, match=r"has 0 training images \(520 held out\)"):
        train(Config(**{**tiny_config, "holdout": 520}), str(tmp_path))


def test_held_out_examples_replace_the_test_set(tiny_config):
    whole, held = (
        assemble(Config(**tiny_config)),
        assemble(Config(**{**tiny_config, "holdout": 20})),
    )
    np.testing.assert_array_equal(held.data.images, whole.data.images[:500])
    np.testing.assert_array_equal(held.test.images, whole.data.images[500:])


def test_evaluation_counts_every_example_once_whatever_the_batch(finished):
    path, config, result = finished
    for size in (1000, 7):
        run, state = load(path)
        run = Run(
            Config(**{**config.to_dict(), "test_batch_size": size}),
            run.task,
            run.model,
            run.data,
            run.test,
        )
        predictions = predict(run, state["params"], quiet=True)
        assert predictions.classes.shape == (2, 2, 90)
        assert summarize(run, predictions)["test_error_percent"] == result["test_error_percent"]


def test_evaluating_again_gives_the_same_result(finished):
    path, _, result = finished
    assert evaluate_workdir(path) == result


def test_evaluating_an_untrained_workdir_is_an_error(finished, tmp_path):
    _, config, _ = finished
    Workdir(tmp_path).write_json("config.json", config.to_dict())
    with pytest.raises(ConfigError, match="has no checkpoint; train it first"):
        evaluate_workdir(tmp_path)


def test_training_without_checkpoints_writes_none(tiny_config, tmp_path):
    result = train(
        Config(**{**tiny_config, "checkpoint_every": 0, "variant": "cnn"}), str(tmp_path)
    )
    assert result["step"] == 8
    assert not (tmp_path / "checkpoints").exists()
    assert "angle_spread_degrees" not in result


def test_mean_and_interval_against_a_table_of_students_t():
    # Three values, two degrees of freedom: t = 4.303.
    mean, interval = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert interval == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert mean_and_interval([1.5]) == (1.5, None)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    with atomic_write(path) as file:
        file.write("first")

    def fail_half_way():
        with atomic_write(path) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_metrics_line_that_was_cut_off_is_dropped(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.append_metrics({"step": 1, "epoch": 0.5, "seconds": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "sec')
    assert workdir.rewind_metrics(5) == 2.0
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "epoch": 0.5, "seconds": 2.0}\n'
    )


def test_the_state_is_a_plain_tree(finished):
    state = load(finished[0])[1]
    assert set(state) == {"step", "params", "optimizer"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
