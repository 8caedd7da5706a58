"""What a training leaves open and in TensorBoard's files, however it ends."""

import contextlib
import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest

from stn_jax.training import Config, Hooks, train
from stn_jax.training.workdir import Workdir


@pytest.fixture
def config(tiny_config) -> Config:
    return Config(**tiny_config | {"test_passes": 1, "variant": "cnn", "steps_per_dispatch": 1})


class AtStep(Hooks):
    """Does something once so many steps are taken."""

    def __init__(self, step: int, act):
        self.step, self.act = step, act

    def after_steps(self, step: int) -> None:
        if step == self.step:
            self.act()


def fail():
    raise ZeroDivisionError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
        (fail, ZeroDivisionError),
        (lambda: None, None),
    ],
    ids=["signal", "error", "end"],
)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_files_are_closed_however_training_ends(config, tmp_path, act, error):
    config = Config(**config.to_dict() | {"tensorboard": True})
    seen = []

    def look_and_act():
        seen.extend(open_files(tmp_path))
        act()

    hooks = AtStep(2, look_and_act)
    if error is None:
        train(config, tmp_path, hooks)
    else:
        with pytest.raises(error):
            train(config, tmp_path, hooks)
    assert {path.parent.name for path in seen} >= {tmp_path.name, "tensorboard"}
    assert open_files(tmp_path) == []


def open_files(folder: Path) -> list[Path]:
    """The files in a folder that this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(each.readlink())
    return [path for path in found if path.is_relative_to(folder)]


def points(folder: Path, name: str) -> dict[int, float]:
    """A curve as TensorBoard shows it: what a restart says it takes again is dropped.

    References:
      tensorboard/backend/event_processing/event_accumulator.py, _CheckForRestartAndMaybePurge
    """
    from tensorboardX.proto import event_pb2

    found: list[tuple[int, float]] = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START and event.step > 0:
                found = [(step, value) for step, value in found if step < event.step]
            found += [
                (event.step, each.simple_value) for each in event.summary.value if each.tag == name
            ]
    assert len(found) == len(dict(found)), "steps overlap"
    return dict(found)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_every", [1, 0], ids=["from-a-checkpoint", "from-the-start"])
def test_curves_do_not_overlap_after_a_restart(config, tmp_path, monkeypatch, checkpoint_every):
    values = {"tensorboard": True, "log_every": 1, "checkpoint_every": checkpoint_every}
    config = Config(**config.to_dict() | values)
    # Steps 1 to 7 are logged; the checkpoint, where there is one, is of step 4.
    with pytest.raises(ZeroDivisionError):
        train(config, tmp_path, AtStep(7, fail))
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    curve = points(tmp_path / "tensorboard", "train/loss")
    assert list(curve) == [line["step"] for line in lines] == list(range(1, 9))
    np.testing.assert_allclose(
        list(curve.values()), [line["loss"][0] for line in lines], rtol=1e-5, atol=1e-6
    )
    assert Workdir(tmp_path).result()["step"] == 8
