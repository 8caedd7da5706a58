"""Eight devices, which are this machine's CPU eight times, and two processes, against one."""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from devices_case import KilledAt

from stn_jax.training import Config, ConfigError, train
from stn_jax.training.placement import Placement
from stn_jax.training.restore import evaluate_workdir, evaluate_workdir_on, load
from stn_jax.training.workdir import Workdir

ROOT = Path(__file__).parents[2]
CASE = Path(__file__).with_name("devices_case.py")


@pytest.fixture(scope="module")
def config(tiny_cache) -> Config:
    """Six steps on 520 digits, which eight devices can share; the test set of 90 they cannot."""
    return Config(
        cache_dir=str(tiny_cache),
        width=1 / 16,
        learning_rate=0.02,
        localization_optimizer="sgd",  # Adam's first steps have the sign of what may be rounding
        epochs=3,
        batch_size=240,
        log_every=1,
        test_passes=1,
        figures=False,
    )


# Of each: its configuration, its workdir, and the step at which it is told to stop.
Trial = tuple[Config, Path, int | None]


def start(trials: list[Trial], devices: int, **environment: str) -> subprocess.Popen:
    """Trains one after the other in one process, for it takes a while to start."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    listed = [(config.to_dict(), str(workdir), stop) for config, workdir, stop in trials]
    return subprocess.Popen(
        [sys.executable, str(CASE), json.dumps(listed)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": flags,
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> list[tuple[list[dict], str]]:
    """What each has said of its trials, and its stderr."""
    said = []
    try:
        for process in processes:
            out, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
            # The library of the collectives prints to stdout, too.
            decode = json.JSONDecoder().raw_decode
            found = [decode(out, match.start())[0] for match in re.finditer('{"devices"', out)]
            said.append((found, errors))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return said


def history(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_alike(one: Path, other: Path) -> None:
    """The same training, but for the order in which sums were added up."""
    lines, others = history(one), history(other)
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, another in zip(lines, others, strict=True):
        for name in ("loss", "gradient_norm", "localization_gradient_norm"):
            np.testing.assert_allclose(line[name], another[name], rtol=1e-5, atol=1e-5)
    results = [json.loads((path / "result.json").read_text()) for path in (one, other)]
    assert results[0]["test_examples"] == results[1]["test_examples"] == 90
    # One of 90 digits may be a close call.
    np.testing.assert_allclose(*(r["test_error_percent"] for r in results), atol=1.2)


@pytest.fixture(scope="module")
def one(config, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("devices") / "one"
    train(config, path)
    return path


@pytest.fixture(scope="module")
def eight(config, one) -> tuple[Path, dict]:
    path = one.parent / "eight"
    [([said], _)] = finish(start([(config, path, None)], 8))
    return path, said


def test_eight_devices_learn_the_same_as_one_and_each_holds_its_part(one, eight):
    path, said = eight
    assert said == {
        "devices": 8,
        "process": 0,
        "whole_on_one": 0,
        "training": [65] * 8,
        "batch": 30,
        "status": 0,
        "step": 6,
        "result_devices": 8,
    }
    assert_alike(one, path)


def test_a_checkpoint_of_eight_devices_opens_on_one(config, one, eight):
    path, _ = eight
    state, other = load(path)[1], load(one)[1]
    for a, b in zip(*map(_leaves, (state, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    errors = json.loads((path / "result.json").read_text())["test_error_percent"]
    assert evaluate_workdir(path)["test_error_percent"] == errors


def _leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves(state)]


SEVERAL_SEEDS = {"seeds": (0, 1, 2, 3), "epochs": 1}
MORE = {
    "parts": {"microbatch": 80},
    "four": {"mesh": "batch=4", "epochs": 1, "variant": "cnn"},
    "seeds": {**SEVERAL_SEEDS, "mesh": "seeds=4,batch=2"},
    "resumed": {},
}


@pytest.fixture(scope="module")
def more(config, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Further trainings on eight devices: their workdirs, and what was said of them."""
    folder = tmp_path_factory.mktemp("more")
    # One device to step 3, which is between epochs, and eight from there.
    with pytest.raises(SystemExit):
        train(config, folder / "resumed", KilledAt(3))
    trials = [(dataclasses.replace(config, **MORE[name]), folder / name, None) for name in MORE]
    [(said, _)] = finish(start(trials, 8))
    assert [each["status"] for each in said] == [0] * len(MORE)
    return {name: (folder / name, each) for name, each in zip(MORE, said, strict=True)}


@pytest.mark.slow
def test_eight_devices_divide_each_microbatch(one, more):
    path, said = more["parts"]
    assert said["devices"] == 8
    assert_alike(one, path)
    assert evaluate_workdir_on(path, {"dataset": "mnist_sample"})["test_passes"] == 1


@pytest.mark.slow
def test_a_result_counts_the_devices_that_the_mesh_uses(more):
    path, said = more["four"]
    assert (said["devices"], said["result_devices"]) == (8, 4)
    assert evaluate_workdir(path)["devices"] == 4
    assert evaluate_workdir_on(path, {"dataset": "mnist_sample"})["test_passes"] == 1


@pytest.mark.slow
def test_eight_devices_go_on_where_one_stopped(one, more):
    assert_alike(one, more["resumed"][0])


@pytest.mark.slow
def test_seeds_over_devices(config, more, tmp_path):
    train(dataclasses.replace(config, **SEVERAL_SEEDS), tmp_path / "one")
    path, said = more["seeds"]
    assert said["seeds"] == [1] * 8
    assert_alike(tmp_path / "one", path)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def joined(port: int, number: int) -> dict[str, str]:
    """The environment of one of two processes."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(number),
    }


@pytest.fixture(scope="module")
def two(config, tmp_path_factory) -> tuple[Path, list[tuple[list[dict], str]]]:
    """Two processes of two devices each: a training that the second is told to stop, the same
    again, and one that is rejected; the workdir, and what each process has said."""
    folder = tmp_path_factory.mktemp("two")
    other = dataclasses.replace(config, epochs=1)
    Workdir(folder / "other").write_json("config.json", other.to_dict())
    port = free_port()
    processes = []
    for number, stop in enumerate((None, 3)):
        trials = [(config, folder / "run", stop), (config, folder / "run", None)]
        trials.append((config, folder / "other", None))
        processes.append(start(trials, 2, **joined(port, number)))
    return folder / "run", finish(*processes)


@pytest.mark.slow
def test_two_processes_train_one_run_and_stop_at_the_same_step(one, two):
    workdir, ((first, errors), (second, _)) = two
    for said in (*first, *second):
        assert (said["devices"], said["training"], said["batch"]) == (4, [130, 130], 60)
    assert [said["status"] for said in (first[0], second[0])] == [143, 143]
    assert "SIGTERM: stopped at step 3 of 6, saved in" in errors
    assert [said["status"] for said in (first[1], second[1])] == [0, 0]
    assert_alike(one, workdir)


@pytest.mark.slow
def test_both_of_two_processes_are_rejected(two):
    _, ((first, errors), (second, others)) = two
    assert [said["status"] for said in (first[2], second[2])] == [2, 1]
    assert "holds a run of another configuration" in errors
    assert "the first process failed; see its output" in others


def train_py(number: int, port: int, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), **joined(port, number)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.epochs=none", "epochs is 'none', of type str; expected int"),
        ("--config.data_dir=/nowhere", "data_dir /nowhere does not exist"),
    ],
    ids=["config", "folder"],
)
def test_a_failure_in_one_process_before_a_collective_ends_the_other(tmp_path, flag, message):
    port, workdir = free_port(), f"--workdir={tmp_path / 'run'}"
    two = [train_py(0, port, workdir), train_py(1, port, workdir, flag)]
    try:
        first, second = (process.communicate(timeout=500)[1] for process in two)
    finally:
        for process in two:
            process.kill()
    assert [process.returncode for process in two] == [1, 2]
    assert "another process failed; see its output" in first
    assert message in second
    assert not (tmp_path / "run").exists()


EXPERIMENTS = """
import sys
from stn_jax.cli.experiments import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_a_table(config, one, tmp_path):
    """The first alone writes results and speaks; both test on other data; again, all is done."""
    port = free_port()
    flags = ["table1", "--rows=rotation/cnn", "--seeds=0", "--epochs=1"]
    flags += [f"--cache_dir={config.cache_dir}", "--also_test=mnist_sample"]
    flags += ["--config.width=0.0625", "--config.test_passes=1", "--config.batch_size=240"]
    for round_ in range(2):
        two = [
            subprocess.Popen(
                [sys.executable, "-c", EXPERIMENTS, *flags],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), **joined(port, number)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        try:
            said = [process.communicate(timeout=500) for process in two]
        finally:
            for process in two:
                process.kill()
        assert [process.returncode for process in two] == [0, 0], said
        port = free_port()
        assert f"{round_} of 1 runs are done" in said[0][0]
        assert "| rotation/cnn |" in said[0][0]
        assert "rotation" not in said[1][0]
    lines = (tmp_path / "results" / "table1.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["row"], "also_tested" in line) for line in found] == [
        ("rotation/cnn", False),
        ("rotation/cnn", True),
    ]
    assert all(line["devices"] == 2 for line in found)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh": "batch=2"}, "mesh is 'batch=2', but there are 1 devices"),
        ({"mesh": "batch=7"}, r"but 7 devices cannot share 240 \(batch_size\) evenly"),
        ({"mesh": "seeds=2"}, r"but 2 devices cannot share 1 \(seeds\) evenly"),
    ],
)
def test_a_mesh_that_does_not_fit_is_rejected(config, fields, message):
    with pytest.raises(ConfigError, match=message):
        Placement.choose(dataclasses.replace(config, **fields))


@pytest.mark.parametrize("mesh", ["", "model", "batch=0", "batch,batch", "batch,seeds", "batch=-1"])
def test_an_invalid_mesh_is_rejected(mesh):
    with pytest.raises(ConfigError, match="mesh is "):
        Config(mesh=mesh)
