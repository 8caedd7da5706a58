"""Runs a table's trainings: planning, time estimates, execution."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stn_jax import pretrained
from stn_jax.experiments import results
from stn_jax.experiments.results import Result, identity
from stn_jax.experiments.tables import NETWORK, Row
from stn_jax.training import TrainingError, processes, train
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.placement import mesh_shape
from stn_jax.training.provenance import environment
from stn_jax.training.restore import evaluate_pretrained, evaluate_workdir_on
from stn_jax.training.workdir import Workdir, WorkdirBusyError

# Seconds for a training step of 256 images and one network, if there are no earlier runs: rough
# figures for two CPU cores, and for any accelerator.
GUESS = {
    "cpu": {
        "rotated_mnist": 0.1,
        "translated_mnist": 1.0,
        "scaled_mnist": 4.0,
        "svhn": 12.0,
        "svhn_cropped": 3.0,
    },
    "accelerator": {
        "rotated_mnist": 0.005,
        "translated_mnist": 0.01,
        "scaled_mnist": 0.05,
        "svhn": 0.03,
        "svhn_cropped": 0.01,
    },
}
TRAIN_IMAGES = {
    "mnist": 60_000,
    "mnist_sample": 10_000,
    "mnist_rot": 12_000,
    "svhn_numbers": 235_754,
    "svhn_cropped": 73_257,
    "street_numbers": 235_754,
    "street_numbers/30k": 30_000,
}


@dataclasses.dataclass(frozen=True)
class Job:
    """Seeds of one row that are trained in one program."""

    row: Row
    config: Config

    def __str__(self) -> str:
        seeds = ", ".join(map(str, self.config.seeds))
        plural = "s" if len(self.config.seeds) > 1 else ""
        return f"{self.row.name}, seed{plural} {seeds}"

    def workdir(self, root: str | Path) -> Path:
        """The job's folder, which is different for each configuration.

        One that has begun with an earlier version is found by its configuration: the names that
        versions give it differ, since configurations have had fewer fields.
        """
        own = identity(self.config)
        seeds = "-".join(map(str, self.config.seeds))
        name = f"{self.config.epochs}-epochs-seed-{seeds}-"
        folder = Path(root) / self.row.name
        usual = folder / (name + hashlib.sha256(json.dumps(own).encode()).hexdigest()[:8])
        earlier = () if usual.exists() else sorted(folder.glob(f"{name}*/config.json"))
        for path in earlier:
            with contextlib.suppress(ConfigError):
                if identity(Config.load(path.parent)) == own:
                    return path.parent
        return usual


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A job's duration, measured in earlier runs or guessed."""

    seconds: float
    measured: bool

    def __str__(self) -> str:
        words = f"{self.seconds:.0f} s"
        if self.seconds >= 90:
            words = f"{self.seconds / 60:.0f} min"
        if self.seconds >= 5400:
            words = f"{self.seconds / 3600:.1f} h"
        return f"about {words}" if self.measured else f"roughly {words} (a guess)"


def plan(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    done: Sequence[Result],
    seeds_per_program: int,
) -> list[Job]:
    """The jobs that are still to be run.

    Args:
      rows: rows of the table.
      settings: fields of Config that override the rows' defaults.
      seeds: the seeds to train for each row.
      done: earlier results, which are not trained again.
      seeds_per_program: how many seeds of a row are trained in one program at most.

    Returns:
      Jobs, the first seeds of all rows before the next ones, so that a table fills evenly.
    """
    by_row = []
    for row in rows:
        config = row.config({**settings, "seeds": tuple(seeds)})
        left = missing(config, done)
        size = seeds_per_program
        chunks = [tuple(left[i : i + size]) for i in range(0, len(left), size)]
        by_row.append([Job(row, dataclasses.replace(config, seeds=chunk)) for chunk in chunks])
    rounds = itertools.zip_longest(*by_row)
    return [job for jobs in rounds for job in jobs if job is not None]


def missing(config: Config, done: Sequence[Result]) -> list[int]:
    """The seeds of a configuration that have no result yet."""
    return [
        seed
        for seed in config.seeds
        if not results.of(dataclasses.replace(config, seeds=(seed,)), done)
    ]


def default_seeds_per_program() -> int:
    """How many seeds to train in one program by default.

    On CPU one: a convolution mapped over seeds becomes a grouped one, which is slow there. On
    accelerators all: a single network of this size does not keep them busy.
    """
    return 1 if jax.default_backend() == "cpu" else 2**31


def estimate(job: Job, earlier: Sequence[Result]) -> Estimate:
    """Estimates a job's duration from its start, from similar earlier runs or by a guess."""
    config = job.config
    here = {**environment(), "devices": math.prod(mesh_shape(config))}

    def is_similar(result: Result) -> bool:
        fields = (*NETWORK, "width", "compute_dtype", "batch_size")
        return (
            all(getattr(result.config, name) == getattr(config, name) for name in fields)
            and all(result.line[name] == here[name] for name in ("device", "devices"))
            and len(result.line["trained_together"]) == len(config.seeds)
            and bool(result.line["images_per_second"])
        )

    counts = {r.config.dataset: r.line["train_examples"] + r.config.holdout for r in earlier}
    count = (TRAIN_IMAGES | counts).get(config.dataset, TRAIN_IMAGES["mnist"]) - config.holdout
    images = count // config.batch_size * config.batch_size * config.epochs * len(config.seeds)
    rates = [result.line["images_per_second"] for result in earlier if is_similar(result)]
    if rates:
        return Estimate(images / float(np.median(rates)), measured=True)
    platform = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    seconds = GUESS[platform][config.task] * min(config.width, 1)
    return Estimate(images / 256 * seconds, measured=False)


def summary(jobs: Sequence[Job], wanted: int, earlier: Sequence[Result]) -> str:
    """How many runs are done, how many are left, and how long these take."""
    left = sum(len(job.config.seeds) for job in jobs)
    text = f"{wanted - left} of {wanted} runs are done; to train: {left}"
    times = [estimate(job, earlier) for job in jobs]
    total = Estimate(sum(t.seconds for t in times), all(t.measured for t in times))
    return f"{text}, {total}" if jobs else text


def run(
    jobs: Sequence[Job],
    root: str | Path,
    path: Path,
    report: Callable[[str], None],
    finished: Callable[[Job], None] = lambda job: None,
) -> None:
    """Trains and evaluates jobs in sequence and appends their results.

    Interrupted jobs are resumed. Jobs that another process is running, or has finished in the
    meantime, are skipped: the same command may run several times in parallel. With several joined
    processes all of them train each job; only the primary one reads and writes files and reports.

    Args:
      jobs: see :func:`plan`.
      root: folder of the workdirs.
      path: the results' file.
      report: called with progress messages.
      finished: called with each job that was trained here, once its results are stored.

    Raises:
      ConfigError, DataError: at the first job that cannot run.
      TrainingError: training failed in some jobs; raised once the others are done.
    """
    failures = []
    for number, job in enumerate(jobs, 1):
        title = f"[{number} of {len(jobs)}] {job}"
        try:
            if _run_job(job, title, root, path, report):
                finished(job)
        except TrainingError as error:
            failures.append(f"{job}: {error}")
            report(f"failed: {error}")
    if failures:
        raise TrainingError(f"{len(failures)} of {len(jobs)} failed; {'; '.join(failures)}")


def _run_job(
    job: Job, title: str, root: str | Path, path: Path, report: Callable[[str], None]
) -> bool:
    """Trains a job, unless another process has finished it or is running it; whether it did."""
    workdir = job.workdir(root)
    folder = Workdir(workdir)
    with contextlib.ExitStack() as stack:

        def begin() -> int:
            try:
                stack.enter_context(folder.lock())
            except WorkdirBusyError:
                report(f"{title}: already running in another process, in {workdir}")
                return False
            done = results.read(path.parent, quiet=True)
            if not missing(job.config, done):
                report(f"{title}: finished in the meantime")
                return False
            results.check_writable(path)
            report(f"{title}: {estimate(job, done)} from its start, in {workdir}")
            return True

        if not processes.run_on_primary(begin):
            return False
        result = train(job.config, folder)

        def append() -> int:
            results.append(path, results.lines_of(job.row.name, workdir, root, result))
            return 0

        processes.run_on_primary(append)
    return True


def test_also(
    wanted: Sequence[Result],
    dataset: str,
    folders: Mapping[str, Any],
    root: str | Path,
    path: Path,
    report: Callable[[str], None],
) -> None:
    """Evaluates trained networks on another data set too, and appends the extended results.

    Skips results that include that data set already, and those whose workdir does not exist.

    Args:
      wanted: results of finished runs.
      dataset: the data set whose test split is used.
      folders: its data_dir, manual_dir and cache_dir.
      root: folder of the workdirs.
      path: the results' file.
      report: called with progress messages.

    Raises:
      ConfigError, DataError: the data cannot be loaded, or does not fit the network.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for result in wanted:
        line, seed = result.line, result.config.seeds[0]
        if dataset in line.get("also_tested", {}):
            continue
        workdir, title = Path(root, line.get("workdir", "?")), f"{line['row']}, seed {seed}"
        if not processes.run_on_primary(functools.partial(_is_finished, workdir)):
            report(f"{title}: not tested on {dataset}, its folder {workdir} does not exist")
            continue
        if workdir not in summaries:
            summaries[workdir] = evaluate_workdir_on(workdir, {"dataset": dataset, **folders})
        summary, i = summaries[workdir], line["trained_together"].index(seed)
        found = {
            name: values[i]
            for name, values in summary.items()
            if name in ("test_error_percent", "position_error_percent")
        } | {"test_examples": summary["test_examples"]}
        also = {**line.get("also_tested", {}), dataset: found}
        if processes.is_primary():
            results.append(path, [{**line, "also_tested": also}])
        report(f"{title}: {found['test_error_percent']:.2f} % on {dataset}")


def _is_finished(workdir: Path) -> bool:
    return Workdir(workdir).result() is not None


def measure_poses(
    wanted: Sequence[Result],
    settings: Mapping[str, Any],
    path: Path,
    report: Callable[[str], None],
) -> None:
    """Measures the poses of networks whose weights come with the package; appends the results.

    The results keep everything else, including the test error; the new ``poses_of`` says which
    weights were measured, and over how many passes. Results without such weights are skipped.

    Args:
      wanted: results of finished runs.
      settings: fields of Config: data folders, test_passes.
      path: the results' file.
      report: called with progress messages.

    Raises:
      ConfigError, DataError: the data cannot be loaded, or other settings are given.
    """
    if other := sorted(set(settings) - {*Config.FOLDER_FIELDS, "test_passes"}):
        raise ConfigError(f"with --pretrained, {other[0]} is given by the weights; do not set it")
    configs = {name: pretrained.describe(name)["config"] for name in pretrained.available()}
    names = {identity(Config.from_stored(config)): name for name, config in configs.items()}
    for result in wanted:
        name = names.get(identity(result.config))
        if name is None or result.config.variant == "cnn":
            continue
        summary = evaluate_pretrained(name, settings)
        found = {key: summary[key][0] for key in results.POSE_KEYS if key in summary}
        origin = {"weights": name, "test_passes": summary["test_passes"], **environment()}
        results.append(path, [{**result.line, **found, "poses_of": origin}])
        values = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
        title = f"{result.line['row']}, seed {result.config.seeds[0]}"
        report(f"{title}, with stored weights: {values}")
