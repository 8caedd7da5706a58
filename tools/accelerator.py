"""Measures the study and the benchmarks on an accelerator, in steps that each fit a short lease.

    python -m tools.accelerator STEP[,STEP ...] --out=FOLDER [--minutes=9] [--state=FILE] [--small]
    python -m tools.accelerator merge FOLDER [FOLDER ...]

STEP: warps, steps, numbers, table1, variants, table2 or schedule; --list prints their commands. The
commands run one after the other until the time is over; then the one that runs is asked to stop
(SIGTERM; training writes a checkpoint and ends) and killed a minute later. FOLDER then holds

    results/*.jsonl     lines of the experiments, and of the benchmarks in results/performance
    state.tar           these lines, weights of Table 1's networks (seed 0), and checkpoints of
                        unfinished runs; --state=FILE continues from such a file: finished runs
                        are skipped
    STEP.log            what the commands printed

``merge`` appends the lines that are new to the ``results`` of the checkout. Table 2 is tested on
real house numbers, too, if they are in the cache $STN_JAX_CACHE, as ``svhn_numbers/custom``.
--small makes every command a matter of seconds, to try a step on a CPU.
"""

import argparse
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
GRACE = 60.0  # seconds that a command has to stop
LARGEST = 15 * 2**20  # bytes of the state that is kept
RUNS = "--workdir=OUT/runs/{table} --results=OUT/results"
TRAIN = "-m stn_jax.experiments {table} --seeds=0,1,2,3,4 --epochs=40 " + RUNS
SCHEDULE = (
    "--rows=rotation/* --epochs=640 --config.schedule=step --config.learning_rate=0.01 "
    "--config.localization_optimizer=sgd --config.localization_rate=0.3 "
    "--config.label_smoothing=0 --config.weight_decay=0 --config.clip_norm=0"
)
SPEED = "--folder=OUT/results/performance"
STEPS = {
    "warps": [f"-m benchmarks.warp {SPEED}", f"-m benchmarks.gather {SPEED}"],
    "steps": [
        f"-m benchmarks.step {SPEED} --budget=2 --seeds=5 --dtype=bfloat16",
        f"-m benchmarks.step {SPEED} --budget=2 --task=translated_mnist --seeds=5 --dtype=bfloat16",
        f"-m benchmarks.step {SPEED} --budget=2 --task=svhn --batch=128 --dtype=bfloat16",
    ],
    "numbers": ["-m pytest -n 4 tests/warp tests/models tests/tasks"],
    "table1": [TRAIN.format(table="table1") + " --export=OUT/weights"],
    "variants": [
        "-m stn_jax.experiments mnist_rot --seeds=0,1,2,3,4 " + RUNS.format(table="mnist_rot"),
        *(TRAIN.format(table=name) for name in ("deeper", "iterated", "families", "scaled")),
    ],
    "table2": [
        "-m stn_jax.experiments table2 --dataset=street_numbers --seeds=0,1 --epochs=85 "
        + RUNS.format(table="table2")
    ],
    "schedule": [
        f"-m stn_jax.experiments table1 --seeds=0,1,2,3,4 {SCHEDULE} "
        + RUNS.format(table="schedule")
    ],
}
REAL_NUMBERS = "svhn_numbers/custom"
# What makes a command small, by words that it contains: flags in place of its own.
SMALLER = {
    "stn_jax.experiments": "--config.width=0.0625 --config.test_passes=1 --config.batch_size=128 "
    "--seeds=0,1 --epochs=1 --seeds_per_program=2 --dataset=mnist_sample",
    "table2": "--dataset=street_numbers/30k",
    "benchmarks.warp": "--rounds=1 --budget=0.01 --only=10x10",
    "benchmarks.gather": "--rounds=1 --budget=0.01 --only=28x28",
    "benchmarks.step": "--rounds=1 --budget=0.01 --batch=2 --steps=1 --variants=cnn --without_flax",
    "pytest": "-k test_identity",
}


@dataclasses.dataclass(frozen=True)
class Lease:
    """The time that a step has."""

    end: float  # of time.monotonic

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def with_flags(command: Sequence[str], flags: Sequence[str]) -> list[str]:
    """A command with flags (``--name=value``) added or in place of its own of the same names."""
    names = {flag.partition("=")[0] for flag in flags}
    return [word for word in command if word.partition("=")[0] not in names] + list(flags)


def words(command: str, out: Path, small: bool) -> list[str]:
    """The arguments of the Python interpreter for a command."""
    found = shlex.split(command)
    for name, flags in SMALLER.items() if small else ():
        if name in found:
            found = with_flags(found, shlex.split(flags))
    cache = os.environ.get("STN_JAX_CACHE")
    if "table2" in found and cache and Path(cache, REAL_NUMBERS).is_dir():
        found.append(f"--also_test={REAL_NUMBERS}")
    return [word.replace("OUT", str(out)) for word in found]


def run(arguments: Sequence[str], lease: Lease, log: Path) -> int | None:
    """Runs a command until it ends or the lease does; its exit status, None if it was stopped."""
    title = " ".join(arguments)
    environment = dict(os.environ)
    if "pytest" in arguments:  # its workers share the device
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    print(f"[{lease.left:5.0f} s left] {title}", flush=True)
    with log.open("a") as file:
        file.write(f"\n$ python {title}\n")
        file.flush()
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                return process.wait(max(0.0, lease.left))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    return None


def save_state(out: Path, file: Path) -> None:
    """Packs results, weights and, up to a limit, workdirs of unfinished runs, the newest first.

    Args:
      out: the folder of a step.
      file: the archive, whose names are relative to ``out``.
    """
    configs = [path.parent for path in (out / "runs").rglob("config.json")]
    unfinished = [folder for folder in configs if not (folder / "result.json").exists()]
    unfinished.sort(key=lambda folder: -folder.stat().st_mtime)
    size = 0
    with tarfile.open(file, "w") as archive:
        kept = [*(out / "results").rglob("*.jsonl"), *(out / "weights").glob("*.safetensors")]
        for path in sorted(kept):
            size += path.stat().st_size
            archive.add(path, path.relative_to(out))
        for folder in unfinished:
            newest = sorted(
                (folder / "checkpoints").glob("*.safetensors"), key=lambda p: p.stat().st_mtime
            )[-1:]
            files = [folder / "config.json", folder / "metrics.jsonl", *newest]
            files = [path for path in files if path.exists()]
            size += sum(path.stat().st_size for path in files)
            if size > LARGEST:
                print(f"state: no room for {folder.name} and what is older", flush=True)
                break
            for path in files:
                archive.add(path, path.relative_to(out))


def run_steps(
    names: Sequence[str], out: Path, minutes: float, state: Path | None, small: bool
) -> int:
    """Runs the commands of steps; the number of those that failed."""
    lease = Lease(time.monotonic() + 60 * minutes - GRACE)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if state is not None and state.exists():
        with tarfile.open(state) as archive:
            archive.extractall(out, filter="data")
    failed = 0
    commands = [(name, command) for name in names for command in STEPS[name]]
    for step, command in commands:
        begun = time.monotonic()
        status = run(words(command, out, small), lease, out / f"{step}.log")
        said = "stopped: no time left" if status is None else f"status {status}"
        print(f"  {said}, after {time.monotonic() - begun:.0f} s", flush=True)
        failed += status not in (0, None)
        if status is None:
            break
    save_state(out, out / "state.tar")
    return failed


def merge(folders: Sequence[Path], into: Path) -> int:
    """Appends the lines of results that are new to the files of the same names; how many."""
    added = 0
    for folder in folders:
        for path in sorted((folder / "results").rglob("*.jsonl")):
            target = into / path.relative_to(folder / "results")
            known = set(target.read_text().splitlines()) if target.exists() else set()
            new = [line for line in path.read_text().splitlines() if line and line not in known]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a") as file:
                file.writelines(f"{line}\n" for line in new)
            print(f"{len(new)} new lines in {os.path.relpath(target)}")
            added += len(new)
    return added


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a step, or merges what steps brought; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", metavar="STEP[,STEP ...]|merge", help=", ".join(STEPS))
    parser.add_argument("folders", nargs="*", type=Path, help="of merge: what steps wrote")
    parser.add_argument("--out", type=Path, help="where a step writes")
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of a step")
    parser.add_argument("--state", type=Path, help="a state.tar to continue from")
    parser.add_argument("--small", action="store_true", help="make every command small")
    parser.add_argument("--list", action="store_true", help="print a step's commands")
    flags = parser.parse_args(argv)
    if flags.command == "merge":
        if not flags.folders:
            parser.error("merge needs the folders that steps wrote")
        merge(flags.folders, ROOT / "results")
        return 0
    steps = flags.command.split(",")
    if unknown := [name for name in steps if name not in STEPS]:
        parser.error(f"{unknown[0]!r} is no step; expected {', '.join(STEPS)}, or merge")
    if flags.list:
        print(*(f"python {command}" for name in steps for command in STEPS[name]), sep="\n")
        return 0
    if flags.out is None:
        parser.error(f"{flags.command} needs --out=FOLDER")
    return int(run_steps(steps, flags.out, flags.minutes, flags.state, flags.small) > 0)


if __name__ == "__main__":
    sys.exit(main())
