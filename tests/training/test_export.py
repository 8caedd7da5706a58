"""Trained networks as programs of their own."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from stn_jax.cli.eval import main
from stn_jax.training.restore import load_seed

# In a process where the package cannot be imported.
CALL = """
import sys
sys.modules["stn_jax"] = None
import jax.export, numpy as np
program = jax.export.deserialize(open("out/network.jax_export", "rb").read())
images = np.load("images.npy")
np.save("logits.npy", program.call(images))
np.save("one.npy", program.call(images[:1]))
"""


@pytest.mark.slow
def test_an_exported_network_runs_without_the_package(trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"--workdir={trained_run}", "--seed=5", "out"]) == 0
    images = np.random.default_rng(0).random((7, 28, 28, 1), np.float32)
    np.save("images.npy", images)
    done = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run, params = load_seed(trained_run, 5)
    expected = run.apply(params, (images - run.data.mean) / run.data.deviation)[0]
    np.testing.assert_allclose(np.load("logits.npy"), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.load("one.npy"), expected[:1], rtol=1e-4, atol=1e-5)
    other = load_seed(trained_run)[1]
    assert run.config.seeds == (5,)
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.subtract, params, other))))
    assert json.loads((tmp_path / "out" / "about.json").read_text())["seed"] == 5


def test_the_example_beside_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--pretrained=rotated_mnist/cnn", "out"]) == 0
    done = subprocess.run([sys.executable, "out/load.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("[")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrained=rotated_mnist/cnn", "--seed=1", "out"], "--seed and --best need --workdir"),
        (["--workdir={run}", "--seed=4", "out"], "run are 3, 5"),
        (["--workdir={run}", "{run}/config.json/x"], "cannot write to"),
        (["--workdir={run}"], "required: FOLDER"),
    ],
)
def test_mistakes_get_one_line(trained_run, capsys, arguments, message):
    assert main(["export", *(each.format(run=trained_run) for each in arguments)]) == 2
    assert message in capsys.readouterr().err
