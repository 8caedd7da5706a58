"""Random cases of the native convolutions and pooling under sanitizers, without JAX.

    python -m tests.native.sanitize_layers [--cases=1000] [--seed=0] [--level=avx2] [--only=thread]

As ``tests.native.sanitize`` does it for warps: shapes with 0 and 1, numbers of channels that fill
no vector, batches that do not divide by the threads, against plain loops in float64.
"""

import os
import pathlib
import shlex
import subprocess
import sys

from tests.native.sanitize import BUILDS, FLAGS, HERE, LEVELS, main

SOURCES = HERE.parents[1] / "stn_jax" / "models" / "cpu" / "native"


def build(folder: pathlib.Path, sanitizer: str, level: str) -> pathlib.Path:
    """Compiles the harness with the layers' kernels of one instruction set."""
    files = [SOURCES / "convolution.cc", SOURCES / "pooling.cc", HERE / "layers_harness.cc"]
    harness = folder / "harness"
    options = [*LEVELS[level], f"-DSTN_LEVEL={level}", f"-I{SOURCES}", *BUILDS[sanitizer]]
    compiler = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, *options, "-pthread"]
    subprocess.run([*compiler, *map(str, files), "-o", str(harness)], check=True)
    return harness


if __name__ == "__main__":
    sys.exit(main(build=build))
