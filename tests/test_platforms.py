"""What Linux alone has, taken away: training, its results and its checkpoints do without."""

import errno
import json
import os
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from stn_jax.training import Config, train
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.provenance import cores
from stn_jax.training.workdir import WorkdirError

LINUX_ALONE = ("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise")


@pytest.fixture
def macos(monkeypatch):
    """Python's os as it is on macOS."""
    for name in LINUX_ALONE:
        monkeypatch.delattr(os, name, raising=False)


def test_training_runs_on_macos(macos, tiny_config, tmp_path):
    config = Config(**tiny_config | {"epochs": 1, "test_passes": 1, "variant": "cnn"})
    result = train(config, tmp_path)
    assert result["device"].endswith(f" CPU, {os.cpu_count()} cores")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 4


def test_cores_are_counted_with_and_without_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.parametrize(("free", "fits"), [(2**30, True), (100, False)])
def test_a_full_disk_is_seen_before_writing(macos, tmp_path, monkeypatch, free, fits):
    state = {"step": jnp.int32(3), "x": jnp.ones(1000)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        disk = SimpleNamespace(f_bavail=free, f_frsize=1)
        monkeypatch.setattr(os, "statvfs", lambda path: disk)
        if fits:
            checkpoints.save(state)
        else:
            with pytest.raises(WorkdirError, match=os.strerror(errno.ENOSPC)):
                checkpoints.save(state)
        assert checkpoints.latest_step() == (3 if fits else None)
