"""The table of MNIST-rot from end to end, on a few digits."""

import json
from pathlib import Path

import made_mnist
import numpy as np
import pytest

from stn_jax.cli import experiments as command
from stn_jax.cli.summary import alignment
from stn_jax.training import train
from stn_jax.training.assemble import assemble
from stn_jax.training.config_files import read_config_file
from stn_jax.training.evaluation import predict

SMALL = {"width": 1 / 16, "batch_size": 30, "epochs": 1}


@pytest.fixture
def few_digits(tmp_path):
    """The fields of a configuration on 120 training and 500 test digits."""
    made_mnist.write(tmp_path / "cache", 500, 200)
    return SMALL | {"cache_dir": str(tmp_path / "cache")}


def test_test_digits_are_rotated_once_over_the_full_circle(few_digits):
    run = assemble(read_config_file("mnist_rot", few_digits | {"variant": "stn-c0"}))
    assert (len(run.data.images), len(run.test.images)) == (120, 500)
    first, again = (predict(run, run.init_state()["params"], quiet=True) for _ in range(2))
    np.testing.assert_array_equal(first.applied, again.applied)
    assert first.applied.shape == (1, 500, 2, 3)
    # A fifth of the circle holds a fifth of the digits: the counts' deviation is 9.
    angles = np.arctan2(first.applied[0, :, 1, 0], first.applied[0, :, 0, 0])
    counts, _ = np.histogram(angles, 5, (-np.pi, np.pi))
    assert counts.sum() == 500
    assert np.abs(counts - 100).max() < 36


def test_digits_can_be_held_out(few_digits):
    run = assemble(read_config_file("mnist_rot", few_digits | {"holdout": 20, "batch_size": 20}))
    assert (len(run.data.images), len(run.test.images)) == (100, 20)


@pytest.mark.slow
def test_its_result_has_an_error_on_the_circle_and_no_slope(few_digits, tmp_path):
    config = read_config_file("mnist_rot", few_digits | {"variant": "stn-c0", "figures": False})
    result = train(config, str(tmp_path / "run"))
    assert (result["train_examples"], result["test_examples"]) == (120, 500)
    assert not [name for name in result if name.endswith("slope")]
    (spread,) = result["direction_spread_degrees"]
    assert 0 < spread <= 180
    assert f", within-class RMS {spread:.1f} degrees, window" in alignment(result)
    assert "slope" not in alignment(result)


@pytest.mark.slow
def test_the_table_is_apart_from_that_of_other_rotations(few_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    flags = [f"--config.{name}={value}" for name, value in few_digits.items()]
    assert command.main(["mnist_rot", "--rows=*/stn-c0", "--seeds=0", *flags]) == 0
    (line,) = map(json.loads, Path("results/mnist_rot.jsonl").read_text().splitlines())
    assert line["row"] == "mnist_rot/stn-c0"
    assert command.main(["mnist_rot", "--render"]) == 0
    text = Path("docs/results.md").read_text()
    assert text.count(f"**{line['test_error_percent']:.2f} %**") == 1
    assert f"| mnist_rot/stn-c0 | **{line['test_error_percent']:.2f} %**" in text
    assert "The same on" not in text
