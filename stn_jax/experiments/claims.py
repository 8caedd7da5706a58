"""What the paper claims about the order of its networks, tested on results.

A claim says that a weighted sum of numbers of some rows of Table 1 is below 0, such as the
difference of two test errors. The sum is formed for each seed that all these rows were trained
with, in the same way and for as many epochs: runs of one seed see the training digits in the same
order, and all are tested on the same distorted digits. The claim holds where the 95 % interval of
the sum's mean over seeds (Student's t) is below 0, it fails where the interval is above 0, and
otherwise it is open.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stn_jax.analysis.intervals import Interval, mean_and_interval, weighted_sums
from stn_jax.experiments.grouping import format_settings, of_row, settings_of
from stn_jax.experiments.results import Result
from stn_jax.experiments.tables import TABLES
from stn_jax.files import atomic_write
from stn_jax.training.comparison import format_interval
from stn_jax.training.config import ConfigError

ERROR, SLOPE = "test_error_percent", "angle_slope"
BEGIN, END = "<!-- claims: written by --render -->", "<!-- end of claims -->"
_TABLE = TABLES["table1"]
_ROWS = {row.name: row for row in _TABLE.rows}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that a weighted sum of numbers of rows is below 0.

    Attributes:
      text: the claim in words.
      weights: by row of Table 1.
      key: the number, a key of the results' lines.
      constant: added to the sum.
    """

    text: str
    weights: Mapping[str, float]
    key: str = ERROR
    constant: float = 0.0

    @property
    def paper(self) -> float | None:
        """The sum of the paper's test errors; None for a claim about other numbers."""
        if self.key != ERROR:
            return None
        errors = {name: _ROWS[name].paper or np.nan for name in self.weights}
        return self.constant + sum(self.weights[name] * errors[name] for name in errors)


class Evidence(NamedTuple):
    """A claim's sum over runs that were trained in the same way.

    Attributes:
      epochs: of the trainings.
      settings: fields that differ from those of the rows.
      seeds: number of seeds that all rows have.
      interval: mean and half-width of its 95 % interval; None for the half-width of one seed.
    """

    epochs: int
    settings: tuple[tuple[str, Any], ...]
    seeds: int
    interval: Interval

    @property
    def verdict(self) -> str:
        """Whether the claim "holds", "fails" or is "open"."""
        mean, half = self.interval
        if half is None or abs(mean) <= half:
            return "open"
        return "holds" if mean < 0 else "fails"


def _ahead(task: str, first: str, second: str) -> Claim:
    """The claim that one network has a lower error than another."""
    text = f"{task}: {first} has a lower error than {second}"
    return Claim(text, {_row(task, first): 1, _row(task, second): -1})


def _close(task: str, network: str, other: str) -> Claim:
    """The claim that a network's error is closer to another one's than to the CNN's."""
    text = f"{task}: the error of {network} is closer to that of {other} than to the CNN's"
    return Claim(text, {_row(task, network): 2, _row(task, other): -1, _row(task, "CNN"): -1})


def _row(task: str, network: str) -> str:
    return f"{task}/{network}".lower()


_SL1, _C1 = "rotation/stn-sl1", "rotation/stn-c1"
CLAIMS = (
    *(_ahead("rotation", name, "CNN") for name in ("STN-C0", "STN-C1", "STN-SL1")),
    _ahead("rotation", "STN-C0", "STN-C1"),
    _ahead("rotation", "STN-SL1", "STN-C1"),
    _ahead("rotation", "STN-SL1", "STN-C0"),
    *(_ahead("translation", name, "CNN") for name in ("STN-C0", "STN-C1", "STN-SL1")),
    _ahead("translation", "STN-C0", "STN-C1"),
    _ahead("translation", "STN-SL1", "STN-C1"),
    _close("translation", "STN-C1", "STN-C0"),
    _close("translation", "STN-C1", "STN-SL1"),
    Claim("Figure 3: the slope of STN-SL1 is closer to -1 than to 0", {_SL1: 1}, SLOPE, 0.5),
    Claim("Figure 3: the slope of STN-C1 is closer to 0 than to -1", {_C1: -1}, SLOPE, -0.5),
    Claim("Figure 3: STN-SL1 has a steeper slope than STN-C1", {_SL1: 1, _C1: -1}, SLOPE),
)


def evidence(claim: Claim, results: Sequence[Result]) -> list[Evidence]:
    """What the results say of a claim, for each way in which all its rows were trained.

    Args:
      claim: the claim.
      results: see :func:`stn_jax.experiments.results.read`.

    Returns:
      Those with most epochs first, then the rows' own settings before others; empty if no seed was
      trained in the same way for all rows.
    """
    by_row = {name: _by_training(name, claim.key, results) for name in claim.weights}
    found = []
    for training in set.intersection(*(set(trainings) for trainings in by_row.values())):
        epochs, settings, *_ = training
        terms = [(weight, by_row[name][training]) for name, weight in claim.weights.items()]
        if sums := weighted_sums(terms):
            values = [claim.constant + value for value in sums]
            found.append(Evidence(epochs, settings, len(values), mean_and_interval(values)))
    return sorted(found, key=lambda each: (-each.epochs, len(each.settings), str(each.settings)))


def _by_training(
    name: str, key: str, results: Sequence[Result]
) -> dict[tuple[Any, ...], dict[int, float]]:
    """A number of a row by the way of training, then by seed: the mean over kinds of devices."""
    row = _ROWS[name]
    values: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for result in of_row(row, results, _TABLE.dataset):
        line = result.line
        if key in line:
            settings = tuple(sorted(settings_of(row, result.config).items()))
            counted = (line[what] for what in ("train_examples", "test_examples", "test_passes"))
            training = (result.config.epochs, settings, *counted)
            seeds = values.setdefault(training, {})
            seeds.setdefault(line["seed"], []).append(line[key])
    return {
        training: {seed: float(np.mean(each)) for seed, each in seeds.items()}
        for training, seeds in values.items()
    }


def markdown(results: Sequence[Result]) -> str:
    """The claims and what the results say of them, as a table."""
    lines = [["claim: below 0", "paper", "here", "n", "epochs", "verdict"]]
    for claim in CLAIMS:
        text, paper = claim.text, "" if claim.paper is None else f"{claim.paper:+.2f}"
        for each in evidence(claim, results):
            trained = f"{each.epochs}{format_settings(each.settings, ' ({})')}"
            interval = format_interval(each.interval)
            lines.append([text, paper, interval, str(each.seeds), trained, f"**{each.verdict}**"])
            text = paper = ""
        if text:
            lines.append([text, paper, "not run in the same way", "0", "", "**open**"])
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def update(path: Path, results: Sequence[Result]) -> bool:
    """Writes the table of claims between the markers of a page.

    Args:
      path: the page, a Markdown file.
      results: see :func:`stn_jax.experiments.results.read`.

    Returns:
      Whether there is such a page.

    Raises:
      ConfigError: the page has no such markers, or cannot be read or written.
    """
    try:
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ConfigError(f"{path} has no lines {BEGIN!r} and {END!r}; expected both, in order")
        with atomic_write(path) as file:
            file.write(f"{before}{BEGIN}\n\n{markdown(results)}\n{END}{after}")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    return True
