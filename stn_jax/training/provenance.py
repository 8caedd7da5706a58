"""The provenance of a result: device, versions, commit."""

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Kind and number of devices, versions of the packages, and the commit."""
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = f"{platform.machine()} CPU, {cores()} cores"
    packages = ("stn_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            from stn_jax import __version__

            versions[package] = __version__
    return {
        "device": kind,
        "devices": jax.device_count(),
        "versions": versions,
        "commit": _commit(),
    }


def cores() -> int:
    """How many CPU cores this process may use; all of them if the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _commit() -> str | None:
    """The checkout's commit, with "-dirty" if files differ from it; None outside a checkout.

    Cached at the first call, since the checkout may change while the program runs.
    """
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
