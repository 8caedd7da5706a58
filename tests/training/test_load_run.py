"""A trained run without its data set."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import stn_jax
from stn_jax.cli.eval import main
from stn_jax.data.sources import DataError
from stn_jax.training import ConfigError
from stn_jax.training.restore import load

# In a process where no data set can be had: its cache is empty, and none may be prepared.
PROGRAM = """
import json, sys
import numpy as np
import stn_jax
print(stn_jax.pretrained.describe("rotated_mnist/cnn")["input_shape"])
from stn_jax.data import sources
def nothing(*_, **__): raise AssertionError("the data set was asked for")
sources.load = nothing
model, variables, normalize = stn_jax.load_run("run", seed=5)
np.save("logits.npy", model.apply(variables, normalize(np.load("images.npy"))))
"""


@pytest.fixture
def alone(trained_run, tmp_path, monkeypatch):
    """A copy of the run whose data set is gone."""
    shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "nothing").mkdir()
    config |= {"dataset": "no_such_set", "cache_dir": str(tmp_path / "nothing")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_a_run_is_loaded_where_its_data_set_is_not(alone, trained_run):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    np.save("images.npy", images)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[28, 28, 1]"
    run, state = load(trained_run)
    params = jax.tree.map(lambda x: x[1], state["params"])
    seen = (images / np.float32(255) - run.data.mean) / run.data.deviation
    np.testing.assert_allclose(
        np.load("logits.npy"), run.apply(params, seen)[0], rtol=1e-5, atol=1e-5
    )
    first = stn_jax.load_run(alone)[1]["params"]
    expected = jax.tree.map(lambda x: x[0], state["params"])
    jax.tree.map(np.testing.assert_array_equal, first, expected)


@pytest.mark.slow
def test_the_commands_need_no_data_set_either(alone, digit_file, capsys):
    assert main(["export", "--workdir=run", "out"]) == 0
    assert main(["--workdir=run", "--image", str(digit_file)]) == 0
    assert main(["--workdir=run", "--dataset=mnist_sample"]) == 0
    assert "2000 examples" in capsys.readouterr().out


@pytest.mark.slow
def test_older_runs_are_read_by_their_data_set(trained_run, alone, tmp_path):
    whole = tmp_path / "older"
    shutil.copytree(trained_run, whole)
    (whole / "network.json").unlink()
    _, variables, normalize = stn_jax.load_run(whole, seed=5)
    _, expected, as_stored = stn_jax.load_run(trained_run, seed=5)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    images = np.ones((2, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(normalize(images), as_stored(images))
    (alone / "network.json").unlink()
    with pytest.raises(DataError, match=r"without network\.json, so its data set is needed"):
        stn_jax.load_run(alone)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"image_shape": [28, 28]}', '{"model": 3}'],
)
def test_a_damaged_description_is_named(alone, text):
    (alone / "network.json").write_text(text)
    with pytest.raises(ConfigError, match=r"network\.json is damaged .*; delete it"):
        stn_jax.load_run(alone)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", [0.1, 0.2], "network.json is damaged"),
        ("mean", 1e60, r"mean is 1e\+60"),
        ("deviation", [0], r"deviation is \[0\]"),
        ("deviation", float("nan"), "deviation is nan"),
        ("image_shape", [28, 28, 0], "shapes are"),
        ("class_names", "ab", "class_names should be texts"),
        ("model", {"wide": 1}, "network.json does not describe a network"),
        ("model", {"width": -1}, "network.json does not describe a network: width is -1"),
    ],
)
def test_descriptions_of_wrong_content_are_refused(alone, field, value, message):
    known = json.loads((alone / "network.json").read_text()) | {field: value}
    (alone / "network.json").write_text(json.dumps(known))
    with pytest.raises(ConfigError, match=message):
        stn_jax.load_run(alone)


def test_what_is_not_there_is_named(alone, tmp_path):
    with pytest.raises(ConfigError, match="seed is 0, but the seeds of run are 3, 5"):
        stn_jax.load_run("run", seed=0)
    with pytest.raises(ConfigError, match="has no best state"):
        stn_jax.load_run(alone, best=True)
    with pytest.raises(ConfigError, match="expected the folder of a training run"):
        stn_jax.load_run(tmp_path / "nowhere")
