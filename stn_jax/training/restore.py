"""Restores trained networks from a run's folder or from the package, and evaluates them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.sources import DataError, Split
from stn_jax.data.tasks import make_task
from stn_jax.models import Network, Normalize, create_model
from stn_jax.pretrained import describe, load_pretrained
from stn_jax.training import processes
from stn_jax.training.assemble import assemble
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import evaluate, predict, summarize
from stn_jax.training.hooks import Hooks
from stn_jax.training.run import Run, description
from stn_jax.training.step import Data, State
from stn_jax.training.workdir import Workdir


def load_run(
    workdir: str | Path, seed: int | None = None, *, best: bool = False
) -> tuple[Network, dict[str, Any], Normalize]:
    """Loads a trained network from a run's folder, without its data set.

        model, variables, normalize = stn_jax.load_run("runs/NAME")
        logits = model.apply(variables, normalize(images))  # images in [0, 1] or uint8

    Args:
      workdir: the run's folder.
      seed: the network's seed; None: the run's first.
      best: whether to load the best state (see ``keep_best``) instead of the newest checkpoint.

    Returns:
      As :func:`stn_jax.load_pretrained`: the module, its variables, and a function that
      normalizes images ``[..., H, W, C]`` as in the network's training.

    Raises:
      ConfigError: the folder holds no run, no checkpoint or no such seed, or is damaged.
      DataError: the run was written by an earlier version, without ``network.json``, and its data
        set cannot be loaded.
    """
    run, params = load_seed(workdir, seed, best=best)
    known = {"mean": run.data.mean, "deviation": run.data.deviation}
    return run.model, {"params": params}, Normalize.of(known, run.input_shape())


def load(
    workdir: str | Path, folders: Mapping[str, Any] | None = None, *, best: bool = False
) -> tuple[Run, State]:
    """Loads a run from its folder: configuration, data and newest checkpoint.

    Args:
      workdir: the run's folder.
      folders: data_dir, manual_dir and cache_dir that override the configuration's.
      best: whether to load the best state (see ``keep_best``) instead of the newest checkpoint.

    Raises:
      ConfigError: the folder holds no run or no checkpoint.
      DataError: the data cannot be loaded.
    """
    config = dataclasses.replace(Config.load(workdir), **(folders or {}))
    # On the devices available now, however many it was trained on.
    run = processes.run_on_all(lambda: assemble(config, mesh="batch"))
    return run, run.put(processes.run_on_all(lambda: _restore(workdir, run, best)))


def _restore(workdir: str | Path, run: Run, best: bool) -> State:
    """The newest or the best state of a run, on one device."""
    folder, like = Workdir(workdir), jax.eval_shape(run.init_state)
    saved = Checkpoints(folder.best if best else folder.checkpoints).restore(like)
    if saved is None:
        if best:
            raise ConfigError(f"{workdir} has no best state; train with keep_best, and eval_every")
        raise ConfigError(f"{workdir} has no checkpoint; train it first with train.py")
    return saved.state


def select_seed(run: Run, state: State, seed: int) -> tuple[Run, Any]:
    """The network of one seed: as a run of that seed, and its parameters with leading axis [1]."""
    i = run.config.seeds.index(seed)
    params = jax.tree.map(lambda x: x[i : i + 1], state["params"])
    return dataclasses.replace(run, config=dataclasses.replace(run.config, seeds=(seed,))), params


def load_seed(
    workdir: str | Path, seed: int | None = None, *, best: bool = False
) -> tuple[Run, Any]:
    """Loads one network on one device: the run without its data, and the network's parameters.

    Args, Raises: as :func:`load_run`.
    """
    run, state = load_without_data(workdir, best=best)
    seeds = run.config.seeds
    if seed is not None and seed not in seeds:
        raise ConfigError(
            f"seed is {seed}, but the seeds of {workdir} are {', '.join(map(str, seeds))}"
        )
    run, params = select_seed(run, state, seeds[0] if seed is None else seed)
    return run, jax.tree.map(lambda x: x[0], params)


def load_without_data(workdir: str | Path, *, best: bool = False) -> tuple[Run, State]:
    """Loads a run as :func:`load` does, on one device and without its data set.

    Args, Raises: as :func:`load_run`.
    """
    config = Config.load(workdir)
    known = Workdir(workdir).network() or _description_from_data(workdir, config)
    try:
        model = create_model(config.task, config.variant, **known["model"])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{workdir}/network.json does not describe a network: {error}") from None
    run = _without_data(config, model, known)
    return run, _restore(workdir, run, best)


def _description_from_data(workdir: str | Path, config: Config) -> dict[str, Any]:
    """The description that folders of earlier versions lack, from the run's data set."""
    try:
        return description(assemble(config, single_device=True))
    except DataError as error:
        raise DataError(
            f"{workdir} was written by an earlier version, without network.json, so its data set "
            f"is needed: {error}"
        ) from None


def evaluate_workdir(workdir: str | Path, hooks: Hooks | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint; writes result.json and returns its contents.

    Args:
      workdir: the run's folder.
      hooks: see :func:`stn_jax.training.evaluation.evaluate`.
    """
    run, state = load(workdir)
    folder = Workdir(workdir)
    step = int(state["step"])
    return evaluate(run, state["params"], step, folder, trained=folder.result(), hooks=hooks)


def evaluate_workdir_on(
    workdir: str | Path, settings: Mapping[str, Any], *, best: bool = False
) -> dict[str, Any]:
    """Evaluates a checkpoint on a data set's whole test split; writes nothing.

    Args:
      workdir: the run's folder.
      settings: fields of Config that override those of the training: ``dataset`` and its folders.
      best: as for :func:`load`.

    Returns:
      The result of :func:`stn_jax.training.evaluation.summarize`.

    Raises:
      ConfigError, DataError: as :func:`load`; or the data set does not fit the network.
    """
    run, state = load_without_data(workdir, best=best)
    other = with_data(run, settings, str(workdir))
    return summarize(other, predict(other, state["params"]))


def evaluate_pretrained(
    name: str, settings: Mapping[str, Any] | None = None, *, folder: str | Path | None = None
) -> dict[str, Any]:
    """Evaluates a pretrained network of the package.

    Args:
      name: see :func:`stn_jax.load_pretrained`.
      settings: fields of Config that override those of the training: the data set and its folders.
      folder: folder of the weights; None: the package's own.

    Returns:
      The result of :func:`stn_jax.training.evaluation.summarize`.

    Raises:
      PretrainedError: the name is unknown, or the file is damaged.
      ConfigError, DataError: the data cannot be loaded, or does not fit the network.
    """
    run, params = open_pretrained(name, settings, folder=folder)
    return summarize(run, predict(run, params))


def open_pretrained(
    name: str, settings: Mapping[str, Any] | None = None, *, folder: str | Path | None = None
) -> tuple[Run, Any]:
    """A pretrained network with a data set: a run, and its parameters with leading axis [1].

    Args, Raises: as :func:`evaluate_pretrained`.
    """
    run, variables = pretrained_without_data(name, folder)
    params = jax.tree.map(lambda x: x[None], variables["params"])
    return with_data(run, settings or {}, name), params


def with_data(run: Run, settings: Mapping[str, Any], name: str, holdout: int = 0) -> Run:
    """A run on one device with the data of its configuration and other settings.

    Args:
      run: the run.
      settings: fields of Config that override those of the training: the data set and its folders.
      name: the network's name in messages.
      holdout: the number of training examples to evaluate on, the last ones; 0: the test split.

    Raises:
      ConfigError, DataError: the data cannot be loaded, or does not fit the network.
    """
    # Batches of 1, so that a training split of any size is accepted; it is not used.
    own = {"holdout": holdout, "keep_best": False, "batch_size": 1, "microbatch": 0}
    config = dataclasses.replace(run.config, **{**settings, **own, "mesh": "batch"})
    other = assemble(config, single_device=True)
    fits = {
        "images": (other.input_shape(), run.input_shape()),
        "classes": (other.model.head.classes, run.model.head.classes),
        "class names": (other.task.class_names, run.task.class_names),
    }
    for what, (found, expected) in fits.items():
        if found != expected and None not in (found, expected):
            raise ConfigError(
                f"{config.dataset} has {what} {found}, but {name} was trained on {expected}; "
                "choose a matching data set"
            )
    # Normalized with the statistics of the training data.
    data = other.data._replace(mean=run.data.mean, deviation=run.data.deviation)
    return dataclasses.replace(other, data=data)


def pretrained_without_data(
    name: str, folder: str | Path | None = None
) -> tuple[Run, dict[str, Any]]:
    """A pretrained network as a run without data."""
    module, variables, _ = load_pretrained(name, folder=folder)
    known = describe(name, folder=folder)
    return _without_data(Config.from_stored(known["config"], name), module, known), variables


def _without_data(config: Config, model: Network, known: Mapping[str, Any]) -> Run:
    """A run of a network that is given by its :func:`description`.

    Its data set is a single black image.
    """
    blank = np.zeros((1, *known["image_shape"]), np.uint8)
    mean, deviation = (jnp.asarray(known[k], jnp.float32) for k in ("mean", "deviation"))
    task = make_task(config.task, config.recipe, config.ranges)
    if "class_names" in known:
        task = dataclasses.replace(task, class_names=tuple(known["class_names"]))
    task = task.cropped(config.crop) if config.crop else task
    labels = np.zeros((1, *(() if task.positions is None else (task.positions,))), np.int32)
    data = Data(jnp.asarray(blank), jnp.asarray(labels), mean, deviation)
    return Run(config, task, model, data, Split(blank, labels))
