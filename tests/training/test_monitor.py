"""What a training does besides its steps: evaluations, the best state, traces, an overview."""

import json
import re

import chex
import numpy as np
import pytest

from stn_jax.cli.eval import main as eval_main
from stn_jax.cli.train import main as train_main
from stn_jax.training import Config, Hooks, train
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.evaluation import predict
from stn_jax.training.restore import load


@pytest.fixture
def watched(tiny_config) -> Config:
    """A run of twelve steps, evaluated on held-out digits after every fourth."""
    values = {"epochs": 3, "holdout": 8, "eval_every": 1, "keep_best": True, "test_passes": 1}
    return Config(**tiny_config | values | {"variant": "cnn", "seeds": (0, 1)})


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def without_times(path):
    times = {"seconds", "images_per_second"}
    return [{k: v for k, v in line.items() if k not in times} for line in lines(path)]


def test_errors_are_logged_and_the_best_state_is_kept(watched, tmp_path):
    train(watched, tmp_path)
    found = {
        x["step"]: x["eval_error_percent"] for x in lines(tmp_path) if "eval_error_percent" in x
    }
    assert list(found) == [4, 8, 12]
    best = min(found, key=lambda step: (np.mean(found[step]), step))
    assert Checkpoints(tmp_path / "best").steps() == [best]
    run, state = load(tmp_path, best=True)
    assert int(state["step"]) == best
    wrong = predict(run, state["params"], passes=1, quiet=True).wrong
    assert found[best] == pytest.approx(100 * wrong.mean((1, 2)), abs=1e-3)


@pytest.mark.slow
def test_evaluations_do_not_change_the_training(watched, tmp_path):
    train(watched, tmp_path / "watched")
    plain = Config(**watched.to_dict() | {"eval_every": 0, "keep_best": False})
    train(plain, tmp_path / "plain")
    chex.assert_trees_all_equal(load(tmp_path / "watched")[1], load(tmp_path / "plain")[1])
    assert not (tmp_path / "plain" / "best").exists()


@pytest.mark.slow
def test_an_interrupted_training_has_the_same_evaluations_and_best_state(watched, tmp_path):
    class Cut(Hooks):
        def after_checkpoint(self, step):
            if step == 8:
                raise ZeroDivisionError

    train(watched, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(watched, tmp_path / "cut", Cut())
    # As if it had gone further, and lost all but its first checkpoint.
    Checkpoints(tmp_path / "cut" / "checkpoints").delete(8)
    train(watched, tmp_path / "cut")
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    whole, cut = (load(tmp_path / name, best=True)[1] for name in ("whole", "cut"))
    chex.assert_trees_all_equal(whole, cut)


@pytest.mark.slow
def test_as_many_checkpoints_are_kept_as_the_configuration_says(watched, tmp_path):
    train(Config(**watched.to_dict() | {"keep_checkpoints": 3}), tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 8, 12]


@pytest.mark.slow
def test_the_best_state_is_evaluated_from_the_command_line(watched, tmp_path, capsys):
    train(watched, tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    capsys.readouterr()
    assert eval_main([f"--workdir={tmp_path}", "--best"]) == 0
    pattern = r", best state: test error [\d.]+ % on mnist \(90 examples\)\n$"
    assert re.search(pattern, capsys.readouterr().out)
    assert (tmp_path / "result.json").read_bytes() == before
    (tmp_path / "best").rename(tmp_path / "gone")
    assert eval_main([f"--workdir={tmp_path}", "--best"]) == 2
    assert "has no best state; train with keep_best" in capsys.readouterr().err


@pytest.mark.slow
def test_the_steps_that_are_named_are_traced(tiny_config, tmp_path, capsys):
    config = Config(**tiny_config | {"epochs": 1, "profile": "1:3", "test_passes": 1})
    train(config, tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert f"trace written to {tmp_path}/profile" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_shows_an_overview_once(tiny_config, tmp_path, capsys):
    fields = tiny_config | {"epochs": 1}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = ["--config=rotated_mnist", f"--workdir={tmp_path}", *flags]
    assert train_main(command) == 0
    out = capsys.readouterr().out
    assert "data: mnist, 520 training images; network input 28 x 28 x 1" in out
    assert "steps: 4 of 128 images, 4 per epoch" in out
    assert re.search(r"^  blocks_0/conv +328$", out, re.M)  # 9 * 9 * 4 + 4
    assert re.search(r"^  epochs \* +1$", out, re.M)
    assert re.search(r"^  schedule +'one_cycle'$", out, re.M)
    assert train_main(command) == 0
    assert "all parameters" not in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["5", "5:5", "7:2", "a:b", "1:2:3", "-1:3"])
def test_what_are_no_steps_to_trace(profile):
    with pytest.raises(ValueError, match=r"profile is .*; expected FIRST:LAST"):
        Config(profile=profile)


def test_the_best_of_the_test_set_is_not_kept():
    with pytest.raises(ValueError, match="keep_best"):
        Config(keep_best=True, eval_every=1)
