"""Random cases of the native convolutions and pooling under sanitizers, without JAX.

    python -m tests.native.sanitize_layers [--cases=1000] [--seed=0] [--level=avx2] [--only=thread]

As ``tests.native.sanitize`` does it for warps: shapes with 0 and 1, numbers of channels that fill
no vector, batches that do not divide by the threads, against plain loops in float64.
"""

import argparse
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests.native.sanitize import BUILDS, FLAGS, HERE, LEVELS

SOURCES = HERE.parents[1] / "stn_jax" / "models" / "cpu" / "native"


def run(sanitizer: str, level: str, cases: int, seed: int) -> int:
    """Builds and runs; the exit status."""
    files = [SOURCES / "convolution.cc", SOURCES / "pooling.cc", HERE / "layers_harness.cc"]
    with tempfile.TemporaryDirectory() as folder:
        harness = pathlib.Path(folder, "harness")
        options = [*LEVELS[level], f"-DSTN_LEVEL={level}", f"-I{SOURCES}", *BUILDS[sanitizer]]
        compiler = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, *options, "-pthread"]
        subprocess.run([*compiler, *map(str, files), "-o", str(harness)], check=True)
        found = subprocess.run(
            [str(harness), str(seed), str(cases)], capture_output=True, text=True, check=False
        )
    print(f"sanitizer {sanitizer}, {level}: {found.stdout.strip()}", flush=True)
    if found.returncode:
        print(found.stderr, file=sys.stderr)
    return found.returncode


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=BUILDS, help="one build in place of all")
    native = "avx2" if platform.machine() in ("x86_64", "AMD64") else "generic"
    parser.add_argument("--level", choices=LEVELS, default=native)
    options = parser.parse_args(argv)
    builds = [options.only] if options.only else list(BUILDS)
    return max(run(name, options.level, options.cases, options.seed) for name in builds)


if __name__ == "__main__":
    sys.exit(main())
