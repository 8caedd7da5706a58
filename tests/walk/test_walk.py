"""Every public function and module under everything that JAX offers."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from subjects import subjects
from ways import ONE_DEVICE, TWO_DEVICES

import stn_jax
from stn_jax import warp
from stn_jax.warp import affine, transforms

SUBJECTS = subjects()


@pytest.mark.parametrize("way", ONE_DEVICE)
@pytest.mark.parametrize("name", SUBJECTS)
def test_on_one_device(name, way):
    ONE_DEVICE[way](SUBJECTS[name])


@pytest.fixture(scope="session")
def on_two_devices():
    """What went wrong, by subject and way: all in one process that has two devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_devices.py")],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return {(name, way): error for name, way, error in map(json.loads, run.stdout.splitlines())}


@pytest.mark.xdist_group("two devices")
@pytest.mark.parametrize("way", TWO_DEVICES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_on_two_devices(on_two_devices, name, way):
    assert not on_two_devices[name, way], on_two_devices[name, way]


def test_nothing_public_is_left_out():
    names = set(stn_jax.__all__)
    names |= {f"warp.{name}" for name in warp.__all__ if not inspect.ismodule(getattr(warp, name))}
    for module in (affine, transforms):
        room = module.__name__.removeprefix("stn_jax.")
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith(module.__name__)
            if own and callable(value) and not name.startswith("_") and not _is_plain(value):
                names.add(f"{room}.{name}")
    covered = {name for subject in SUBJECTS.values() for name in subject.covers}
    covered |= {f"warp.{name}" for name in covered if name in warp.__all__}
    assert names - covered == set()


def _is_plain(value):
    """Abstract classes, and tuples that only hold results."""
    return inspect.isabstract(value) or (inspect.isclass(value) and issubclass(value, tuple))
