"""What a training leaves in its process and in TensorBoard's files, however it ends."""

import json
import logging
import os
import signal
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from stn_jax.training import Config, Hooks, train
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.workdir import Workdir


@pytest.fixture
def config(tiny_config) -> Config:
    return Config(**tiny_config | {"test_passes": 1, "variant": "cnn", "steps_per_dispatch": 1})


@pytest.fixture
def closed(monkeypatch):
    """The checkpoints that were opened and closed."""
    opened, done = [], []
    enter, leave = Checkpoints.__enter__, Checkpoints.__exit__
    monkeypatch.setattr(Checkpoints, "__enter__", lambda self: opened.append(self) or enter(self))
    monkeypatch.setattr(
        Checkpoints, "__exit__", lambda self, *error: done.append(self) or leave(self, *error)
    )
    return lambda: bool(opened) and opened == done


class AtStep(Hooks):
    """Does something once so many steps are taken."""

    def __init__(self, step: int, act):
        self.step, self.act = step, act

    def after_steps(self, step: int) -> None:
        if step == self.step:
            self.act()


def fail():
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
        (fail, ZeroDivisionError),
        (lambda: None, None),
    ],
    ids=["signal", "error", "end"],
)
def test_checkpoints_are_closed_however_training_ends(config, tmp_path, closed, act, error):
    hooks = AtStep(2, act)
    if error is None:
        train(config, tmp_path, hooks)
    else:
        with pytest.raises(error):
            train(config, tmp_path, hooks)
    assert closed()


def test_absl_logs_as_the_process_has_set_it(tmp_path, caplog):
    """Other programs log through absl too; of Orbax's own lines none comes through."""
    logger = logging.getLogger("absl")
    before = absl_logging.get_verbosity(), logger.level, list(logger.filters)
    state = {"step": jnp.int32(3), "x": jnp.ones(3)}
    with caplog.at_level(logging.INFO, "absl"):
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            checkpoints.save(state)
            absl_logging.info("between")
            checkpoints.restore(state)
        absl_logging.info("after")
    assert [record.message for record in caplog.records] == ["between", "after"]
    assert (absl_logging.get_verbosity(), logger.level, list(logger.filters)) == before


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
