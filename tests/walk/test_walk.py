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


# In the quick run one subject is tried in all ways, and the others in one, but for those whose
# programs are large.
ALL_THROUGH = "grid_sample"
LARGE = {
    *("families", "matrices", "augment", "warp_affine, antialias", "map_coordinates"),
    "map_coordinates, deterministic",
    *("create_network", "load_pretrained", "cnn", "stn-c1", "roi_align, sampling_ratio=-1"),
}
TRIALS = [
    pytest.param(name, way, marks=() if quick else pytest.mark.slow)
    for name in SUBJECTS
    for way in ONE_DEVICE
    if SUBJECTS[name].is_tried(way)
    for quick in [name == ALL_THROUGH or (way == "mapped_gradients" and name not in LARGE)]
]


@pytest.mark.parametrize(("name", "way"), TRIALS)
def test_on_one_device(name, way):
    ONE_DEVICE[way](SUBJECTS[name])


@pytest.mark.parametrize(
    "names", [[ALL_THROUGH], pytest.param([*SUBJECTS], marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_on_two_devices(names):
    """All in one process, for it takes a while to start, and XLA has to be told how many."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_devices.py"), *names],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = {(name, way): error for name, way, error in map(json.loads, run.stdout.splitlines())}
    trials = ((n, w) for n in names for w in TWO_DEVICES if SUBJECTS[n].is_tried(w))
    assert list(found) == list(trials)
    wrong = {trial: error for trial, error in found.items() if error}
    assert not wrong, "\n\n".join(f"{trial}: {error}" for trial, error in wrong.items())


def test_nothing_public_is_left_out():
    assert set(SUBJECTS) >= {ALL_THROUGH, *LARGE}
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
