"""The script that measures on an accelerator: its time limit, its state, its merging."""

import json
import tarfile
import time

import pytest

from stn_jax.cli import experiments
from stn_jax.experiments.tables import TABLES
from tools import accelerator

SLEEPS = (
    "-c \"import signal, sys, time; signal.signal(15, lambda *_: (print('asked'), sys.exit()));"
    " print('sleeps', flush=True); time.sleep(60)\""
)


@pytest.mark.slow
def test_a_step_stops_its_command_when_the_time_is_over(tmp_path, monkeypatch, capsys):
    commands = ["-c \"print('first')\"", SLEEPS, "-c \"print('third')\""]
    monkeypatch.setitem(accelerator.STEPS, "warps", commands)
    monkeypatch.setattr(accelerator, "GRACE", 2.0)
    begun = time.monotonic()
    assert accelerator.main(["warps", f"--out={tmp_path}", "--minutes=0.1"]) == 0
    assert time.monotonic() - begun < 50
    log = (tmp_path / "warps.log").read_text()
    assert "\nfirst\n" in log
    assert "\nsleeps\nasked\n" in log
    assert "third" not in log
    assert "stopped: no time left" in capsys.readouterr().out


def test_a_failing_command_is_told_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    commands = ['-c "raise SystemExit(3)"', "-c \"print('second')\""]
    monkeypatch.setitem(accelerator.STEPS, "warps", commands)
    assert accelerator.main(["warps", f"--out={tmp_path}"]) == 1
    assert "status 3" in capsys.readouterr().out
    assert "\nsecond\n" in (tmp_path / "warps.log").read_text()


def workdir(root, name, *, finished):
    folder = root / "table1" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for step in (5, 10):
        (folder / "checkpoints" / f"{step}.safetensors").write_bytes(b"x" * step)
    if finished:
        (folder / "result.json").write_text("{}")


def test_results_and_the_newest_checkpoints_of_unfinished_runs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(accelerator.STEPS, "warps", [])
    one, two = tmp_path / "one", tmp_path / "two"
    workdir(one / "runs", "done", finished=True)
    workdir(one / "runs", "begun", finished=False)
    lines = one / "results" / "performance" / "warp.jsonl"
    lines.parent.mkdir(parents=True)
    lines.write_text("{}\n")
    (one / "weights").mkdir()
    (one / "weights" / "rotated_mnist__cnn.safetensors").write_bytes(b"weights")
    assert accelerator.run_steps(["warps"], one, minutes=1.0, state=None, small=True) == 0
    with tarfile.open(one / "state.tar") as archive:
        names = sorted(archive.getnames())
    begun = "runs/table1/begun"
    expected = [f"{begun}/checkpoints/10.safetensors", f"{begun}/config.json"]
    weights = "weights/rotated_mnist__cnn.safetensors"
    assert names == ["results/performance/warp.jsonl", *expected, weights]
    state = one / "state.tar"
    assert accelerator.run_steps(["warps"], two, minutes=1.0, state=state, small=True) == 0
    assert (two / begun / "checkpoints/10.safetensors").read_bytes() == b"x" * 10
    assert (two / "results/performance/warp.jsonl").read_text() == "{}\n"
    assert (two / weights).read_bytes() == b"weights"


def test_several_steps_share_the_time(tmp_path, monkeypatch):
    for name in ("warps", "steps"):
        monkeypatch.setitem(accelerator.STEPS, name, [f"-c \"print('of {name}')\""])
    assert accelerator.main(["warps,steps", f"--out={tmp_path}"]) == 0
    for name in ("warps", "steps"):
        assert f"\nof {name}\n" in (tmp_path / f"{name}.log").read_text()


def test_lines_are_merged_once(tmp_path):
    old, new = json.dumps({"row": 1}), json.dumps({"row": 2})
    into = tmp_path / "results"
    into.mkdir()
    (into / "table1.jsonl").write_text(f"{old}\n")
    for name, content in (("table1.jsonl", f"{old}\n{new}\n"), ("performance/warp.jsonl", new)):
        path = tmp_path / "out" / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert accelerator.merge([tmp_path / "out"], into) == 2
    assert accelerator.merge([tmp_path / "out"], into) == 0
    assert (into / "table1.jsonl").read_text() == f"{old}\n{new}\n"
    assert (into / "performance" / "warp.jsonl").read_text() == f"{new}\n"


@pytest.mark.parametrize("step", ["table1", "variants", "table2", "schedule"])
@pytest.mark.parametrize("small", [False, True])
def test_the_commands_of_a_step_are_accepted(step, small, tmp_path, capsys):
    for command in accelerator.STEPS[step]:
        module, *argv = accelerator.words(command, tmp_path, small)[1:]
        assert module == "stn_jax.experiments"
        assert experiments.main([*argv, "--dry-run"]) == 0
        rows = 4 if step == "schedule" else len(TABLES[argv[0]].rows)
        seeds = 2 if small or step == "table2" else 5
        assert f"0 of {rows * seeds} runs are done" in capsys.readouterr().out


def test_table_2_is_tested_on_real_numbers_where_they_are_at_hand(tmp_path, monkeypatch):
    (command,) = accelerator.STEPS["table2"]
    monkeypatch.setenv("STN_JAX_CACHE", str(tmp_path))
    assert not any("also_test" in word for word in accelerator.words(command, tmp_path, False))
    (tmp_path / "svhn_numbers" / "custom").mkdir(parents=True)
    for small in (False, True):
        words = accelerator.words(command, tmp_path, small)
        assert "--also_test=svhn_numbers/custom" in words
        assert experiments.main([*words[2:], "--dry-run"]) == 0


def test_what_is_missing_is_said(capsys):
    for argv, message in (
        (["warps"], "warps needs --out"),
        (["merge"], "merge needs the folders"),
        (["warp"], "'warp' is no step"),
    ):
        with pytest.raises(SystemExit):
            accelerator.main(argv)
        assert message in capsys.readouterr().err
