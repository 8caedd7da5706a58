"""Kills a real training at random moments and compares what comes of it with one left alone.

    python tests/training/chaos.py --kills=20 [--seed=0]

Each training is the command of a user (train.py) on the digits in the package, with a checkpoint
five steps. Every second kill (SIGKILL) waits for a checkpoint to be in the writing; the others come
at any time from the start of the process on. After a kill the same command is given again. Where a
training ends before the kills are used up, it is compared, and the next begins.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.numpy

ROOT = Path(__file__).parents[2]
TIMED = {"seconds", "images_per_second"}
FLAGS = [
    "--config.width=0.0625",
    "--config.holdout=9000",
    "--config.epochs=20",
    "--config.batch_size=200",
    "--config.log_every=3",
    "--config.steps_per_dispatch=2",
    "--config.test_passes=1",
    "--config.figures=False",
]


def start(workdir: Path, flags: list[str]) -> subprocess.Popen:
    environment = {
        **os.environ,
        # What is killed may leave part of a program there.
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "xla"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), f"--workdir={workdir}", *flags],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"train.py ended with status {process.returncode}:\n{errors}")


def drafts(workdir: Path) -> set[tuple[str, int]]:
    """The checkpoints that are being written, each told from others of its name."""
    found = set()
    for path in workdir.glob("checkpoints/*.unfinished"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def kill(process: subprocess.Popen, workdir: Path, chance: random.Random, span: float) -> str:
    """Kills a training. Returns when it did, or "" where the training was faster."""
    if chance.random() < 0.5:
        # Not one that an earlier process left, and not always the first.
        left, count, end = drafts(workdir), chance.randint(1, 8), time.monotonic() + 2 * span
        seen: set[tuple[str, int]] = set()
        while len(seen) < count and process.poll() is None and time.monotonic() < end:
            seen |= drafts(workdir) - left
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.1))
        moment = f"while it wrote checkpoint {max(seen, default=('?', 0))[0]}"
    else:
        delay = chance.uniform(0, span)
        moment = f"after {delay:.1f} s"
        time.sleep(delay)
    was_running = process.poll() is None
    process.kill()
    process.communicate()
    return moment if was_running else ""


def outcome(workdir: Path) -> tuple[dict, list, dict]:
    """Parameters and the rest of the last state by path, metrics and result without times."""
    newest = max((workdir / "checkpoints").glob("*.safetensors"), key=lambda path: int(path.stem))
    leaves = safetensors.numpy.load_file(newest)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((workdir / "result.json").read_text())
    bare = [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
    return leaves, bare, {k: v for k, v in result.items() if k not in TIMED}


def compare(left_alone: Path, killed: Path) -> None:
    (state, lines, result), (other, other_lines, other_result) = map(outcome, (left_alone, killed))
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert value.tobytes() == other[name].tobytes(), f"{name} differs"
    assert lines == other_lines, "metrics.jsonl differs"
    differ = [key for key in result if result[key] != other_result.get(key)]
    assert result.keys() == other_result.keys(), "result.json differs"
    assert not differ, f"result.json differs in {', '.join(differ)}"


def main(kills: int, seed: int, root: Path, flags: list[str]) -> int:
    """Returns the number of trainings that were compared."""
    chance = random.Random(seed)
    begun = time.monotonic()
    finish(start(root / "left-alone", flags))
    span = time.monotonic() - begun
    print(f"left alone: {span:.1f} s; seed {seed}", flush=True)
    done = trainings = 0
    while done < kills:
        workdir = root / f"killed-{trainings}"
        while done < kills:
            moment = kill(start(workdir, flags), workdir, chance, span)
            if not moment:
                break
            done += 1
            steps = sorted(path.name for path in workdir.glob("checkpoints/*"))
            print(f"kill {done}: {moment}; checkpoints: {', '.join(steps) or 'none'}", flush=True)
        finish(start(workdir, flags))
        compare(root / "left-alone", workdir)
        trainings += 1
        print("the same bits, history and result as the one left alone", flush=True)
    print(f"{done} kills survived, {trainings} trainings compared", flush=True)
    return trainings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments, rest = parser.parse_known_args()
    flags = ["--config.dataset=mnist_sample", *FLAGS, *rest]
    with tempfile.TemporaryDirectory() as folder:
        main(arguments.kills, arguments.seed, Path(folder), flags)
