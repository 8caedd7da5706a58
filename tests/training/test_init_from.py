"""Trainings that start from another network; flags that are given twice."""

import jax
import numpy as np
import pytest

import stn_jax
from stn_jax.cli.config_flags import read_config
from stn_jax.cli.eval import main as evaluate
from stn_jax.training import Config, ConfigError, train
from stn_jax.training.assemble import assemble
from stn_jax.training.initial import initial_state


@pytest.fixture(scope="module")
def fields(tiny_config):
    return tiny_config | {"variant": "stn-sl1", "epochs": 1, "test_passes": 1}


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_finished_run_goes_on_in_a_new_folder(trained_run, fields, tmp_path, capsys):
    config = Config(**fields | {"seeds": (5, 7), "init_from": str(trained_run), "epochs": 2})
    state = initial_state(assemble(config))
    assert "parameter arrays taken" in capsys.readouterr().out
    own, first = (stn_jax.load_run(trained_run, seed)[1]["params"] for seed in (5, 3))
    same(jax.tree.map(lambda x: x[0], state["params"]), own)
    same(jax.tree.map(lambda x: x[1], state["params"]), first)  # of a seed that is new
    assert int(state["step"]) == 0
    result = train(config, tmp_path / "on")
    assert result["step"] == result["total_steps"] == 8
    assert result["config"]["init_from"] == str(trained_run)


@pytest.mark.slow
def test_a_new_head_where_classes_differ(trained_run, fields, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(200) % 4)
    npz = {"dataset": f"npz:{tmp_path / 'own.npz'}", "init_from": str(trained_run), "seeds": (3,)}
    state = initial_state(assemble(Config(**fields | npz)))
    said = capsys.readouterr().out
    assert "new: head/logits/kernel" in said
    assert "new: head/logits/bias [4], [10] there" in said
    assert said.count("new: ") == 2
    given = stn_jax.load_run(trained_run, 3)[1]["params"]
    for name in ("blocks_0", "blocks_1", "transformer"):
        same(jax.tree.map(lambda x: x[0], state["params"][name]), given[name])
    assert state["params"]["head"]["logits"]["bias"].shape == (1, 4)


@pytest.mark.slow
def test_from_pretrained_weights(fields, capsys):
    whole = {"width": 1.0, "init_from": "rotated_mnist/stn-sl1", "seeds": (0, 1)}
    state = initial_state(assemble(Config(**fields | whole)))
    given = stn_jax.load_pretrained("rotated_mnist/stn-sl1")[1]["params"]
    for i in range(2):
        same(jax.tree.map(lambda x, i=i: x[i], state["params"]), given)
    # Of a network without a transformer, this one's is new.
    cnn = {"width": 1.0, "init_from": "rotated_mnist/cnn"}
    initial_state(assemble(Config(**fields | cnn)))
    assert "new: transformer/theta/kernel [32, 6], not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "nowhere"}, "neither the folder of a run nor one of the pretrained .*sl1"),
        ({"init_from": "rotated_mnist/cnn"}, "none of whose parameters fit"),
        ({"init_from": "."}, "expected the folder of a training run"),
        ({"init_from": "a\0b"}, "without NUL characters"),
    ],
)
def test_what_cannot_be_started_from(fields, monkeypatch, tmp_path, changes, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        initial_state(assemble(Config(**fields | {"variant": "cnn"} | changes)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.epochs=1", "--config.epochs=2"],
        ["--config.figures", "--noconfig.figures"],
        ["--workdir=a", "--workdir", "b"],
        ["--config=quickstart", "--config=svhn"],
    ],
)
def test_a_flag_that_is_given_twice_is_refused(arguments):
    with pytest.raises(ConfigError, match="is given twice; leave one of them out"):
        read_config(arguments, "quickstart")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workdir=a", "--workdir=a"],
        ["--workdir=a", "--image", "x.png", "--image", "y.png"],
        ["export", "--workdir=a", "--seed=1", "--seed", "2", "out"],
    ],
)
def test_so_it_is_by_the_other_commands(arguments, capsys):
    assert evaluate(arguments) == 2
    assert "is given twice; leave one of them out" in capsys.readouterr().err


def test_so_it_is_below_a_command(capsys):
    from stn_jax.cli.experiments import main

    assert main(["table1", "--seeds=0", "--seeds=1"]) == 2
    assert "--seeds is given twice" in capsys.readouterr().err
