"""Compares trained networks on the same images, with paired confidence intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stn_jax.analysis.intervals import Interval, mean_and_interval, weighted_sums
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import predict, summarize
from stn_jax.training.restore import load_without_data, with_data


class Compared(NamedTuple):
    """The test result of a run, and its difference from the first of the compared runs.

    Attributes:
      name: the run's folder.
      config: its configuration.
      evaluated_on: the test set, or held-out training examples.
      summary: see :func:`stn_jax.training.evaluation.summarize`.
      over_images: the difference of the test errors in percentage points, below 0 where this run is
        better, and the half-width of its 95 % interval over images; None for the first run.
      over_seeds: the same over the seeds that both runs have; None if these are fewer than two.
    """

    name: str
    config: Config
    evaluated_on: str
    summary: dict[str, Any]
    over_images: Interval | None = None
    over_seeds: Interval | None = None


def compare(
    workdirs: Sequence[str | Path], settings: Mapping[str, Any] | None = None
) -> list[Compared]:
    """Evaluates runs on the same images and compares each with the first.

    Runs that held out training examples are compared on these, unless ``settings`` name a data set:
    then all are compared on its test split.

    For each image, the fraction of a run's networks and passes (``test_passes``) that are wrong is
    compared. The intervals are Student's, of the paired differences.

    Args:
      workdirs: the runs' folders, two or more.
      settings: fields of Config that override those of the trainings: ``dataset`` and its folders.

    Raises:
      ConfigError: there are fewer than two folders, one holds no run, or their images differ.
      DataError: the data cannot be loaded.
    """
    if len(workdirs) < 2:
        raise ConfigError(f"compare was given {len(workdirs)} folder(s); expected two or more")
    compared: list[Compared] = []
    baseline: tuple[Sequence[int], np.ndarray, np.ndarray] | None = None
    for workdir in workdirs:
        run, state = load_without_data(workdir)
        holdout = 0 if "dataset" in (settings or {}) else run.config.holdout
        run = with_data(run, settings or {}, str(workdir), holdout)
        predictions = predict(run, state["params"])
        seeds, wrong, labels = run.config.seeds, predictions.wrong, predictions.labels
        on, summary = run.config.evaluated_on, summarize(run, predictions)
        found = Compared(str(workdir), Config.load(workdir), on, summary)
        if baseline is None:
            baseline = seeds, wrong, labels
        elif not np.array_equal(labels, baseline[2]):
            raise ConfigError(
                f"{workdir} is evaluated on other images ({run.config.dataset}, {on}) than "
                f"{workdirs[0]} ({compared[0].config.dataset}, {compared[0].evaluated_on}); name "
                "one data set for all, with --dataset"
            )
        else:
            found = found._replace(
                over_images=_over_images(wrong, baseline[1]),
                over_seeds=_over_seeds(seeds, wrong, baseline[0], baseline[1]),
            )
        compared.append(found)
    return compared


def _over_images(wrong: np.ndarray, first: np.ndarray) -> Interval:
    """The difference of the errors of two runs ``[seeds, passes, N]``, paired by image."""
    return mean_and_interval((100 * (wrong.mean((0, 1)) - first.mean((0, 1)))).tolist())


def _over_seeds(
    seeds: Sequence[int], wrong: np.ndarray, first_seeds: Sequence[int], first: np.ndarray
) -> Interval | None:
    """The same, paired by seed."""
    percent = 100 * wrong.mean((1, 2)), 100 * first.mean((1, 2))
    own, others = (
        dict(zip(each, values.tolist(), strict=True))
        for each, values in zip((seeds, first_seeds), percent, strict=True)
    )
    differences = weighted_sums([(1, own), (-1, others)])
    return mean_and_interval(differences) if len(differences) > 1 else None


def different_fields(compared: Sequence[Compared]) -> dict[str, list[Any]]:
    """The fields that affect results and differ between runs, with the values of each run."""
    fields = [each.config.to_json() for each in compared]
    return {
        name: [each[name] for each in fields]
        for name in fields[0]
        if name not in Config.RUNTIME_FIELDS - {"test_passes"}
        and any(each[name] != fields[0][name] for each in fields)
    }


def format_interval(interval: Interval | None) -> str:
    """A difference with its interval as text: "-0.52 ± 0.31"."""
    if interval is None:
        return "-"
    mean, half = interval
    return f"{mean:+.2f}" + ("" if half is None else f" \N{PLUS-MINUS SIGN} {half:.2f}")


def table(compared: Sequence[Compared]) -> list[list[str]]:
    """A table of a comparison: the header and a row for each run, as texts."""
    rows = [["run", "error (%)", "seeds", "difference, over images", "over seeds"]]
    for each in compared:
        error = format_interval((each.summary["mean"], each.summary["ci95"])).lstrip("+")
        seeds = ", ".join(map(str, each.config.seeds))
        differences = (format_interval(each.over_images), format_interval(each.over_seeds))
        rows.append([each.name, error, seeds, *differences])
    return rows
