"""Shared by the benchmarks: fair timing, a description of the machine, tables, lines of results.

The sides are timed in one process, in a new random order each round, so that disturbances affect
all of them alike. Times include waiting for the result (``block_until_ready``,
``torch.cuda.synchronize``) and exclude warm-up calls.
"""

import argparse
import os

# Two libraries share the accelerator, so JAX must not allocate most of its memory at once.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import datetime
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from stn_jax.experiments import results
from stn_jax.training.config import ConfigError
from stn_jax.training.provenance import cores
from stn_jax.training.provenance import environment as run_environment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "performance"

# Short calls are repeated in each turn.
_TURN = 0.02  # seconds
_MOST_CALLS = 5
# A library's thread pools keep spinning for a while after their work is done.
_PAUSE = 0.02  # seconds
# Values that earlier versions stored by other names.
_RENAMED_VALUES = {
    "share of distortion and shuffling": "fraction for distortion and shuffling",
    "share of the rest of the loop": "fraction for the rest of the loop",
    "share outside of the network": "fraction outside the network",
    "share of the matrix product's peak": "fraction of peak GFLOP/s",
    "share of the bandwidth": "fraction of peak GB/s",
    "share of the distortion": "fraction for the distortion",
}


class Timing(NamedTuple):
    """Seconds per call: median and quartiles over rounds."""

    median: float
    quartiles: tuple[float, float]
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        low, median, high = np.percentile(seconds, (25, 50, 75))
        return cls(float(median), (float(low), float(high)), len(seconds))

    def __str__(self) -> str:
        factor, unit = (1, "s") if self.median >= 1 else (1e3, "ms")
        digits = max(0, 2 - math.floor(math.log10(factor * self.median)))
        half_range = (self.quartiles[1] - self.quartiles[0]) / 2
        around = f" +- {factor * half_range:.{digits}f}" if self.rounds > 1 else ""
        return f"{factor * self.median:.{digits}f}{around} {unit}"


def compare(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int = 30,
    *,
    budget: float = math.inf,
    fewest: int = 3,
    seed: int = 0,
    steps: int = 1,
) -> dict[str, Timing]:
    """Times functions, alternating between them.

    Args:
      sides: functions by name; their results are waited for.
      rounds: number of turns for each function.
      budget: seconds for each function; slow ones take part in fewer rounds.
      fewest: minimum number of rounds for slow functions; a function whose call takes more than
        four budgets is timed once.
      seed: seed of the order within the rounds.
      steps: number of repetitions inside a call; times are divided by it.

    Returns:
      A :class:`Timing` for each. In a turn, a short function is called up to five times after a
      warm-up call, and the turn's time is the median. On accelerators it is the mean, with a single
      wait at the end, since launches overlap with computation as they do in a program.

    Raises:
      ValueError: there are no functions, or no rounds.
    """
    if not sides or min(rounds, fewest) < 1:
        raise ValueError(
            f"there are {len(sides)} sides, {rounds} rounds, and at least {fewest} rounds for slow "
            "ones; expected 1 or more of each"
        )
    each = jax.default_backend() == "cpu"
    calls, turns = {}, {}
    for name, fn in sides.items():
        _seconds(fn, 1, each)  # compiles, allocates
        once = _seconds(fn, 1, each)
        most = _MOST_CALLS if each else 10 * _MOST_CALLS
        calls[name] = int(np.clip(_TURN / once, 1, most))
        cost = _PAUSE + once * (calls[name] + (calls[name] > 1))
        least = 1 if once > 4 * budget else min(fewest, rounds)
        turns[name] = max(least, int(min(rounds, budget / cost)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(seed)
    for i in range(max(turns.values())):
        due = [name for name in sides if i < turns[name]]
        for name in rng.permutation(due):
            time.sleep(_PAUSE)
            if calls[name] > 1:
                _seconds(sides[name], 1, each)
            seconds[name].append(_seconds(sides[name], calls[name], each) / steps)
    return {name: Timing.of(values) for name, values in seconds.items()}


def _seconds(fn: Callable[[], Any], calls: int, each: bool) -> float:
    """Seconds per call: the median if each call is waited for, otherwise the mean."""
    times = []
    begun = time.perf_counter()
    for i in range(calls):
        start = time.perf_counter()
        result = fn()
        if each or i == calls - 1:
            _wait(result)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) if each else (time.perf_counter() - begun) / calls


def _wait(result: Any) -> None:
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def environment() -> dict[str, Any]:
    """Commit, versions, device, processor and date of a measurement."""
    found = run_environment()
    versions = found["versions"]
    for package in ("torch", "dm_pix"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": (found["commit"] or "").removesuffix("-dirty") or None,
        "dirty": _dirty(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": found["device"],
        "cpu": _cpu_model(),
        "cores": cores(),
        "versions": versions,
    }


def _dirty() -> bool | None:
    """Whether files other than results and docs differ from the commit; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!results", ":!docs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return bool(done.stdout.strip())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def ratio(times: Mapping[str, Timing], rivals: Sequence[str] | None = None) -> float | None:
    """The time of the fastest rival divided by that of the first side.

    Args:
      times: timings by side, ours first.
      rivals: prefixes of the rivals' names; None: all other sides.

    Returns:
      The ratio, above 1 if we are faster; None if there is no such rival.
    """
    ours, *others = times
    theirs = [
        times[name].median
        for name in others
        if rivals is None or any(name.startswith(rival) for rival in rivals)
    ]
    return min(theirs) / times[ours].median if theirs else None


class Report:
    """Prints a benchmark's rows and appends them to a file of JSON lines.

    Args:
      name: the benchmark's name.
      options: its command-line options.
      folder: folder of ``name.jsonl``; None: results/performance in the checkout.

    Raises:
      SystemExit: lines cannot be appended to that file.
    """

    def __init__(self, name: str, options: Mapping[str, Any], folder: str | Path | None = None):
        self.name = name
        self.path = Path(folder or RESULTS) / f"{name}.jsonl"
        try:
            results.check_writable(self.path, "--folder")
        except ConfigError as error:
            sys.exit(f"error: {error}")
        self._common = {"benchmark": name, "options": dict(options), **environment()}
        self._begun = time.monotonic()
        shown = {key: self._common[key] for key in ("device", "cpu", "cores", "commit", "dirty")}
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in shown.items())}", flush=True)

    def row(
        self,
        row: str,
        case: Mapping[str, Any],
        *,
        times: Mapping[str, Timing] | None = None,
        values: Mapping[str, float | None] | None = None,
        accuracy: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Prints a row and appends it.

        Args:
          row: its name. In docs/performance.md, a newer run replaces an older one of the same name.
          case: the parameters of the measurement.
          times: timings by side, ours first.
          values: other measurements by name, with the unit in the name.
          accuracy: largest errors against float64, by side and quantity.
        """
        line: dict[str, Any] = {"row": row, "case": dict(case)}
        if times:
            line["times"] = {
                side: {"seconds": t.median, "quartiles": t.quartiles, "rounds": t.rounds}
                for side, t in times.items()
            }
        if values:
            line["values"] = dict(values)
        if accuracy:
            line["accuracy"] = {side: dict(errors) for side, errors in accuracy.items()}
        results.append(self.path, [{**self._common, **line}])
        print(f"[{time.monotonic() - self._begun:4.0f} s] {row}", flush=True)
        for text in _row_lines(times or {}, values or {}, accuracy or {}):
            print(f"    {text}", flush=True)


def _row_lines(
    times: Mapping[str, Timing],
    values: Mapping[str, float | None],
    accuracy: Mapping[str, Mapping[str, float]],
) -> list[str]:
    lines = []
    for i, (side, timing) in enumerate(times.items()):
        text = f"{side:<24}{timing!s:>22}"
        if i:
            text += f"  {timing.median / next(iter(times.values())).median:6.2f} x"
        elif len(times) > 1:
            text += "          "
        errors = accuracy.get(side, {})
        text += "".join(f"  {name} error {error:.1e}" for name, error in errors.items())
        lines.append(text.rstrip())
    for name, value in values.items():
        lines.append(f"{name}: {'-' if value is None else f'{value:.3g}'}")
    return lines


def read_lines(folder: str | Path | None = None) -> list[dict[str, Any]]:
    """All lines of all benchmarks in a folder, in the order of files and lines.

    Raises:
      ValueError: a line is not JSON; the message names it.
    """
    lines = []
    for path in sorted(Path(folder or RESULTS).glob("*.jsonl")):
        for number, text in enumerate(path.read_text().splitlines(), 1):
            try:
                lines.append(_with_current_names(json.loads(text)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is not JSON: {error}") from None
    return lines


def _with_current_names(line: dict[str, Any]) -> dict[str, Any]:
    values = line.get("values")
    if not values:
        return line
    renamed = {_RENAMED_VALUES.get(name, name): value for name, value in values.items()}
    layers = {
        name.replace(" (looked at)", " (for localization)"): renamed[name] for name in renamed
    }
    return {**line, "values": layers}


def optional_torch() -> Any:
    """The module torch, set to use this process's cores; None if it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: skipped", flush=True)
        return None
    torch.set_num_threads(cores())
    return torch


def flags(
    about: str | None, *, rounds: int, budget: float | None = None
) -> argparse.ArgumentParser:
    """A parser for the benchmarks' common flags.

    Args:
      about: the benchmark's docstring, whose first line is shown.
      rounds: the default number of rounds.
      budget: the default seconds per side of a row; None: no such flag.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    if budget is not None:
        parser.add_argument(
            "--budget", type=float, default=budget, help="seconds per side of a row"
        )
    parser.add_argument("--folder", help="folder of the results")
    return parser
