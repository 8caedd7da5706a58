"""Errors of averaged weights, against the mean as a checkpoint that is evaluated as any other."""

import jax
import pytest

from stn_jax.training import Config, train
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.restore import evaluate_workdir, load
from tools import average_weights


@pytest.mark.slow
def test_the_mean_of_two_checkpoints(tiny_config, tmp_path, capsys):
    trained = train(Config(**tiny_config | {"learning_rate": 0.02}), tmp_path)
    average_weights.main([str(tmp_path)])
    rows = [line.replace("%", "").split() for line in capsys.readouterr().out.splitlines()[1:]]
    newest, both = rows
    assert [newest[0], both[0]] == ["8", "4"]
    assert newest[1] == newest[2] == f"{trained['mean']:.3f}"
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    _, state = load(tmp_path)
    others = checkpoints.read(4, state).state["params"]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, state["params"], others)
    checkpoints.save({**state, "params": mean})
    assert both[2] == f"{evaluate_workdir(tmp_path)['mean']:.3f}"
    assert both[1] != both[2]
