"""What a result was made with: device, versions, commit."""

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Kind of device, how many there are, versions and commit that a result was made with."""
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
    """How many CPU cores this process may use; where the system does not tell, all that exist."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a checkout.

    As it was when first asked for: the code that runs is not what the checkout may become.
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
