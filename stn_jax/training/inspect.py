"""What can be done with a trained network: evaluate it, try it on one's own images."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.image_files import read_digit, read_number
from stn_jax.analysis.pose import ASPECTS
from stn_jax.data.sources import Split
from stn_jax.data.tasks import make_task
from stn_jax.pretrained import describe, load_pretrained
from stn_jax.training import processes
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import (
    aligned,
    answers,
    evaluate,
    predict,
    said,
    summarise,
    to_show,
)
from stn_jax.training.run import Run
from stn_jax.training.step import Data, State
from stn_jax.training.workdir import Workdir
from stn_jax.warp import affine


def load(workdir: str | Path, folders: Mapping[str, Any] | None = None) -> tuple[Run, State]:
    """Opens a run's folder: its configuration, data and newest checkpoint.

    Args:
      workdir: the run's folder.
      folders: where to look for data in place of the configuration's: data_dir, manual_dir,
        cache_dir.

    Raises:
      ConfigError: there is no run, or no checkpoint in it.
      DataError: the data cannot be had.
    """
    config = dataclasses.replace(Config.load(workdir), **(folders or {}))
    # On the devices that are here, however many it was trained on.
    run = processes.everywhere(lambda: Run.open(config, mesh="batch"))
    with Checkpoints(Workdir(workdir).checkpoints) as checkpoints:
        like = jax.eval_shape(run.init_state)
        saved = processes.everywhere(lambda: checkpoints.restore(like))
    if saved is None:
        raise ConfigError(f"{workdir} holds no checkpoint yet; train it first with train.py")
    return run, run.put(saved.state)


def of_seed(run: Run, state: State, seed: int) -> tuple[Run, Any]:
    """One of a run's networks: as a run of its own, and its parameters, leading with [1]."""
    i = run.config.seeds.index(seed)
    params = jax.tree.map(lambda x: x[i : i + 1], state["params"])
    return dataclasses.replace(run, config=dataclasses.replace(run.config, seeds=(seed,))), params


def evaluate_workdir(workdir: str | Path) -> dict[str, Any]:
    """Evaluates the newest checkpoint; writes and returns what result.json holds."""
    run, state = load(workdir)
    folder = Workdir(workdir)
    step = int(state["step"])
    return evaluate(run, state["params"], step, folder, trained=folder.result())


def evaluate_workdir_on(workdir: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluates the newest checkpoint on another data set's test split; writes nothing.

    Args:
      workdir: the run's folder.
      settings: fields of Config in place of those of its training: ``dataset``, and where it is.

    Returns:
      What :func:`stn_jax.training.evaluation.summarise` gives.

    Raises:
      ConfigError, DataError: as :func:`load`; or the other data does not fit the network.
    """
    run, state = load(workdir)
    run, params = run.alone(), run.fetch(state["params"])
    return _summary_on(run, params, settings, str(workdir))


def evaluate_pretrained(
    name: str, settings: Mapping[str, Any] | None = None, *, folder: str | Path | None = None
) -> dict[str, Any]:
    """Evaluates a network of the package as it does a run's.

    Args:
      name: see :func:`stn_jax.load_pretrained`.
      settings: fields of Config in place of those of its training: where the data is, which it is.
      folder: of the weights; the package's own where None.

    Returns:
      What :func:`stn_jax.training.evaluation.summarise` gives.

    Raises:
      PretrainedError: it is unknown, or its file is damaged.
      ConfigError, DataError: the data cannot be had, or does not fit the network.
    """
    run, params = open_pretrained(name, settings, folder=folder)
    return summarise(run, predict(run, params))


def _summary_on(run: Run, params: Any, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Evaluates a run's networks on the test split of a configuration with other settings."""
    other = _with_data(run, settings, name)
    return summarise(other, predict(other, params))


def open_pretrained(
    name: str, settings: Mapping[str, Any] | None = None, *, folder: str | Path | None = None
) -> tuple[Run, Any]:
    """A network of the package with a data set: a run, and its parameters, leading with [1].

    Args, Raises: as :func:`evaluate_pretrained`.
    """
    bare, variables = _pretrained(name, folder)
    params = jax.tree.map(lambda x: x[None], variables["params"])
    return _with_data(bare, settings or {}, name), params


def _with_data(run: Run, settings: Mapping[str, Any], name: str) -> Run:
    """A run's networks on the data of a configuration with other settings."""
    # Of its training split nothing is trained on, however small it is.
    config = dataclasses.replace(
        run.config, **settings, holdout=0, batch_size=1, microbatch=0, mesh="batch"
    )
    other = Run.open(config, alone=True)
    fits = {
        "images": (other.seen_shape(), run.seen_shape()),
        "classes": (other.model.head.classes, run.model.head.classes),
    }
    for what, (found, expected) in fits.items():
        if found != expected:
            raise ConfigError(
                f"{config.dataset} has {what} {found}, but {name} was trained on {expected}; "
                "name a data set that fits"
            )
    # Normalised as in its training, whatever the data is.
    data = other.data._replace(mean=run.data.mean, deviation=run.data.deviation)
    return dataclasses.replace(other, data=data)


def classify_files(
    workdir: str | Path, files: Sequence[str | Path], box: Sequence[float] | None = None
) -> list[str]:
    """Classifies a user's images of digits, or of house numbers, with a run's first network.

    Draws what the network saw and what its transformer made of it to ``figures/`` in the run's
    folder.

    Args:
      workdir: the run's folder.
      files: image files, one digit in each; for task svhn one house number.
      box: where in a photograph the house number is: left, top, right, bottom in pixels.

    Returns:
      A line for each file, and one for the picture.

    Raises:
      ConfigError, DataError: as :func:`load`, for files that are not images, where the run's data
        set is neither of gray images nor of house numbers, and for a box that does not fit.
    """
    run, state = load(workdir)
    params = jax.tree.map(lambda x: x[0], state["params"])
    picture = Workdir(workdir).figures / "images.png"
    return _classify(run, params, files, picture, str(workdir), box)


def classify_files_pretrained(
    name: str,
    files: Sequence[str | Path],
    picture: str | Path,
    *,
    folder: str | Path | None = None,
) -> list[str]:
    """Classifies a user's images of digits with a network of the package; needs no data set.

    Args:
      name: see :func:`stn_jax.load_pretrained`.
      files: image files, one digit in each.
      picture: the PNG to draw what the network saw and what its transformer made of it.
      folder: of the weights; the package's own where None.

    Returns, Raises: as :func:`classify_files`, and PretrainedError as :func:`evaluate_pretrained`.
    """
    run, variables = _pretrained(name, folder)
    return _classify(run, variables["params"], files, Path(picture), name)


def _pretrained(name: str, folder: str | Path | None) -> tuple[Run, dict[str, Any]]:
    """A network of the package as a run without data: one black image stands for its shape."""
    module, variables = load_pretrained(name, folder=folder)
    known = describe(name, folder=folder)
    blank = np.zeros((1, *known["image_shape"]), np.uint8)
    mean, deviation = (jnp.asarray(known[k], jnp.float32) for k in ("mean", "deviation"))
    data = Data(jnp.asarray(blank), jnp.zeros(1, jnp.int32), mean, deviation)
    config = Config.from_stored(known["config"], name)
    task = make_task(config.task, config.recipe)
    run = Run(config, task, module, data, Split(blank, np.zeros(1, np.int32)))
    return run, variables


def _classify(
    run: Run,
    params: Any,
    files: Sequence[str | Path],
    picture: Path,
    name: str,
    box: Sequence[float] | None = None,
) -> list[str]:
    from stn_jax.analysis import figures

    if box is not None and (not run.task.positions or len(files) > 1):
        what = f"{len(files)} files" if run.task.positions else run.config.task
        raise ConfigError(f"--box goes with one photograph and a run of task svhn; here: {what}")
    images = _numbers(run, files, box) if run.task.positions else _digits(run, files, name)
    seen = (jnp.asarray(images, jnp.float32) / 255 - run.data.mean) / run.data.deviation
    logits, details = run.apply(params, seen)
    pose = run.pose(details)
    shape = run.seen_shape()[:2]
    classes, sure = (np.asarray(x) for x in answers(logits))
    lines = []
    for i, file in enumerate(files):
        line = f"{file}: {said(run, classes[i])} ({100 * sure[i]:.1f} %)"
        if pose is not None:
            line += f", turned by {float(ASPECTS['angle'].predicted(pose[i], shape)):+.0f} degrees"
            if run.task.positions:
                line += f", zoomed by {1 / float(affine.scale(pose[i])):.2f}"
        lines.append(line)
    outlines = None
    if pose is not None:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], np.float32)
        outlines = corners @ np.asarray(pose)[..., :2].mT + np.asarray(pose)[:, None, :, 2]
    figures.pictures(to_show(run, seen), aligned(run, seen, details), lines, picture, outlines)
    return [*lines, f"drawn in {picture}"]


def _digits(run: Run, files: Sequence[str | Path], name: str) -> np.ndarray:
    """Digits in the middle of what the run's network sees: uint8 ``[N, H, W, 1]``."""
    side, channels = run.data.images.shape[2:]
    if channels != 1:
        raise ConfigError(
            f"{name} was trained on images of {channels} channels ({run.config.dataset}); "
            "--image reads gray digits and house numbers: name a run on MNIST, on a data set "
            "like it, or of task svhn"
        )
    images = np.stack([read_digit(file, side) for file in files])
    margin = run.seen_shape()[0] - side
    before = margin // 2
    return np.pad(images, ((0, 0), *2 * ((before, margin - before),), (0, 0)))


def _numbers(run: Run, files: Sequence[str | Path], box: Sequence[float] | None) -> np.ndarray:
    """House numbers as the run's network sees them in the evaluation: uint8 ``[N, H, W, 3]``."""
    images = np.stack([read_number(file, box) for file in files])
    side = run.seen_shape()[0]
    start = (images.shape[1] - side) // 2
    return images[:, start : start + side, start : start + side]
