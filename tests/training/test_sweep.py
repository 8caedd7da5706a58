"""Sweeps: all combinations of values, one table."""

import json
import re

import pytest

from stn_jax.cli import sweeping
from stn_jax.cli.sweeping import read_sweeps, train_all
from stn_jax.cli.train import main
from stn_jax.training import Config, TrainingError


def test_all_combinations_in_order():
    combined, rest = read_sweeps(
        ["--workdir=a", "--sweep", "width=1,2", "--config.epochs=3", "--sweep=variant=cnn,stn-c0"]
    )
    assert combined == [
        {"width": width, "variant": variant} for width in "12" for variant in ("cnn", "stn-c0")
    ]
    assert rest == ["--workdir=a", "--config.epochs=3"]
    assert read_sweeps(["--workdir=a"]) == ([], ["--workdir=a"])


def test_each_is_trained_once_over_all_seeds(tiny_config, tmp_path, capsys):
    fields = tiny_config | {"epochs": 1, "test_passes": 1, "variant": "cnn", "seeds": "0,1"}
    del fields["learning_rate"]
    arguments = [f"--workdir={tmp_path}", *(f"--config.{k}={v}" for k, v in fields.items())]
    sweep = ["--sweep", "learning_rate=0.01,0.02"]
    assert main([*arguments, *sweep]) == 0
    table = capsys.readouterr().out.splitlines()[-3:]
    header = ["learning_rate", "test error (%)", "warnings", "workdir"]
    assert re.split(" {2,}", table[0]) == header
    for line, rate in zip(table[1:], (0.01, 0.02), strict=True):
        folder = tmp_path / f"learning_rate={rate}"
        result = json.loads((folder / "result.json").read_text())
        assert result["config"]["learning_rate"] == rate
        assert result["seeds"] == [0, 1]
        assert re.split(" {2,}", line) == [
            str(rate),
            f"{result['mean']:.2f} \N{PLUS-MINUS SIGN} {result['ci95']:.2f}",
            ", ".join(result["warnings"]).replace("_", " ") or "-",
            str(folder),
        ]
    results = [json.loads(each) for each in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert results[1] == {"sweep": {"learning_rate": "0.02"}, **result}
    assert (tmp_path / "sweep.txt").read_text().splitlines() == table
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert main([*arguments, *sweep]) == 0
    out = capsys.readouterr().out
    assert out.count("is already trained and evaluated") == 2
    assert out.splitlines()[-3:] == table
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_training_that_fails_does_not_stop_the_others(tmp_path, capsys):
    trained = []

    def train(config: Config, folder):
        trained.append(folder.name)
        if config.width == 1:
            raise TrainingError("the loss is not finite")
        return {"mean": 3.5, "ci95": None}

    combined, rest = read_sweeps(["--sweep=width=1,2", f"--workdir={tmp_path}"])
    with pytest.raises(TrainingError, match="width=1: the loss is not finite"):
        train_all(combined, rest, "quickstart", train)
    assert trained == ["width=1", "width=2"]
    table = (tmp_path / "sweep.txt").read_text().splitlines()
    assert table[1].split() == ["1", "failed", "-", str(tmp_path / "width=1")]
    assert table[2].split() == ["2", "3.50", "-", str(tmp_path / "width=2")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep=width"], "--sweep is 'width'; expected a field and different values"),
        (["--sweep=width=1,,2"], "expected a field and different values"),
        (["--sweep=width=1,1"], "expected a field and different values"),
        (["--sweep"], "expected one argument"),
        (["--sweep=seeds=0,1"], "cannot vary seeds"),
        (["--sweep=width=1,2", "--sweep=width=3"], "--sweep width is given twice"),
        (["--sweep=width=1,2", "--config.width=3"], "--config.width is given twice"),
        (["--sweep=widht=1,2"], 'did you mean "width"'),
        (["--sweep=width=1,two"], "width is 'two'"),
    ],
)
def test_wrong_sweeps_train_nothing(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folders_have_plain_names():
    assert sweeping.folder_of({"dataset": "folder:/a b", "width": "1"}) == (
        "dataset=folder__a_b,width=1"
    )
