"""The goals of the benchmarks' rows, and whether they are met."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.harness import Timing, ratio

Line = dict[str, Any]


class Goal(NamedTuple):
    """A bound that a measured value of some rows should reach."""

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
    """Selects rows by benchmark, device and values of the case; a tuple lists alternatives."""

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
        "CPU: a step on MNIST takes no longer than in PyTorch",
        _is("step", True, task=_MNIST, seeds=1, distorted=False, dtype="float32"),
        _against("torch"),
        1,
        True,
    ),
    Goal(
        "CPU: a step on MNIST takes at most a third of plain Flax's time",
        _is("step", True, task=_MNIST, seeds=1, distorted=False, dtype="float32"),
        _against("flax"),
        3,
        True,
    ),
    Goal(
        "GPU: a warp takes no longer than in PyTorch",
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
        "a warp's backward pass needs temporary memory of at most twice image, output and grid",
        _is("warp"),
        _value("temporary memory"),
        2,
        False,
    ),
    Goal(
        "an epoch spends at most 3 % outside the network",
        _is("pipeline"),
        _value("fraction outside the network"),
        0.03,
        False,
    ),
    Goal(
        "a warm start reaches the first step within 10 s",
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
        "time grows with an exponent of at most 1.05 in the number of operations",
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
