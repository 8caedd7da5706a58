"""The commands as a user types them."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stn_jax.cli.config_flags import read_config, read_fields
from stn_jax.training import Config, ConfigError
from stn_jax.training.restore import load

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd, code=None, env=None):
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
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
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


@pytest.mark.slow
def test_eval_gives_the_same_result(trained, here, capsys):
    path, out, _ = trained
    assert here("eval.py", "--workdir=run", cwd=path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == out.splitlines()[-1]


def test_eval_classifies_a_users_digits(trained, digit_file, here, capsys):
    path = trained[0]
    assert here("eval.py", "--workdir=run", "--image", digit_file, digit_file, cwd=path) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == second
    assert str(digit_file) in first
    assert "rotated by" in first
    assert (path / last.removeprefix("drawn in ")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
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
        (["train.py", "--config.epoch=3"], "field 'epoch'; did you mean \"epochs\"?"),
        (["train.py", "--config.epochs=three"], "epochs is 'three', of type str; expected int"),
        (["train.py", "--config.epochs"], "--config.epochs has no value; expected --config.epoc"),
        (["train.py", "--noconfig.epochs"], "--noconfig.epochs has no value"),
        (["train.py", "--config.figures=maybe"], "figures is 'maybe', of type str; expected bool"),
        (["train.py", "--config.variant=stn-sl7"], "expected a depth from 0 to 2"),
        (["train.py", "--config.variant=stn7"], "expected cnn, or stn-cX"),
        (["train.py", "--config.dataset=mnist", "--config.data_dir=/nowhere"], "/nowhere does not"),
        (["train.py", "--config.manual_dir=/nowhere"], "manual_dir /nowhere does not exist"),
        (["train.py", "--config=none.py"], "none.py"),
        (["train.py", "--epochs=3"], "unknown argument '--epochs=3'; --help lists the"),
        (["train.py", "--workdir"], "argument --workdir: expected one argument"),
        (["train.py", "epochs=3"], "unknown argument 'epochs=3'"),
        (["train.py", "--workdir=run", "--config.epochs=9"], "holds a run of another configura"),
        (["eval.py", "--workdr=run"], "one of the arguments --workdir --pretrained is required"),
        (["eval.py", "--workdir=nowhere"], "nowhere/config.json does not exist"),
        (["eval.py", "--workdir=run", "--image", "none.png"], "none.png does not exist"),
        (["eval.py", "--workdir=run", "--cache_dir=."], "--cache_dir needs --dataset"),
        (
            ["eval.py", "--workdir=run", "--dataset=mnist", "--report"],
            "--dataset cannot be combined with --workdir --report; it needs",
        ),
        (
            ["eval.py", "--workdir=run", "--box", "1", "2", "3", "4"],
            "--box cannot be combined with --workdir; it needs --workdir --image",
        ),
        (
            ["eval.py", "--workdir=run", "--image", "x.png", "--box", "1", "2", "3", "4"],
            "--box needs one photograph and a run of task svhn; found rotated_mnist",
        ),
        (
            ["eval.py", "--workdir=run", "--report", "--image", "x.png"],
            "--report cannot be combined",
        ),
        (["eval.py", "--pretrained=nothing", "--report"], "--report needs --workdir; it cannot"),
        (["eval.py", "--workdir=run", "--report=run/config.json/x"], "cannot write run/conf"),
        (["eval.py", "--pretrained=nothing"], "there are no weights named 'nothing'; expected: "),
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
    # What the process was started with is not what is asked here.
    monkeypatch.setattr(sys, "argv", ["pytest", "--config.epochs=5", "--config=none.py"])
    config, workdir = read_config([f"--config={path}", "--config.epochs=3"], "quickstart")
    assert config.epochs == 3
    assert workdir == f"runs/{path.stem}"


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (["--config.figures=false"], {"figures": False}),
        (["--config.figures=False", "--config.tensorboard=TRUE"], {"tensorboard": True}),
        (["--noconfig.figures", "--config.tensorboard"], {"figures": False, "tensorboard": True}),
        (["--config.data_dir=123", "--config.cache_dir=true"], {"data_dir": "123"}),
        (["--config.dataset=None"], {"dataset": "None"}),
        (["--config.width=1"], {"width": 1.0}),
        (["--config.weight_decay=1e-3"], {"weight_decay": 1e-3}),
        (["--config.epochs", "7", "--config.manual_dir", "a=b"], {"epochs": 7}),
        (["--config.manual_dir="], {"manual_dir": ""}),
        (["--config.seeds=0,1,2"], {"seeds": (0, 1, 2)}),
        (["--config.seeds=[4]"], {"seeds": (4,)}),
        (["--config.seeds=4"], {"seeds": (4,)}),
        (["--config.mesh=seeds=2,batch=4"], {"mesh": "seeds=2,batch=4"}),
    ],
)
def test_one_parser_reads_the_fields_of_all_commands(flags, fields):
    config, _ = read_config(flags, "quickstart")
    assert {name: getattr(config, name) for name in fields} == fields
    # As the tables have them, without a config file.
    assert Config(**read_fields(flags)) == Config(
        **{name: getattr(config, name) for name in read_fields(flags)}
    )


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise ValueError", "line 1: ValueError"),
        ("raise ValueError('\\n')", "line 1: ValueError"),
        (
            "import math\n\nmath.nope",
            "line 3: AttributeError: module 'math' has no",
        ),
        ("def get_config():\n    return {}['key']", "line 2: KeyError: 'key'"),
        ("open('absent')", "FileNotFoundError: [Errno 2] No such file or directory: 'absent'"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
        ("def get_config(", "SyntaxError: '(' was never closed"),
        ("x = 1", "has no function get_config"),
        (
            "def get_config():\n    return 3",
            "TypeError: get_config returns 3; expected",
        ),
        ("def get_config():\n    return {'epoch': 3}", "unknown fields: epoch"),
        ("from stn_jax.training import Config\nConfig(epochs=0)", "epochs is 0; expected 1 or"),
    ],
)
def test_a_config_file_that_fails_says_how_and_where(tmp_path, program, said):
    path = tmp_path / "mine.py"
    path.write_text(program)
    with pytest.raises(ConfigError) as caught:
        read_config([f"--config={path}"], "quickstart")
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert ("unknown configuration field" in message) is False


def test_a_config_file_may_take_an_argument_and_derive_fields_from_others(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(variant):\n"
        "    config = ConfigDict({'epochs': 2, 'variant': variant, 'dataset': 'mnist_sample'})\n"
        "    config.log_every = config.get_ref('epochs') * 3\n"
        "    return config\n"
    )
    flags = [f"--config={path}:stn-c0", "--config.epochs=5", "--config.seeds=1"]
    config, _ = read_config(flags, "quickstart")
    expected = Config(epochs=5, variant="stn-c0", dataset="mnist_sample", log_every=15, seeds=(1,))
    assert config == expected


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_names_that_the_locale_cannot_read_will_do(trained, tiny_cache, tmp_path, digit_file):
    """Python then reads names as ASCII."""
    folder = tmp_path / "L\u00e4ufe"
    shutil.copytree(trained[0] / "run", folder / "run")
    image = folder / "ziffer \u00fc.jpg"
    image.write_bytes(digit_file.read_bytes())
    values = {"cache_dir": tiny_cache, "dataset": "mnist", "width": 1 / 16, "epochs": 1}
    for command in (
        [ROOT / "eval.py", f"--workdir={folder / 'run'}"],
        [ROOT / "train.py", f"--workdir={folder / 'new'}", *flags(values)],
    ):
        code, out, errors = run(*command, cwd=tmp_path, env=ASCII)
        assert code == 0, errors
        assert "test error" in out
    assert int(load(folder / "new")[1]["step"]) == 2
    network = "--pretrained=rotated_mnist/stn-sl1"
    code, out, errors = run(ROOT / "eval.py", network, "--image", image, cwd=tmp_path, env=ASCII)
    assert code == 0, errors
    assert (tmp_path / out.splitlines()[-1].removeprefix("drawn in ")).exists()


def test_help_lists_the_fields(tmp_path, here, capsys):
    assert here("train.py", "--help", cwd=tmp_path) == 0
    assert "localization_rate" in capsys.readouterr().out


@pytest.mark.thin("buffered")
@pytest.mark.parametrize("lines", ["itertools.count()", "range(2)"], ids=["endless", "buffered"])
def test_a_reader_of_the_output_may_leave(lines):
    code = f"""
import itertools, sys
from stn_jax.cli.flags import exit_code
print("begins", flush=True)
sys.stdin.readline()
raise SystemExit(exit_code(lambda: [print(i) for i in {lines}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"begins\n"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_importing_the_warps_loads_only_jax(tmp_path):
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


@pytest.mark.slow
def test_training_works_where_only_its_own_needs_are_installed(tiny_cache, tmp_path):
    """On a bare accelerator machine: no TensorFlow, TFDS, matplotlib, Orbax or TensorBoard."""
    code = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "tensorstore",
             "tensorboardX"):
    sys.modules[name] = None
from stn_jax.report.gallery import DrawFigures
from stn_jax.training import Config, train
config = Config(cache_dir={str(tiny_cache)!r}, width=1 / 16, epochs=1, test_passes=1)
print(train(config, "run", DrawFigures())["step"])
"""
    exit_code, out, errors = run(cwd=tmp_path, code=code)
    assert exit_code == 0, errors
    assert out.splitlines() == ["no figures: matplotlib is not installed", "2"]
