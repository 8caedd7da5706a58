"""Results as Markdown. Every number comes from a line of the results; none is typed in."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax.analysis.intervals import mean_and_interval
from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data.sources import is_synthetic
from stn_jax.experiments.grouping import format_settings, grouped, of_row, settings_of
from stn_jax.experiments.results import Result
from stn_jax.experiments.tables import TABLES, Row, Table
from stn_jax.files import atomic_write
from stn_jax.training.config import ConfigError

HEADER = """\
# Results

Written by `python -m stn_jax.experiments table1 --render` from the lines of `{folder}/`; do not
edit. A test error is the mean over several passes over the test set, each with new distortions;
ours is the mean over n seeds, with the half-width of its 95 % interval (Student's t). Slope: of the
predicted against the applied pose, by orthogonal regression: angles of rotated digits, translations
of translated ones (x, then y, each with its own intercept), scales (base-2 logarithms) of scaled
ones. Within-class RMS (the paper's "std"): the root mean square deviation of aligned digits' poses
from their class's mean; within-digit RMS: the same for a single digit under different distortions,
which excludes differences between the digits of a class. A perfect aligner has slope -1 and a
within-digit RMS of 0. Digits rotated over the full circle have no slope; their RMS is along the
circle (104 degrees without any alignment). Window: the side of the transformer's sampling window as
a fraction of the image's, median. Digits: the percentage of wrong predictions among a house
number's five positions, "no digit" included.
"""


_OTHER_DATA = """\
# The same on {dataset}{kind}

Not to be compared with the tables above.
"""


def write(path: Path, results: Sequence[Result], folder: str | Path) -> None:
    """Writes all tables to a Markdown file.

    Args:
      path: the file.
      results: see :func:`stn_jax.experiments.results.read`.
      folder: folder of the results, as named in the file.

    Raises:
      ConfigError: the file cannot be written.
    """
    parts = [HEADER.format(folder=folder)]
    for table in TABLES.values():
        rendered = markdown(table, results, table.dataset)
        parts.append(f"## {table.title}\n\n{table.about}\n\n{rendered}")
    for dataset in sorted({r.config.dataset for r in results}):
        tables = [
            f"## {table.title}\n\n{markdown(table, results, dataset)}"
            for table in TABLES.values()
            if dataset != table.dataset and any(of_row(row, results, dataset) for row in table.rows)
        ]
        if tables:
            parts.append(_OTHER_DATA.format(dataset=dataset, kind=_kind(dataset)))
            parts += tables
    try:
        with atomic_write(path) as file:
            file.write("\n".join(parts))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _kind(dataset: str) -> str:
    return " (synthetic images)" if is_synthetic(dataset) else ""


def markdown(table: Table, results: Sequence[Result], dataset: str) -> str:
    """A table of the results on one data set, followed by their provenance.

    A row has a line for each way it was trained (epochs, device, other settings); on the paper's
    data set, a row that was not trained has a line that says so.
    """
    by_row = {row.name: of_row(row, results, dataset) for row in table.rows}
    used = [result for found in by_row.values() for result in found]
    # Settings common to all rows go below the table.
    settings = [settings_of(row, r.config) for row in table.rows for r in by_row[row.name]]
    first = settings[0] if settings else {}
    shared = [(k, v) for k, v in first.items() if all(each.get(k) == v for each in settings)]
    lines: list[dict[str, str]] = []
    for row in table.rows:
        groups = grouped(by_row[row.name])
        as_paper = dataset == table.dataset
        for group in groups:
            line = _line(row, group, as_paper, is_synthetic(dataset))
            settings_here = settings_of(row, group[0].config).items()
            own = [each for each in settings_here if each not in shared]
            line["network"] += format_settings(own, " ({})")
            lines.append(line)
        if not groups and as_paper:
            lines.append({"network": row.name, "paper": _percent(row.paper), "ours": "not run"})
    columns = [name for name in _COLUMNS if any(line.get(name) for line in lines)]
    text = [columns, ["---"] * len(columns)]
    text += [[line.get(name, "") for name in columns] for line in lines]
    rendered = "".join(f"| {' | '.join(cells)} |\n" for cells in text)
    common = format_settings(shared, "All with {}. ")
    return rendered + (f"\n{common}{_provenance(used)}\n" if used else "")


_COLUMNS = (
    *("network", "paper", "paper (real images)", "ours", "ours (synthetic)", "digits"),
    *("on other data", "n", "epochs", "slope", "within-class RMS", "within-digit RMS", "window"),
    *("training", "device"),
)
_RMS_COLUMNS = ("within-class RMS", "within-digit RMS")


def _line(row: Row, group: Sequence[Result], as_paper: bool, synthetic: bool) -> dict[str, str]:
    first, lines = group[0], [result.line for result in group]
    line = {
        "network": row.name,
        "paper": _percent(row.paper) if as_paper else "",
        "paper (real images)": _percent(row.paper) if synthetic else "",
        "ours (synthetic)" if synthetic else "ours": (
            f"**{_mean(line['test_error_percent'] for line in lines)} %**"
        ),
        "on other data": _also(lines),
        "n": str(len(group)),
        "epochs": str(first.config.epochs),
        "training": _training(lines),
        "device": first.device,
    }
    if all("position_error_percent" in each for each in lines):
        line["digits"] = _mean(each["position_error_percent"] for each in lines) + " %"
    if all("window_share" in each for each in lines):
        line["window"] = _mean(each["window_share"] for each in lines)
    for component in POSE_COMPONENTS.values():
        slopes = component.slope_keys
        if slopes and all(slope in each for each in lines for slope in slopes):
            means = [_mean(each[slope] for each in lines) for slope in slopes]
            line["slope"] = ", ".join(means)
        for column, key in zip(_RMS_COLUMNS, component.rms_keys, strict=True):
            if all(key in each for each in lines):
                mean = _mean((each[key] for each in lines), component.decimals)
                line[column] = mean + component.symbol
    return line


def _also(lines: Sequence[dict[str, Any]]) -> str:
    """Errors on other test splits: "48.44 % of 128 real test images (svhn_numbers/custom)"."""
    shared = set.intersection(*(set(line.get("also_tested", {})) for line in lines))
    texts = []
    for name in sorted(shared):
        found = [line["also_tested"][name] for line in lines]
        counts = ", ".join(sorted({f"{each['test_examples']:,}" for each in found}))
        error = _mean(each["test_error_percent"] for each in found)
        kind = "synthetic" if is_synthetic(name) else "real"
        texts.append(f"{error} % of {counts} {kind} test images ({name})")
    return ", ".join(texts)


def _training(lines: Sequence[dict[str, Any]]) -> str:
    """Duration of a training: "29 min", or "12 min for 3" for several seeds in one program."""
    by_count: dict[int, list[float]] = {}
    for line in lines:
        by_count.setdefault(len(line["trained_together"]), []).append(line["seconds"])
    times = []
    for count, seconds in sorted(by_count.items()):
        time = float(np.median(seconds))
        words = f"{time / 60:.0f} min" if time >= 120 else f"{time:.0f} s"
        times.append(words if count == 1 else f"{words} for {count}")
    return ", ".join(times)


def _provenance(results: Sequence[Result]) -> str:
    lines = [result.line for result in results]
    evaluations = {
        f"Trained on {line['train_examples']:,} examples; passes over the "
        f"{line['evaluated_on']} of {line['test_examples']:,}: {line['test_passes']}."
        for line in lines
    }
    versions = {
        "jax {jax}, jaxlib {jaxlib}, flax {flax}, optax {optax}, Python {python}".format(
            **line["versions"]
        )
        for line in lines
    }
    commits = {line["commit"] or "unknown" for line in lines}
    return (
        f"{' '.join(sorted(evaluations))} Made with {'; '.join(sorted(versions))}; "
        f"commit {', '.join(sorted(commits))}."
    )


def _mean(values: Iterable[float], digits: int = 2) -> str:
    mean, interval = mean_and_interval(list(values))
    text = f"{mean:.{digits}f}"
    return text if interval is None else f"{text} ± {interval:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"
