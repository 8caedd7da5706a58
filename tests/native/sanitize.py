"""Random cases of the native kernels under sanitizers, without JAX.

    python -m tests.native.sanitize [--cases=1000] [--seed=0] [--level=avx2] [--only=thread]
    CXX=aarch64-linux-gnu-g++ python -m tests.native.sanitize --only=none --level=generic \\
        --emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"     # for another processor

Compiles the kernels and harness.cc once plainly, once with AddressSanitizer and
UndefinedBehaviorSanitizer, and once with ThreadSanitizer, and runs the same cases with each: shapes
with 0 and 1, channels 0 to 200, broadcast leading axes, positions that are NaN, infinite or 1e38,
infinite pixels. CXX names the compiler.
"""

import argparse
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).parent
SOURCES = HERE.parents[1] / "stn_jax" / "warp" / "native"
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    f"-I{SOURCES}",
]
LEVELS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"],
}
BUILDS = {
    "none": [],
    "address,undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def build(folder: pathlib.Path, sanitizer: str, level: str) -> pathlib.Path:
    """Compiles the harness with the kernels of one instruction set."""
    compiler = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, *BUILDS[sanitizer]]
    parts = ((SOURCES, "sampling", "fast"), (SOURCES, "positions", "off"), (HERE, "harness", "off"))

    def compile_one(part: tuple[pathlib.Path, str, str]) -> str:
        source, name, contraction = part
        target = str(folder / f"{name}.o")
        options = [*LEVELS[level], f"-DSTN_LEVEL={level}", f"-ffp-contract={contraction}"]
        command = [*compiler, *options, "-c", str(source / f"{name}.cc"), "-o", target]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_one, parts))
    harness = folder / "harness"
    subprocess.run([*compiler, *objects, "-pthread", "-o", str(harness)], check=True)
    return harness


Build = Callable[[pathlib.Path, str, str], pathlib.Path]


def run(build: Build, sanitizer: str, level: str, emulator: str, cases: int, seed: int) -> int:
    """Builds a harness and runs it; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        harness = build(pathlib.Path(folder), sanitizer, level)
        command = [*shlex.split(emulator), str(harness), str(seed), str(cases)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"sanitizer {sanitizer}, {level}: {found.stdout.strip()}", flush=True)
    if found.returncode:
        print(found.stderr, file=sys.stderr)
    return found.returncode


def main(argv: Sequence[str] | None = None, build: Build = build) -> int:
    """Runs the cases of a harness under every sanitizer; the exit status."""
    parser = argparse.ArgumentParser(description="Random cases of native kernels under sanitizers.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=BUILDS, help="one build in place of all")
    native = "avx2" if platform.machine() in ("x86_64", "AMD64") else "generic"
    parser.add_argument("--level", choices=LEVELS, default=native)
    parser.add_argument("--emulator", default="", help="command that runs what CXX builds")
    options = parser.parse_args(argv)
    builds = [options.only] if options.only else list(BUILDS)
    how = (options.level, options.emulator, options.cases, options.seed)
    return max(run(build, name, *how) for name in builds)


if __name__ == "__main__":
    sys.exit(main())
