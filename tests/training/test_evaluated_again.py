"""A run asked again: finished with other settings, on other data, after its files were changed."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from stn_jax.report.gallery import DrawFigures
from stn_jax.training import Config, ConfigError, train
from stn_jax.training.restore import evaluate_workdir, evaluate_workdir_on
from stn_jax.training.workdir import Workdir


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory) -> tuple[Path, Config]:
    path = tmp_path_factory.mktemp("runs") / "finished"
    config = Config(**tiny_config | {"test_passes": 1, "variant": "stn-c0", "epochs": 1})
    train(config, path, DrawFigures())
    return path, config


@pytest.fixture
def run(finished, tmp_path) -> tuple[Path, Config]:
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    return path, finished[1]


def assert_agree(path: Path) -> dict:
    """config.json and result.json say the same of every field."""
    result = json.loads((path / "result.json").read_text())
    config = json.loads((path / "config.json").read_text())
    assert result["config"] == {k: v for k, v in config.items() if k not in Config.FOLDER_FIELDS}
    assert result["test_passes"] == config["test_passes"]
    assert result["seeds"] == config["seeds"]
    drawn = {each.name for each in (path / "figures").glob("*.png")}
    assert drawn == ({"gallery.png", "angles.png"} if config["figures"] else set())
    return result


@pytest.mark.slow
def test_other_settings_of_the_evaluation_are_evaluated(run, capsys):
    path, config = run
    before = assert_agree(path)
    again = train(dataclasses.replace(config, test_passes=3, figures=True), path, DrawFigures())
    said = "again: test_passes: 1 against 3; figures: False against True"
    assert said in capsys.readouterr().out
    assert again == assert_agree(path)
    assert again["test_passes"] == 3
    # It is the same network, and what it was made with is as it was.
    same = ("seconds", "step", "device", "devices", "versions", "commit", "train_examples")
    assert {k: again[k] for k in same} == {k: before[k] for k in same}
    assert evaluate_workdir(path) == again

    train(dataclasses.replace(config, test_passes=3, test_batch_size=7), path, DrawFigures())
    assert assert_agree(path)["test_error_percent"] == again["test_error_percent"]
    assert not list((path / "figures").glob("*.png"))


def volatile_values(config: Config) -> dict:
    """Another value for each field that may change between a run and its continuation."""
    values = {name: f"/other/{name}" for name in Config.FOLDER_FIELDS if name != "cache_dir"}
    # keep_best needs holdout, which changes the training.
    for name in sorted(Config.RUNTIME_FIELDS - {*Config.FOLDER_FIELDS, "keep_best"}):
        value = getattr(config, name)
        values[name] = {"mesh": "batch=1", "profile": "1:2"}.get(name, 9)
        if isinstance(value, bool):
            values[name] = not value
    return values


@pytest.mark.slow
def test_files_agree_whatever_is_evaluated_again(run, tmp_path):
    path, config = run
    for name, value in volatile_values(config).items():
        if name in Config.FOLDER_FIELDS:
            Path(value := str(tmp_path / name)).mkdir()
        train(dataclasses.replace(config, **{name: value}), path, DrawFigures())
        assert_agree(path)
        kept = Config.load(path)
        trained_only = name not in (*Config.EVALUATION_FIELDS, *Config.FOLDER_FIELDS)
        assert getattr(kept, name) == (getattr(config, name) if trained_only else value)


def test_a_run_that_cannot_be_evaluated_again_is_rejected_and_unchanged(run):
    path, config = run
    shutil.rmtree(path / "checkpoints")
    before = {name: (path / name).read_bytes() for name in ("config.json", "result.json")}
    with pytest.raises(ConfigError, match=r"of another evaluation \(test_passes: 1 against 3\)"):
        train(dataclasses.replace(config, test_passes=3), path, DrawFigures())
    assert {name: (path / name).read_bytes() for name in before} == before
    assert train(config, path, DrawFigures()) == json.loads(before["result.json"])


def test_at_no_moment_do_files_contradict_each_other(run, monkeypatch):
    """Each time a file has been written or taken away, what is there agrees."""
    path, config = run
    write, unlink, states = Workdir.write_json, Path.unlink, []

    def look():
        result = Workdir(path).result()
        states.append(None if result is None else result["test_passes"])
        assert result is None or result["test_passes"] == Config.load(path).test_passes

    def write_and_look(self, name, value):
        write(self, name, value)
        look()

    def unlink_and_look(self, missing_ok=False):
        unlink(self, missing_ok=missing_ok)
        look()

    monkeypatch.setattr(Workdir, "write_json", write_and_look)
    monkeypatch.setattr(Path, "unlink", unlink_and_look)
    train(dataclasses.replace(config, test_passes=2), path, DrawFigures())
    assert states[0] is None
    assert states[-1] == 2


def test_a_result_from_the_middle_of_a_training_does_not_outlive_its_settings(run):
    """Evaluated by eval.py at a checkpoint, then trained on with other settings."""
    path, config = run
    longer = dataclasses.replace(config, epochs=3)
    (path / "result.json").unlink()
    Workdir(path).write_json("config.json", longer.to_dict())
    assert evaluate_workdir(path)["step"] == 4
    folder = Workdir(path)
    folder.claim(longer)
    assert folder.result() is not None
    folder.claim(dataclasses.replace(longer, test_passes=2))
    assert folder.result() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"step": "4", "config": {}}', "\udcff"]
)
def test_a_damaged_result_is_recreated(run, text):
    path, config = run
    whole = json.loads((path / "result.json").read_text())
    (path / "result.json").write_bytes(text.encode(errors="surrogateescape"))
    assert train(config, path, DrawFigures()) == whole == assert_agree(path)


@pytest.mark.slow
def test_training_resumes_from_checkpoints_even_if_it_writes_none(run, capsys):
    path, config = run
    longer = dataclasses.replace(config, epochs=2, checkpoint_every=0)
    (path / "result.json").unlink()
    Workdir(path).write_json("config.json", longer.to_dict())
    assert train(longer, path, DrawFigures())["step"] == 8
    assert "resuming from step 4 of 8" in capsys.readouterr().out
    assert evaluate_workdir(path)["step"] == 8


@pytest.mark.thin
@pytest.mark.parametrize("fields", [{"microbatch": 32}, {"mesh": "batch=1"}, {"mesh": "seeds"}])
def test_runs_of_any_division_are_tested_on_other_data(run, fields):
    path, config = run
    Workdir(path).write_json("config.json", dataclasses.replace(config, **fields).to_dict())
    on_other = evaluate_workdir_on(path, {"dataset": "mnist_sample"})
    assert on_other["test_examples"] == 2000
