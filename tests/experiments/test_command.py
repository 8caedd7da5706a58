"""``python -m stn_jax.experiments`` from end to end, on a few real digits."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stn_jax
from stn_jax import pretrained
from stn_jax.cli import experiments as command
from stn_jax.data import cache, sources
from stn_jax.experiments import paper_figures as figures
from stn_jax.pretrained import loader
from stn_jax.training import ConfigError, TrainingError
from stn_jax.training.restore import evaluate_pretrained

ROOT = Path(__file__).parents[2]


def small(cache, epochs=1):
    """Flags that make a training of two steps in each epoch."""
    fields = {"width": 1 / 16, "test_passes": 1}
    return [
        f"--cache_dir={cache}",
        f"--epochs={epochs}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


def lines(path="results/table1.jsonl"):
    return [json.loads(text) for text in Path(path).read_text().splitlines()]


def script(monkeypatch, name, *arguments):
    """Runs one of the scripts in this process; returns its exit code."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    return exit.value.code


@pytest.fixture(scope="module", autouse=True)
def compiled_for_all_tests():
    """The tests have a compilation cache of their own; see tests/conftest.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "enable_compilation_cache", lambda: None)
        yield


@pytest.fixture(scope="module")
def table(tiny_cache, tmp_path_factory):
    """A folder in which two rows of Table 1 are trained, two seeds of each as one program."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = [*small(tiny_cache), "--seeds=0,1", "--together=2"]  # the flag's earlier name
        assert run("table1", "--rows=rotation/stn-c1,rotation/stn-sl1", *flags) == 0
    return folder


@pytest.fixture
def here(table, monkeypatch):
    monkeypatch.chdir(table)


def test_the_sample_is_trained_tabulated_and_not_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--rows=rotation/cnn", "--seeds=3", *small(tmp_path), "--dataset=mnist_sample"]
    flags.append("--config.batch_size=5000")
    assert run("table1", *flags, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("0 of 1 runs are done; to train: 1, roughly")
    assert "rotation/cnn, seed 3: roughly" in out
    assert list(tmp_path.iterdir()) == []

    assert run("table1", *flags, "--export=weights") == 0
    out = capsys.readouterr().out
    assert "[1 of 1] rotation/cnn, seed 3: roughly" in out
    (stored,) = Path("weights").iterdir()
    assert f" % with stored weights; {stored}\n" in out
    assert run("pretrained", *flags, "--folder=again") == 0
    assert Path("again", stored.name).read_bytes() == stored.read_bytes()
    capsys.readouterr()
    (line,) = lines()
    expected = {
        "row": "rotation/cnn",
        "seed": 3,
        "trained_together": [3],
        "epochs": 1,
        "total_steps": 2,
        "train_examples": 10_000,
        "test_examples": 2_000,
        "test_passes": 1,
    }
    assert {key: line[key] for key in expected} == expected
    assert line["config"]["dataset"] == "mnist_sample"
    assert line["config"]["seeds"] == [3]
    assert not {"data_dir", "manual_dir", "cache_dir"} & set(line["config"])
    assert line["seconds"] > 0
    assert line["images_per_second"] > 0
    assert {"device", "versions", "commit"} <= set(line)
    assert "angle_slope" not in line
    result = json.loads(Path("runs/table1", line["workdir"], "result.json").read_text())
    assert result["test_error_percent"] == [line["test_error_percent"]]

    before = Path("results/table1.jsonl").read_bytes()
    monkeypatch.setattr("stn_jax.experiments.jobs.train", pytest.fail)
    assert run("table1", *flags) == 0
    assert run("table1", *flags, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "1 of 1 runs are done; to train: 0\n" in out
    assert f"seed 3: done, test error {line['test_error_percent']:.2f} % on" in out
    assert Path("results/table1.jsonl").read_bytes() == before

    assert run("table1", "--render") == 0
    mnist, sample = Path("docs/results.md").read_text().split("# The same on mnist_sample")
    assert "**" not in mnist
    cell = f"**{line['test_error_percent']:.2f} %**"
    assert f"| rotation/cnn | {cell} | 1 | 1 |" in sample
    assert "All with batch_size 5000, width 0.0625. Trained on 10,000 examples" in sample


@pytest.mark.slow
def test_seeds_that_were_trained_in_one_program_have_a_line_each(table):
    found = lines(table / "results" / "table1.jsonl")
    assert [(line["row"], line["seed"]) for line in found] == [
        (row, seed) for row in ("rotation/stn-c1", "rotation/stn-sl1") for seed in (0, 1)
    ]
    assert all(line["trained_together"] == [0, 1] for line in found)
    assert len({line["workdir"] for line in found}) == 2
    result = json.loads((table / "runs/table1" / found[3]["workdir"] / "result.json").read_text())
    for i, line in enumerate(found[2:]):
        assert line["test_error_percent"] == result["test_error_percent"][i]
        assert line["angle_slope"] == result["angle_slope"][i]
        assert line["angle_spread_degrees"] == result["angle_spread_degrees"][i]


@pytest.mark.slow
def test_a_killed_table_goes_on(tiny_cache, tmp_path, monkeypatch, capsys):
    flags = ["table1", "--rows=rotation/cnn", "--seeds=0,1", *small(tiny_cache, epochs=2)]
    code = f"""
import os, signal, sys
from stn_jax.cli.experiments import main
from stn_jax.training.checkpoints import Checkpoints
save, count = Checkpoints.save, 0
def save_or_die(self, *args):
    global count
    save(self, *args)
    count += 1
    if count == 3:  # two epochs of the first seed, one of the second
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.save = save_or_die
main({flags!r})
"""
    # What is killed may leave part of a program in the cache.
    folders = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    environment = {**os.environ, **folders}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == -signal.SIGKILL
    monkeypatch.chdir(tmp_path)
    assert [line["seed"] for line in lines()] == [0]
    # As if it had been killed while it wrote.
    with Path("results/table1.jsonl").open("a") as file:
        file.write('{"row": "rotation/cnn", "se')
    capsys.readouterr()
    assert run(*flags) == 0
    out, errors = capsys.readouterr()
    assert "1 of 2 runs are done; to train: 1" in out
    assert "resuming from step 2 of 4" in out
    assert "table1.jsonl, line 2 is skipped: not a complete result" in errors
    texts = Path("results/table1.jsonl").read_text().splitlines()
    assert [json.loads(text)["seed"] for text in (texts[0], texts[2])] == [0, 1]


def test_a_failed_training_does_not_stop_the_others(tiny_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tried = []

    def fail(config, workdir):
        tried.append((config.variant, config.seeds))
        raise TrainingError("the loss is not finite at step 7")

    monkeypatch.setattr("stn_jax.experiments.jobs.train", fail)
    flags = ["--rows=rotation/cnn,rotation/stn-c0", "--seeds=4", *small(tiny_cache)]
    assert run("table1", *flags) == 1
    assert tried == [("cnn", (4,)), ("stn-c0", (4,))]
    errors = capsys.readouterr().err
    assert "2 of 2 failed; rotation/cnn, seed 4: the loss is not finite at step 7" in errors
    assert not Path("results").exists()


@pytest.mark.slow
def test_figures_are_drawn_from_the_workdirs(here, tiny_cache, monkeypatch, capsys):
    drawn = []
    plot = figures.figures.angle_plot
    monkeypatch.setattr(
        figures.figures, "angle_plot", lambda some, path: drawn.extend(some) or plot(some, path)
    )
    monkeypatch.setattr(figures, "MEASURED", figures.NETWORKS)
    for name in ("figure1", "figure2", "figure3"):
        assert run(name, *small(tiny_cache), "--seeds=7,1,0") == 0  # no 7 was trained
        out = capsys.readouterr().out
        assert out.endswith(f"drawn in docs/{name}.png\n")
        # The table holds no networks for translated digits.
        left_out = "skipped: runs/table1 holds no finished training of translation/stn-c1"
        assert (left_out in out) == (name == "figure2")
        assert Path(f"docs/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert Path("docs/equivariance.png").read_bytes().startswith(b"\x89PNG")
    found = {line["row"]: line for line in lines() if line["seed"] == 1}
    assert [panel.title for panel in drawn] == ["STN-C1", "STN-SL1"]
    for panel in drawn:
        # The numbers in the picture are those of the table.
        line = found[f"rotation/{panel.title.lower()}"]
        assert figures.figures.within_class_rms(*panel[1:]) == pytest.approx(
            line["angle_spread_degrees"]
        )
        slope, _ = figures.figures.orthogonal_regression(panel.applied, panel.predicted)
        assert slope == pytest.approx(line["angle_slope"])


@pytest.mark.slow
def test_figures_are_drawn_from_the_weights_of_the_package(
    tmp_path, tiny_cache, monkeypatch, capsys
):
    drawn = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures.figures, "angle_plot", lambda panels, path: drawn.extend(panels))
    assert run("figure3", "--pretrained", f"--cache_dir={tiny_cache}") == 0
    assert capsys.readouterr().out.endswith("drawn in docs/figure3.png\n")
    assert [panel.title for panel in drawn] == ["STN-C1", "STN-SL1"]
    for panel in drawn:
        known = pretrained.describe(f"rotated_mnist/{panel.title.lower()}")
        assert len(panel.applied) == 90 * known["test_passes"]
        # Even on so few digits there is no doubt which of them turns digits upright.
        slope, _ = figures.figures.orthogonal_regression(panel.applied, panel.predicted)
        assert (slope < -0.8) == (panel.title == "STN-SL1")
    monkeypatch.setattr(loader, "FOLDER", tmp_path)
    assert run("figure3", "--pretrained", f"--cache_dir={tiny_cache}") == 2
    assert "no weights of rotation/stn-c1 come with the package" in capsys.readouterr().err


@pytest.mark.slow
def test_exported_weights_are_what_was_trained(
    here, tiny_cache, digit_file, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "weights"
    flags = ["--rows=rotation/stn-sl1", "--seeds=1", f"--folder={folder}"]
    assert run("pretrained", *flags, *small(tiny_cache)) == 0
    name = "rotated_mnist/stn-sl1"
    known = pretrained.describe(name, folder=folder)
    out = capsys.readouterr().out
    assert f"rotation/stn-sl1: test error {known['test_error_percent']:.2f} % with" in out
    (line,) = [x for x in lines() if (x["row"], x["seed"]) == ("rotation/stn-sl1", 1)]
    assert (known["seed"], known["epochs"], known["dataset"]) == (1, 1, "mnist")
    assert known["commit"] == line["commit"]
    # Rounding the weights moves at most a few of the 90 digits.
    assert known["test_error_percent"] == pytest.approx(line["test_error_percent"], abs=5)

    module, variables, _ = stn_jax.load_pretrained(name, folder=folder)
    images = np.zeros((2, *known["input_shape"]), np.float32)
    assert module.apply(variables, images).shape == (2, 10)

    monkeypatch.setattr(loader, "FOLDER", folder)
    evaluate = ["eval.py", f"--pretrained={name}"]
    error = f"{known['test_error_percent']:.2f} % on mnist (90"
    assert script(monkeypatch, *evaluate, f"--cache_dir={tiny_cache}") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: test error {error} examples), slope ")
    assert re.search(r" degrees, window \d\.\d\d; expected ", out)
    assert out.endswith(f"; expected {error})\n")
    rms = float(out.split("RMS ")[1].split()[0])
    assert rms == pytest.approx(line["angle_spread_degrees"], abs=1)

    # One's own digits need no data set.
    monkeypatch.chdir(tmp_path)
    assert script(monkeypatch, *evaluate, "--image", digit_file) == 0
    said, where = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{digit_file}: ")
    assert where == f"drawn in runs/pretrained/{name}/images.png"
    assert Path(where.removeprefix("drawn in ")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_poses_of_weights_are_added_to_the_results_of_their_training(
    here, tiny_cache, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "weights"
    flags = ["--rows=rotation/stn-sl1", "--seeds=1", *small(tiny_cache)]
    assert run("pretrained", *flags, f"--folder={folder}") == 0
    before = lines()
    monkeypatch.setattr(loader, "FOLDER", folder)
    capsys.readouterr()
    assert run("table1", "--pretrained", f"--cache_dir={tiny_cache}") == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"rotation/stn-sl1, seed 1, with stored weights: window_share [^\n]*\n", said
    )
    *same, added = lines()
    assert same == before
    (old,) = [x for x in before if (x["row"], x["seed"]) == ("rotation/stn-sl1", 1)]
    assert added["poses_of"]["weights"] == "rotated_mnist/stn-sl1"
    poses = {name for name in old if name.startswith(("angle_", "window_"))}
    kept = {name: value for name, value in added.items() if name not in poses | {"poses_of"}}
    assert kept == {name: value for name, value in old.items() if name not in poses}
    # One pass over the same digits with rounded weights.
    for name in poses:
        assert added[name] == pytest.approx(old[name], rel=0.1, abs=0.05)


@pytest.mark.slow
def test_pretrained_networks_are_evaluated_on_data_that_fits(here, tiny_cache, tmp_path):
    flags = ["--rows=rotation/stn-sl1", f"--folder={tmp_path}", *small(tiny_cache)]
    assert run("pretrained", *flags) == 0
    sample = sources.load("mnist_sample")
    for name, side, classes in (("large", 32, 10), ("letters", 28, 12)):
        images = np.zeros((300, side, side, 1), np.uint8)
        split = (300, [(images, sample.train.labels[:300])])
        cache.write(
            tmp_path / name, name, "1.0.0", classes, {"train": split, "test": split}, origin=""
        )
        expected = {
            "large": r"large has images \(32, 32, 1\), but .* was trained on \(28, 28, 1\)",
            "letters": "letters has classes 12, but .* was trained on 10",
        }
        settings = {"dataset": name, "cache_dir": str(tmp_path)}
        with pytest.raises(ConfigError, match=expected[name]):
            evaluate_pretrained("rotated_mnist/stn-sl1", settings, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "invalid choice: 'table9' (choose from"),
        ([], "the following arguments are required: COMMAND"),
        (["table1", "--rows=cnn"], "no row is named 'cnn'; expected one or more of rotation/cnn"),
        (["table1", "--seeds=a"], "--seeds is 'a'; expected numbers like 0,1,2"),
        (["table1", "--seeds=1,1"], "seeds is (1, 1); expected one or more, all different"),
        (["table1", "--config.seeds=1"], "--config.seeds cannot be set here; use --seeds"),
        (["table1", "--epochs=few"], "argument --epochs: invalid int value: 'few'"),
        (["table1", "--epochs=0"], "epochs is 0; expected 1 or more"),
        (["table1", "--together=0"], "--seeds_per_program is 0; expected 1 or more"),
        (["iterated", "--export=a"], "--export would store several rows as rotated_mnist/stn-c0;"),
        (["table1", "--config.epoch=3"], "unknown configuration field 'epoch'; did you mean"),
        (["table1", "--config.width=wide"], "width is 'wide', of type str; expected float"),
        (["table1", "--config.variant=cnn"], "--config.variant is set by the rows of a table"),
        (["table1", "--config.epochs"], "--config.epochs has no value; expected --config.epochs="),
        (["table1", "--pretrained", "--epochs=9"], "epochs is given by the weights"),
        (["table1", "--pretrained", "--export=a"], "--export cannot be combined with --pretrained"),
        (["table1", "--pretrained", "--also_test=mnist"], "--also_test cannot be combined with"),
        (["figure2", "--pretrained", "--epochs=9"], "with --pretrained only data folders"),
        (["figure2", "--pretrained", "--workdir=a"], "with --pretrained only data folders"),
        (["table1", "rotation/cnn"], "unknown argument 'rotation/cnn'; --help lists"),
        (["table1", "--manual_dir=/nowhere"], "manual_dir /nowhere does not exist"),
        (["table1", "--render", "--docs=file"], "cannot write file/results.md"),
        (["table1", "--dataset=mnist_sample", "--workdir=file"], "cannot write to workdir file/"),
        (["table1", "--dataset=mnist_sample", "--results=file"], "cannot write to file/table1.jso"),
        (["table1", "--export=file"], "--export file cannot be written to; choose another folder"),
        (["pretrained", "--folder=file/a"], "--folder file/a cannot be written to"),
        (["figure2", "--docs=file"], "--docs file cannot be written to"),
        (
            ["figure3"],
            "runs/table1 holds no finished training of rotation/stn-c1 with seed 0 or 1 or 2, ",
        ),
        (
            ["pretrained", "--rows=*/cnn"],
            "no finished training of rotation/cnn with seed 0 or 1 or 2,",
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
