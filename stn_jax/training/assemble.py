"""Builds a run from a configuration: data, task, network and device placement."""

import jax
import jax.numpy as jnp

from stn_jax.data import sources
from stn_jax.data.tasks import Task, make_task
from stn_jax.models import create_model
from stn_jax.training.config import MAX_COUNT, Config, ConfigError
from stn_jax.training.placement import Placement
from stn_jax.training.run import Run, model_options
from stn_jax.training.step import Data


def assemble(config: Config, *, mesh: str | None = None, single_device: bool = False) -> Run:
    """Loads the data (see :func:`stn_jax.data.sources.load`) and builds the network.

    Args:
      config: the run's configuration.
      mesh: overrides the configuration's mesh.
      single_device: use one device in every process, whatever the configuration says.

    Raises:
      ConfigError: the configuration does not fit the data.
      DataError: the data cannot be loaded.
    """
    source = sources.load(
        config.dataset,
        data_dir=config.data_dir or None,
        manual_dir=config.manual_dir or None,
        cache_dir=config.cache_dir or None,
    )
    train, test = _splits(config, source)
    task = task_of(config, source)
    placement = None if single_device else Placement.choose(config, mesh)
    data = _on_devices(config, source, train, task, placement)
    options = model_options(config, source.num_classes)
    model = create_model(config.task, config.variant, **options)
    return Run(config, task, model, data, test, placement)


def _splits(config: Config, source: sources.Source) -> tuple[sources.Split, sources.Split]:
    """The training and evaluation splits. ConfigError: there are too few images."""
    train, test = source.train, source.test
    if config.holdout:
        kept = len(train.images) - config.holdout
        test = sources.Split(train.images[kept:], train.labels[kept:])
        train = sources.Split(train.images[: max(kept, 0)], train.labels[: max(kept, 0)])
    if config.batch_size > len(train.images):
        raise ConfigError(
            f"batch_size is {config.batch_size}, but {config.dataset} has {len(train.images)} "
            f"training images ({config.holdout} held out); expected at most that many"
        )
    steps = len(train.images) // config.batch_size * config.epochs
    if steps > MAX_COUNT:
        raise ConfigError(
            f"epochs is {config.epochs}, which makes {steps} steps; expected at most {MAX_COUNT}"
        )
    return train, test


def _on_devices(
    config: Config,
    source: sources.Source,
    train: sources.Split,
    task: Task,
    placement: Placement | None,
) -> Data:
    """The training set on the run's devices, with its normalization statistics."""
    if placement is None or placement.single:
        # On CPU this uses the memory-mapped file directly; jnp.asarray would copy it.
        images = jax.device_put(train.images)
        statistics = task.statistics(config.dataset, images, source.statistics)
        return Data(images, jnp.asarray(train.labels), *statistics)
    # The whole training set may not fit on one device. The host computes the statistics, so that
    # they are the same everywhere.
    with jax.default_device(_cpu_device()):
        measured = task.statistics(config.dataset, train.images, source.statistics)
    statistics = placement.put(jax.device_get(measured), placement.replicated)
    return Data(*placement.put_examples((train.images, train.labels)), *statistics)


def task_of(config: Config, source: sources.Source) -> Task:
    """The configuration's task for a data set.

    Raises:
      ConfigError: the task and the data set are incompatible.
    """
    task = make_task(config.task, config.recipe)
    found, expected = source.train.labels.shape[1:], (task.positions,) if task.positions else ()
    if found != expected:
        words = {(): "one label an image", (5,): "five labels an image (svhn_numbers)"}
        raise ConfigError(
            f"dataset is {config.dataset}, with {words.get(found, f'labels of {found}')}, and task"
            f" {config.task}; expected a data set with {words.get(expected, f'{expected}')}"
        )
    if source.draw is not None:
        task = task.with_renderer(source.draw)
    elif config.crop >= source.train.images.shape[1]:
        raise ConfigError(
            f"crop is {config.crop}, but the images of {config.dataset} have"
            f" {source.train.images.shape[1]} pixels per side; expected less, or 0"
        )
    return task.cropped(config.crop) if config.crop else task


def _cpu_device() -> jax.Device | None:
    """The CPU device; None if JAX runs without its CPU backend."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
