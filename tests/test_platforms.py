"""What Linux alone has, taken away: training, its results and its checkpoints do without."""

import errno
import json
import os

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


def test_a_disk_that_turns_out_to_be_full_at_the_end_loses_nothing(macos, tmp_path, monkeypatch):
    """Network file systems say so when a file is brought to the disk, and not before."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save({"step": jnp.int32(3), "x": jnp.ones(1000)})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        WorkdirError, match=f"{os.strerror(errno.ENOSPC)}; the last one is of step 3"
    ):
        checkpoints.save({"step": jnp.int32(4), "x": jnp.ones(1000)})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["3.safetensors"]
