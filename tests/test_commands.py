"""The commands as a user types them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from stn_jax.command_line import read_config

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd, code=None):
    """Runs python with arguments; returns exit code, stdout and stderr."""
    # ml_collections loads config files by a method that Python has deprecated.
    strict = ["-W", "error", "-W", "ignore:the load_module:DeprecationWarning"]
    start = [sys.executable, *strict, *(["-c", code] if code else [])]
    done = subprocess.run(
        [*start, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(monkeypatch):
    """Runs a script in this process, where the imports are made already; returns its exit code."""

    def run_here(script, *arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.syspath_prepend(str(ROOT))
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        return exit.value.code

    return run_here


def flags(config):
    return [f"--config.{key}={value}" for key, value in config.items()]


@pytest.fixture(scope="module")
def trained(tiny_cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("commands")
    values = {"cache_dir": tiny_cache, "dataset": "mnist", "width": 1 / 16, "epochs": 1}
    code, out, errors = run(ROOT / "train.py", "--workdir=run", *flags(values), cwd=path)
    assert code == 0, errors
    return path, out, errors


def test_train_prints_the_error_and_reports_progress_in_lines(trained):
    path, out, errors = trained
    result = json.loads((path / "run" / "result.json").read_text())
    assert f"test error {result['mean']:.2f} %" in out
    assert "train: 512/512 images" in errors
    assert "s left" in errors


def test_eval_gives_the_same_result(trained):
    path, out, _ = trained
    code, again, _ = run(ROOT / "eval.py", "--workdir=run", cwd=path)
    assert code == 0
    assert again.splitlines()[-1] == out.splitlines()[-1]


def test_eval_classifies_a_users_digits(trained, digit_file):
    path = trained[0]
    code, out, errors = run(
        ROOT / "eval.py", "--workdir=run", "--image", digit_file, digit_file, cwd=path
    )
    assert code == 0, errors
    first, second, last = out.splitlines()
    assert first == second
    assert str(digit_file) in first
    assert "turned by" in first
    assert (path / last.removeprefix("drawn in ")).read_bytes().startswith(b"\x89PNG")


def test_eval_writes_a_report(trained, here, capsys):
    path = trained[0]
    assert here("eval.py", "--workdir=run", "--report", cwd=path) == 0
    result = json.loads((path / "run" / "result.json").read_text())
    expected = f"test error {result['mean']:.2f} %; see run/report.html\n"
    assert capsys.readouterr().out == expected
    assert (path / "run" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--config.epoch=3"], 'Did you mean "epochs" instead of "epoch"?'),
        (["train.py", "--config.epochs=three"], "--config.epochs=three"),
        (["train.py", "--config.variant=stn-sl7"], "expected a depth from 0 to 2"),
        (["train.py", "--config.variant=stn7"], "expected cnn, or stn-cX"),
        (["train.py", "--config.dataset=mnist", "--config.data_dir=/nowhere"], "/nowhere does not"),
        (["train.py", "--config.manual_dir=/nowhere"], "manual_dir /nowhere does not exist"),
        (["train.py", "--config=none.py"], "none.py"),
        (["train.py", "--epochs=3"], "Unknown command line flag 'epochs'"),
        (["train.py", "epochs=3"], "cannot make sense of 'epochs=3'"),
        (["train.py", "--workdir=run", "--config.epochs=9"], "holds a run of another configura"),
        (["eval.py", "--workdir=nowhere"], "nowhere/config.json does not exist"),
        (["eval.py", "--workdir=run", "--image", "none.png"], "none.png does not exist"),
        (["eval.py", "--workdir=run", "--cache_dir=."], "--cache_dir goes with --dataset"),
        (
            ["eval.py", "--workdir=run", "--dataset=mnist", "--report"],
            "--dataset goes with neither",
        ),
        (["eval.py", "--workdir=run", "--box", "1", "2", "3", "4"], "--box says where in an"),
        (
            ["eval.py", "--workdir=run", "--image", "x.png", "--box", "1", "2", "3", "4"],
            "--box goes with one photograph and a run of task svhn; here: rotated_mnist",
        ),
        (["eval.py", "--workdir=run", "--report", "--image", "x.png"], "--report goes with"),
        (["eval.py", "--pretrained=nothing", "--report"], "--report goes with --workdir alone"),
        (["eval.py", "--workdir=run", "--report=run/config.json/x"], "cannot write run/conf"),
        (["eval.py", "--pretrained=nothing"], "no weights are called 'nothing'; there are: "),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(trained, arguments, message, here, capsys):
    script, *rest = arguments
    assert here(script, *rest, cwd=trained[0]) == 2
    out, errors = capsys.readouterr()
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_file_is_one(path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", f"--config={path}", "--config.epochs=3"])
    config, workdir = read_config(sys.argv, ROOT / "configs" / "quickstart.py")
    assert config.epochs == 3
    assert workdir == f"runs/{path.stem}"


def test_help_lists_the_fields(tmp_path, here, capsys):
    assert here("train.py", "--help", cwd=tmp_path) == 0
    assert "localization_rate" in capsys.readouterr().out


def test_importing_the_warps_loads_jax_alone(tmp_path):
    code = """
import sys, stn_jax
stn_jax.affine_grid
heavy = {"flax", "optax", "tensorflow", "tensorflow_datasets", "matplotlib", "orbax"}
print(sorted(heavy & set(sys.modules)))
stn_jax.create_model
print(sorted((heavy - {"flax"}) & set(sys.modules)))
"""
    lines = run(cwd=tmp_path, code=code)[1].splitlines()
    assert lines[0] == "[]"
    assert lines[1] in ("[]", "['optax']")  # Flax itself may load optax


def test_training_works_where_only_its_own_needs_are_installed(tiny_cache, tmp_path):
    """On a bare accelerator machine: no TensorFlow, TFDS, matplotlib, Orbax or TensorBoard."""
    code = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "tensorstore",
             "tensorboardX"):
    sys.modules[name] = None
from stn_jax.training import Config, train
config = Config(cache_dir={str(tiny_cache)!r}, width=1 / 16, epochs=1, checkpoint_every=0,
                test_passes=1)
print(train(config, "run")["step"])
"""
    exit_code, out, errors = run(cwd=tmp_path, code=code)
    assert exit_code == 0, errors
    assert out.splitlines() == ["no figures: matplotlib is not installed", "2"]
