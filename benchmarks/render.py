"""Writes docs/performance.md from the results: every row, its newest run on each device.

    python -m benchmarks.render

What bounds the rows that miss their goal is written by hand, in docs/performance_notes.md; the
page takes it in as it is.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import ROOT, Timing, ratio, read_lines

PAGE = ROOT / "docs" / "performance.md"
NOTES = ROOT / "docs" / "performance_notes.md"

Line = dict[str, Any]

TITLES = {
    "warp": "Warps",
    "operations": "Operations",
    "augment": "Augmentation",
    "layers": "Layers",
    "step": "Training steps",
    "profile": "Where the time of a training step goes",
    "microbatch": "Batches in parts",
    "pipeline": "What an epoch spends outside of the network",
    "startup": "Starting",
    "scaling": "Scaling",
}
# The first side of a row whose others are rivals; elsewhere sides are parts, or sizes.
OURS = "stn_jax"

INTRODUCTION = """\
# Performance

Written by `python -m benchmarks.render` from the JSON lines in `results/performance/`, the newest
run of each row on each device; none of the figures is typed by hand. All sides of a row are timed
in one process, in turns of random order, each time until the result is there. A time is the median
over rounds, with half the distance between the quartiles; (n) is the number of rounds. "Rival /
ours" is the fastest rival's time over ours: above 1 we are faster. Losses are shown like wins.

    python -m benchmarks.warp        # warps and their gradients: time, error, memory
    python -m benchmarks.operations  # pixel matrices, boxes, splines, attention
    python -m benchmarks.augment     # augmentation of a batch, in images a second
    python -m benchmarks.layers      # convolutions and poolings alone
    python -m benchmarks.step        # a training step; --task, --variants, --seeds, --dtype
    python -m benchmarks.profile     # where the time of a training step goes, on a CPU
    python -m benchmarks.microbatch  # a training step whose batch is taken in parts
    python -m benchmarks.pipeline    # what an epoch spends outside of the network
    python -m benchmarks.startup     # from the start of a process to the first step; imports
    python -m benchmarks.scaling     # time over batch, side, channels, seeds
    python -m benchmarks.render      # this page

Each module's text says what exactly is timed; `--help` lists the options. PyTorch and dm_pix are
compared with where they are installed.
"""


# --- goals ---------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """What a row should reach."""

    name: str
    applies: Callable[[Line], bool]
    measured: Callable[[Line], float | None]
    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def on_cpu(line: Line) -> bool:
    return "CPU" in line["device"]


def timings(line: Line) -> dict[str, Timing]:
    return {
        side: Timing(t["seconds"], tuple(t["quartiles"]), t["rounds"])
        for side, t in line.get("times", {}).items()
    }


def _against(*rivals: str) -> Callable[[Line], float | None]:
    return lambda line: ratio(timings(line), rivals or None)


def _value(*names: str) -> Callable[[Line], float | None]:
    """The first of several values that is present in a row."""

    def read(line: Line) -> float | None:
        values = line.get("values", {})
        return next((values[name] for name in names if values.get(name) is not None), None)

    return read


def _seconds(line: Line) -> float:
    return next(iter(timings(line).values())).median


def _is(benchmark: str, cpu: bool | None = None, /, **case: Any) -> Callable[[Line], bool]:
    """Whether a row is of a benchmark and device and its case has these values (a tuple: one)."""

    def applies(line: Line) -> bool:
        return (
            line["benchmark"] == benchmark
            and cpu in (None, on_cpu(line))
            and all(
                line["case"].get(name) in (wanted if isinstance(wanted, tuple) else (wanted,))
                for name, wanted in case.items()
            )
        )

    return applies


_MNIST = ("rotated_mnist", "translated_mnist")
GOALS = (
    Goal(
        "CPU: a warp takes no longer than the fastest rival",
        _is("warp", True),
        _against(),
        1,
        True,
    ),
    Goal(
        "CPU: a step on MNIST takes no longer than PyTorch's",
        _is("step", True, task=_MNIST, seeds=1, distorted=False, dtype="float32"),
        _against("torch"),
        1,
        True,
    ),
    Goal(
        "CPU: a step on MNIST takes a third of plain Flax's, or less",
        _is("step", True, task=_MNIST, seeds=1, distorted=False, dtype="float32"),
        _against("flax"),
        3,
        True,
    ),
    Goal(
        "GPU: a warp takes no longer than PyTorch's",
        _is("warp", False),
        _against("torch"),
        1,
        True,
    ),
    Goal(
        "GPU: compiled PyTorch takes at least 1.5 times as long for a step of five seeds on MNIST",
        _is("step", False, task=_MNIST, seeds=5, distorted=False),
        _against("torch compiled"),
        1.5,
        True,
    ),
    Goal(
        "GPU: compiled PyTorch takes at least 1.2 times as long for a step on SVHN",
        _is("step", False, task="svhn", distorted=False),
        _against("torch compiled"),
        1.2,
        True,
    ),
    Goal(
        "the temporary memory of a warp's backward pass is at most twice image, output and grid",
        _is("warp"),
        _value("temporary memory"),
        2,
        False,
    ),
    Goal(
        "an epoch spends less than 3 % outside of the network",
        _is("pipeline"),
        _value("share outside of the network"),
        0.03,
        False,
    ),
    Goal(
        "a warm start takes at most 10 s to the first step",
        _is("startup", start="warm"),
        _seconds,
        10,
        False,
    ),
    Goal(
        "an import takes at most 2 s",
        _is("startup", None, **{"import": ("stn_jax", "stn_jax.models", "train")}),
        _seconds,
        2,
        False,
    ),
    Goal(
        "time grows with an exponent of at most 1.05 in the operations needed",
        _is("scaling"),
        _value("exponent in operations", "exponent"),
        1.05,
        False,
    ),
)


def judged(line: Line) -> list[tuple[Goal, float, bool]]:
    """A row's goals, the values reached, and whether they are met."""
    found = []
    for goal in GOALS:
        value = goal.measured(line) if goal.applies(line) else None
        if value is not None:
            found.append((goal, value, goal.met(value)))
    return found


# --- the page ------------------------------------------------------------------------------------


def newest(lines: Iterable[Line]) -> dict[str, dict[str, list[Line]]]:
    """By device and benchmark, the newest line of each row, in the order of first appearance."""
    latest: dict[tuple[str, str, str], Line] = {}
    for line in lines:
        key = (line["device"], line["benchmark"], line["row"])
        if key not in latest or line["date"] >= latest[key]["date"]:
            latest[key] = line
    found: dict[str, dict[str, list[Line]]] = {}
    for (device, benchmark, _), line in latest.items():
        found.setdefault(device, {}).setdefault(benchmark, []).append(line)
    return found


def page(lines: Iterable[Line], notes: str = "") -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for device, benchmarks in sorted(newest(lines).items(), key=lambda item: "CPU" not in item[0]):
        rows = [line for group in benchmarks.values() for line in group]
        parts += [f"## {device}\n", _machine(rows)]
        if any(judged(row) for row in rows):
            parts.append(_goals(rows))
        for benchmark, title in TITLES.items():
            if benchmark in benchmarks:
                parts += [f"### {title}\n", *_tables(benchmarks[benchmark])]
    if notes.strip():
        parts.append(notes)
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _machine(rows: Sequence[Line]) -> str:
    def all_of(read: Callable[[Line], Any]) -> str:
        return ", ".join(sorted({str(read(line)) for line in rows}))

    commits = all_of(lambda line: str(line["commit"]) + (" (changed)" if line["dirty"] else ""))
    versions = all_of(
        lambda line: "; ".join(f"{k} {v}" for k, v in line["versions"].items() if v is not None)
    )
    dates = sorted(line["date"][:10] for line in rows)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    cores = all_of(lambda line: line["cores"])
    return (
        f"Processor: {all_of(lambda line: line['cpu'])}, {cores} cores. Measured {when}, at commit "
        f"{commits}. Versions: {versions}.\n"
    )


def _goals(rows: Sequence[Line]) -> str:
    table = []
    for goal in GOALS:
        results = [
            (line, value, met) for line in rows for g, value, met in judged(line) if g is goal
        ]
        if results:
            missed = [f"{line['row']} ({value:.3g})" for line, value, met in results if not met]
            reached = f"{len(results) - len(missed)} of {len(results)}"
            table.append([goal.name, reached, "; ".join(missed) or "none"])
    return "### Goals\n\n" + _table(["goal", "rows that meet it", "rows that miss it"], table)


def _tables(rows: Sequence[Line]) -> list[str]:
    """Tables of times, further values, and errors, for the rows with the same first side."""
    groups: dict[str, list[Line]] = {}
    for line in rows:
        groups.setdefault(next(iter(line.get("times", {})), ""), []).append(line)
    tables = []
    for group in groups.values():
        for make in (_times, _values, _errors):
            if table := make(group):
                tables.append(table)
    return tables


def _times(rows: Sequence[Line]) -> str:
    sides = _names(timings(line) for line in rows)
    compared = sides[:1] == [OURS] and len(sides) > 1
    header = ["row", *sides, *(["rival / ours"] if compared else []), "goal"]
    table = []
    for line in rows:
        times = timings(line)
        cells = [f"{times[s]} ({times[s].rounds})" if s in times else "" for s in sides]
        if compared:
            found = ratio(times)
            cells.append("" if found is None else f"{found:.2f}")
        marks = ["met" if met else "**missed**" for _, _, met in judged(line)]
        table.append([line["row"], *cells, ", ".join(marks)])
    return _table(header, table)


def _values(rows: Sequence[Line]) -> str:
    names = _names(line.get("values", {}) for line in rows)
    table = []
    for line in rows:
        if values := line.get("values"):
            cells = ["" if values.get(n) is None else f"{values[n]:.3g}" for n in names]
            table.append([line["row"], *cells])
    return _table(["row", *names], table) if table else ""


def _errors(rows: Sequence[Line]) -> str:
    sides = _names(line.get("accuracy", {}) for line in rows)
    table = []
    for line in rows:
        if accuracy := line.get("accuracy"):
            cells = [
                ", ".join(f"{name} {error:.1e}" for name, error in accuracy.get(s, {}).items())
                for s in sides
            ]
            table.append([line["row"], *cells])
    heading = "Largest errors against float64:\n\n"
    return heading + _table(["row", *sides], table) if table else ""


def _names(mappings: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the results are")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--notes", type=Path, default=NOTES)
    options = parser.parse_args(argv)
    lines = read_lines(options.folder)
    if not lines:
        sys.exit("there are no results yet; run python -m benchmarks.warp, for one")
    notes = options.notes.read_text(encoding="utf-8") if options.notes.exists() else ""
    options.page.write_text(page(lines, notes), encoding="utf-8")
    print(f"{options.page}: {len(lines)} lines read")


if __name__ == "__main__":
    main()
