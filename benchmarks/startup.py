"""Time from the start of a process to its first training step, and time of imports.

    python -m benchmarks.startup [--rounds=3] [--variant=stn-sl1]

Runs ``train.py`` in a separate process, with a compilation cache that is empty (cold start) or
filled by the previous start (warm start). Every step is logged, and the time is taken when the
first line of metrics.jsonl appears: the first step is done and its loss has been read. Then the
process is terminated. Imports are timed in fresh processes.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT, Report, Timing, flags

IMPORTS = ("jax", "stn_jax", "stn_jax.models", "train")
_PATIENCE = 300  # seconds


def environment_of(cache: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(cache)}


def first_step(folder: Path, cache: Path, variant: str) -> float:
    """Seconds from the start of train.py to its first step; ``folder`` must not exist yet.

    Raises:
      RuntimeError: train.py ended, or took too long, before its first step.
    """
    metrics = folder / "metrics.jsonl"
    flags = {"variant": variant, "dataset": "mnist_sample", "log_every": 1, "steps_per_dispatch": 1}
    command = [sys.executable, str(ROOT / "train.py"), f"--workdir={folder}"]
    command += [f"--config.{name}={value}" for name, value in flags.items()]
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment_of(cache), stdout=output, stderr=output
        )
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                time.sleep(0.005)
                waited = time.perf_counter() - start
                if child.poll() is not None or waited > _PATIENCE:
                    output.seek(0)
                    raise RuntimeError(f"no step after {waited:.0f} s: {output.read()[-2000:]}")
            return time.perf_counter() - start
        finally:
            child.terminate()
            child.wait()


def import_seconds(module: str, cache: Path) -> float:
    """Seconds for an import in a fresh process, without the start of the interpreter."""
    code = (
        "import time; start = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment_of(cache),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags(__doc__, rounds=3)
    parser.add_argument("--variant", default="stn-sl1")
    options = parser.parse_args(argv)
    report = Report(
        "startup", {"rounds": options.rounds, "variant": options.variant}, options.folder
    )
    seconds: dict[str, list[float]] = {name: [] for name in ("warm", "cold", *IMPORTS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for module in IMPORTS:  # compiles the sources
            import_seconds(module, folder)
        for i in range(options.rounds):
            cache = folder / f"cache_{i}"
            for kind in ("cold", "warm"):
                took = first_step(folder / f"{kind}_{i}", cache, options.variant)
                seconds[kind].append(took)
                print(f"{kind} start {i + 1} of {options.rounds}: {took:.1f} s", flush=True)
            for module in IMPORTS:
                seconds[module].append(import_seconds(module, cache))
    times = {name: Timing.of(values) for name, values in seconds.items()}
    for kind in ("warm", "cold"):
        report.row(
            f"{kind} start to the first step",
            {"start": kind, "variant": options.variant},
            times={"stn_jax": times[kind]},
        )
    for module in IMPORTS:
        report.row(f"import {module}", {"import": module}, times={"stn_jax": times[module]})


if __name__ == "__main__":
    main()
