"""Trained networks opened again, from a run's folder or from the package, and evaluated."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.data.sources import Split
from stn_jax.data.tasks import make_task
from stn_jax.pretrained import describe, load_pretrained
from stn_jax.training import processes
from stn_jax.training.assemble import assemble
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import evaluate, predict, summarize
from stn_jax.training.hooks import Hooks
from stn_jax.training.run import Run
from stn_jax.training.step import Data, State
from stn_jax.training.workdir import Workdir


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
    run = processes.run_on_all(lambda: assemble(config, mesh="batch"))
    checkpoints, like = Checkpoints(Workdir(workdir).checkpoints), jax.eval_shape(run.init_state)
    saved = processes.run_on_all(lambda: checkpoints.restore(like))
    if saved is None:
        raise ConfigError(f"{workdir} holds no checkpoint yet; train it first with train.py")
    return run, run.put(saved.state)


def of_seed(run: Run, state: State, seed: int) -> tuple[Run, Any]:
    """One of a run's networks: as a run of its own, and its parameters, leading with [1]."""
    i = run.config.seeds.index(seed)
    params = jax.tree.map(lambda x: x[i : i + 1], state["params"])
    return dataclasses.replace(run, config=dataclasses.replace(run.config, seeds=(seed,))), params


def load_seed(workdir: str | Path, seed: int | None = None) -> tuple[Run, Any]:
    """One network of a run, on one device: the run, and the network's own parameters.

    Args:
      workdir: the run's folder.
      seed: which network; the run's first where None.

    Raises:
      ConfigError: as :func:`load`, or the run has no such seed.
      DataError: as :func:`load`.
    """
    run, state = load(workdir)
    seeds = run.config.seeds
    if seed is not None and seed not in seeds:
        raise ConfigError(
            f"seed is {seed}, but {workdir} has networks of seeds {', '.join(map(str, seeds))}"
        )
    run, state = run.alone(), run.fetch(state)
    run, params = of_seed(run, state, seeds[0] if seed is None else seed)
    return run, jax.tree.map(lambda x: x[0], params)


def evaluate_workdir(workdir: str | Path, hooks: Hooks | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint; writes and returns what result.json holds.

    Args:
      workdir: the run's folder.
      hooks: see :func:`stn_jax.training.evaluation.evaluate`.
    """
    run, state = load(workdir)
    folder = Workdir(workdir)
    step = int(state["step"])
    return evaluate(run, state["params"], step, folder, trained=folder.result(), hooks=hooks)


def evaluate_workdir_on(workdir: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluates the newest checkpoint on another data set's test split; writes nothing.

    Args:
      workdir: the run's folder.
      settings: fields of Config in place of those of its training: ``dataset``, and where it is.

    Returns:
      What :func:`stn_jax.training.evaluation.summarize` gives.

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
      What :func:`stn_jax.training.evaluation.summarize` gives.

    Raises:
      PretrainedError: it is unknown, or its file is damaged.
      ConfigError, DataError: the data cannot be had, or does not fit the network.
    """
    run, params = open_pretrained(name, settings, folder=folder)
    return summarize(run, predict(run, params))


def _summary_on(run: Run, params: Any, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Evaluates a run's networks on the test split of a configuration with other settings."""
    other = _with_data(run, settings, name)
    return summarize(other, predict(other, params))


def open_pretrained(
    name: str, settings: Mapping[str, Any] | None = None, *, folder: str | Path | None = None
) -> tuple[Run, Any]:
    """A network of the package with a data set: a run, and its parameters, leading with [1].

    Args, Raises: as :func:`evaluate_pretrained`.
    """
    bare, variables = pretrained_alone(name, folder)
    params = jax.tree.map(lambda x: x[None], variables["params"])
    return _with_data(bare, settings or {}, name), params


def _with_data(run: Run, settings: Mapping[str, Any], name: str) -> Run:
    """A run's networks on the data of a configuration with other settings."""
    # Of its training split nothing is trained on, however small it is.
    config = dataclasses.replace(
        run.config, **settings, holdout=0, batch_size=1, microbatch=0, mesh="batch"
    )
    other = assemble(config, alone=True)
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


def pretrained_alone(name: str, folder: str | Path | None = None) -> tuple[Run, dict[str, Any]]:
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
