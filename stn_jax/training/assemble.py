"""Builds a run from a configuration: data, task, network and device placement."""

import dataclasses
import os

import jax
import jax.numpy as jnp

from stn_jax.data import sources
from stn_jax.data.tasks import TASKS, Task, make_task
from stn_jax.models import Network, create_model
from stn_jax.training.config import MAX_COUNT, Config, ConfigError
from stn_jax.training.optimizer import default_learning_rate
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
    placement = None if single_device else Placement.choose(config, mesh)
    options = config.data_options
    if options.max_bytes is None:
        options = dataclasses.replace(options, max_bytes=_memory(placement))
    source = sources.load(
        config.dataset,
        data_dir=config.data_dir or None,
        manual_dir=config.manual_dir or None,
        cache_dir=config.cache_dir or None,
        options=options,
    )
    train, test = _splits(config, source)
    task = task_of(config, source)
    data = _on_devices(config, source, train, task, placement)
    shape = task.input_shape(data.images)
    config = _with_aspect(_with_rate(config, len(train.images)), shape)
    model = _model(config, shape, source.num_classes)
    return Run(config, task, model, data, test, placement, source.notes)


def _with_rate(config: Config, examples: int) -> Config:
    """The configuration with a number as learning rate, which a run's files then hold."""
    if config.learning_rate:
        return config
    steps = examples // config.batch_size * config.epochs
    rate = default_learning_rate(config.batch_size, steps)
    return dataclasses.replace(config, learning_rate=rate)


def _with_aspect(config: Config, shape: tuple[int, int, int]) -> Config:
    """The configuration with a number as aspect, for images of a shape, if it matters."""
    if config.aspect or not config.aspect_matters:
        return config
    height, width = (side - config.align_corners for side in shape[:2])
    return dataclasses.replace(config, aspect=width / height if min(height, width) else 1.0)


def _model(config: Config, shape: tuple[int, int, int], classes: int) -> Network:
    """The network for images of a shape. ConfigError: they are too small for it, for example."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        model = create_model(config.task, config.variant, **model_options(config, classes, shape))
        if config.any_data:  # of any size
            jax.eval_shape(model.init, jax.random.key(0), image)
    except ValueError as error:
        raise ConfigError(
            f"the network does not fit {config.dataset}, images of "
            f"{'x'.join(map(str, shape))}: {error}"
        ) from None
    return model


def _memory(placement: Placement | None) -> int | None:
    """Three quarters of the memory that the training set may lie in, in bytes; None: not known."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
        except (ValueError, OSError, AttributeError):  # not on every system
            return None
    limit = (device.memory_stats() or {}).get("bytes_limit")
    parts = 1 if placement is None else placement.mesh.shape["batch"]
    return limit and limit * parts * 3 // 4


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
    task = make_task(config.task, config.recipe, config.ranges)
    task = dataclasses.replace(task, class_names=source.class_names)
    found, expected = source.train.labels.shape[1:], (task.positions,) if task.positions else ()
    if found != expected:
        words = {(): "one label an image", (5,): "five labels an image (svhn_numbers)"}
        raise ConfigError(
            f"dataset is {config.dataset}, with {words.get(found, f'labels of {found}')}, and task"
            f" {config.task}; expected a data set with {words.get(expected, f'{expected}')}"
        )
    if source.draw is None and TASKS[task.name].mnist_statistics:
        height, width = source.train.images.shape[1:3]
        if height != width:
            raise ConfigError(
                f"task is {config.task}, which needs square images, and {config.dataset} has "
                f"{height}x{width}; expected task {config.task.removesuffix('_mnist')}, for images "
                "of any size"
            )
    if source.draw is not None:
        task = task.with_renderer(source.draw)
    elif config.crop >= (side := min(source.train.images.shape[1:3])):
        raise ConfigError(
            f"crop is {config.crop}, but the images of {config.dataset} have"
            f" {side} pixels per side; expected less, or 0"
        )
    return task.cropped(config.crop) if config.crop else task


def _cpu_device() -> jax.Device | None:
    """The CPU device; None if JAX runs without its CPU backend."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
