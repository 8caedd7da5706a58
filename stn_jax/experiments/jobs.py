"""Running a table: what is to be done, how long it may take, and doing it."""

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

# Seconds for a training step of 256 images of one network, where no earlier run tells: rough
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
    "svhn_numbers": 235_754,
    "svhn_cropped": 73_257,
    "street_numbers": 235_754,
    "street_numbers/30k": 30_000,
}


@dataclasses.dataclass(frozen=True)
class Job:
    """Seeds of one row that are trained as one program."""

    row: Row
    config: Config

    def __str__(self) -> str:
        seeds = ", ".join(map(str, self.config.seeds))
        plural = "s" if len(self.config.seeds) > 1 else ""
        return f"{self.row.name}, seed{plural} {seeds}"

    def workdir(self, root: str | Path) -> Path:
        """The job's folder. A job of another configuration has another one."""
        digest = hashlib.sha256(json.dumps(identity(self.config)).encode()).hexdigest()
        seeds = "-".join(map(str, self.config.seeds))
        return Path(root) / self.row.name / f"{self.config.epochs}-epochs-seed-{seeds}-{digest[:8]}"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How long a job takes, and whether that is from earlier runs or a guess."""

    seconds: float
    measured: bool

    def __str__(self) -> str:
        words = f"{self.seconds:.0f} s"
        if self.seconds >= 90:
            words = f"{self.seconds / 60:.0f} min"
        if self.seconds >= 5400:
            words = f"{self.seconds / 3600:.1f} h"
        return f"about {words}" if self.measured else f"some {words} (a guess)"


def plan(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    done: Sequence[Result],
    together: int,
) -> list[Job]:
    """What is still to be trained.

    Args:
      rows: of the table.
      settings: fields of Config beside the rows' own.
      seeds: wanted of each row.
      done: earlier results; what is in them is not trained again.
      together: at most so many seeds of a row are trained as one program.

    Returns:
      Jobs, the first seeds of all rows before the next ones, so that a table fills evenly.
    """
    by_row = []
    for row in rows:
        config = row.config({**settings, "seeds": tuple(seeds)})
        left = missing(config, done)
        chunks = [tuple(left[i : i + together]) for i in range(0, len(left), together)]
        by_row.append([Job(row, dataclasses.replace(config, seeds=chunk)) for chunk in chunks])
    rounds = itertools.zip_longest(*by_row)
    return [job for jobs in rounds for job in jobs if job is not None]


def missing(config: Config, done: Sequence[Result]) -> list[int]:
    """Those of a configuration's seeds that have no result yet."""
    return [
        seed
        for seed in config.seeds
        if not results.of(dataclasses.replace(config, seeds=(seed,)), done)
    ]


def seeds_per_program() -> int:
    """How many seeds to train as one program where nobody says.

    On CPU one: a convolution mapped over seeds becomes a grouped one, which is slow there. On
    accelerators all: one network of this size leaves them mostly idle.
    """
    return 1 if jax.default_backend() == "cpu" else 2**31


def estimate(job: Job, earlier: Sequence[Result]) -> Estimate:
    """How long a job takes from its start, by earlier runs of the same kind or else by a guess."""
    config = job.config
    here = {**environment(), "devices": math.prod(mesh_shape(config))}

    def alike(result: Result) -> bool:
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
    rates = [result.line["images_per_second"] for result in earlier if alike(result)]
    if rates:
        return Estimate(images / float(np.median(rates)), measured=True)
    platform = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    seconds = GUESS[platform][config.task] * min(config.width, 1)
    return Estimate(images / 256 * seconds, measured=False)


def run(
    jobs: Sequence[Job],
    root: str | Path,
    folder: str | Path,
    table: str,
    say: Callable[[str], None],
) -> None:
    """Trains and evaluates jobs one after the other and appends their results.

    A job that was begun is continued. One that another process is at is left to it, and one whose
    results are there by the time of its turn is skipped: the same command may run several times
    side by side. Several processes that were joined train each job together; the first reads,
    writes and says.

    Args:
      jobs: see :func:`plan`.
      root: folder of the workdirs.
      folder: folder of the results.
      table: name of the results' file in it.
      say: called with what goes on.

    Raises:
      ConfigError, DataError: at the first job that cannot run at all.
      TrainingError: jobs failed in training; raised once the others are done.
    """
    failures = []
    for number, job in enumerate(jobs, 1):
        title = f"[{number} of {len(jobs)}] {job}"
        try:
            _run_job(job, title, root, Path(folder) / f"{table}.jsonl", say)
        except TrainingError as error:
            failures.append(f"{job}: {error}")
            say(f"failed: {error}")
    if failures:
        raise TrainingError(f"{len(failures)} of {len(jobs)} failed; {'; '.join(failures)}")


def _run_job(
    job: Job, title: str, root: str | Path, path: Path, say: Callable[[str], None]
) -> None:
    """Trains a job, unless it is done by now or another process is at it."""
    workdir = job.workdir(root)
    folder = Workdir(workdir)
    with contextlib.ExitStack() as stack:

        def begin() -> int:
            try:
                stack.enter_context(folder.lock())
            except WorkdirBusyError:
                say(f"{title}: another process is at it, in {workdir}")
                return False
            done = results.read(path.parent, quiet=True)
            if not missing(job.config, done):
                say(f"{title}: done by now")
                return False
            say(f"{title}: {estimate(job, done)} from its start, in {workdir}")
            return True

        if not processes.run_on_primary(begin):
            return
        result = train(job.config, folder)

        def append() -> int:
            results.append(path, results.lines_of(job.row.name, workdir, root, result))
            return 0

        processes.run_on_primary(append)


def test_also(
    wanted: Sequence[Result],
    dataset: str,
    folders: Mapping[str, Any],
    root: str | Path,
    path: Path,
    say: Callable[[str], None],
) -> None:
    """Tests networks, trained on one data set, on another one too, and appends their results anew.

    A result that has it already is left alone, and so is one whose workdir is not here, which is
    said.

    Args:
      wanted: results of finished runs.
      dataset: whose test split they are tested on.
      folders: where it is: data_dir, manual_dir, cache_dir.
      root: folder of the workdirs.
      path: the results' file.
      say: called with what goes on.

    Raises:
      ConfigError, DataError: the data cannot be had or does not fit.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for result in wanted:
        line, seed = result.line, result.config.seeds[0]
        if dataset in line.get("also_tested", {}):
            continue
        workdir, title = Path(root, line.get("workdir", "?")), f"{line['row']}, seed {seed}"
        if not processes.run_on_primary(functools.partial(_is_finished, workdir)):
            say(f"{title}: not tested on {dataset}, its folder {workdir} is not here")
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
        say(f"{title}: {found['test_error_percent']:.2f} % on {dataset}")


def _is_finished(workdir: Path) -> bool:
    return Workdir(workdir).result() is not None


def measure_poses(
    wanted: Sequence[Result], settings: Mapping[str, Any], path: Path, say: Callable[[str], None]
) -> None:
    """Reads the poses of networks whose weights come with the package, and appends results anew.

    Results keep all that they have, their test error too; what they say of poses is of the weights
    as they are stored: ``poses_of`` says which, and over how many passes. Others are left alone.

    Args:
      wanted: results of finished runs.
      settings: fields of Config: where the data is, test_passes.
      path: the results' file.
      say: called with what goes on.

    Raises:
      ConfigError, DataError: the data cannot be had, or other settings are given.
    """
    if other := sorted(set(settings) - {*Config.FOLDER_FIELDS, "test_passes"}):
        raise ConfigError(f"--pretrained: {other[0]} is that of the weights, which are as they are")
    configs = {name: pretrained.describe(name)["config"] for name in pretrained.available()}
    names = {identity(Config.from_stored(config)): name for name, config in configs.items()}
    for result in wanted:
        name = names.get(identity(result.config))
        if name is None or result.config.variant == "cnn":
            continue
        summary = evaluate_pretrained(name, settings)
        found = {key: summary[key][0] for key in results.OF_POSES if key in summary}
        origin = {"weights": name, "test_passes": summary["test_passes"], **environment()}
        results.append(path, [{**result.line, **found, "poses_of": origin}])
        values = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
        say(f"{result.line['row']}, seed {result.config.seeds[0]}, as stored: {values}")
