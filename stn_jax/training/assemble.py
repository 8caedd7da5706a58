"""From a configuration to a run: the data, then the task, the network, and their devices."""

import jax
import jax.numpy as jnp

from stn_jax.data import sources
from stn_jax.data.tasks import Task, make_task
from stn_jax.models import create_model
from stn_jax.training.config import COUNTABLE, Config, ConfigError
from stn_jax.training.placement import Placement
from stn_jax.training.run import Run, model_options
from stn_jax.training.step import Data


def assemble(config: Config, *, mesh: str | None = None, alone: bool = False) -> Run:
    """Loads the data (see :func:`stn_jax.data.sources.load`) and makes the network.

    Args:
      config: what is to be trained, or was.
      mesh: in place of the configuration's.
      alone: on one device, in every process, whatever the configuration says.

    Raises:
      ConfigError: the configuration does not fit the data.
      DataError: the data cannot be had.
    """
    source = sources.load(
        config.dataset,
        data_dir=config.data_dir or None,
        manual_dir=config.manual_dir or None,
        cache_dir=config.cache_dir or None,
    )
    train, test = _splits(config, source)
    task = task_of(config, source)
    placement = None if alone else Placement.choose(config, mesh)
    data = _on_devices(config, source, train, task, placement)
    options = model_options(config, source.num_classes)
    model = create_model(config.task, config.variant, **options)
    return Run(config, task, model, data, test, placement)


def _splits(config: Config, source: sources.Source) -> tuple[sources.Split, sources.Split]:
    """What is trained on, and what is evaluated on; ConfigError where there is too little."""
    train, test = source.train, source.test
    if config.holdout:
        kept = len(train.images) - config.holdout
        test = sources.Split(train.images[kept:], train.labels[kept:])
        train = sources.Split(train.images[: max(kept, 0)], train.labels[: max(kept, 0)])
    if config.batch_size > len(train.images):
        raise ConfigError(
            f"batch_size is {config.batch_size}, but {config.dataset} has {len(train.images)} "
            f"training images ({config.holdout} held out); expected no more than that"
        )
    steps = len(train.images) // config.batch_size * config.epochs
    if steps > COUNTABLE:
        raise ConfigError(
            f"epochs is {config.epochs}, which makes {steps} steps; expected no more than "
            f"{COUNTABLE}"
        )
    return train, test


def _on_devices(
    config: Config,
    source: sources.Source,
    train: sources.Split,
    task: Task,
    placement: Placement | None,
) -> Data:
    """The training set on the run's devices, with what normalizes it."""
    if placement is None or placement.single:
        # On CPU this takes the mapped file as it is, where jnp.asarray would copy it.
        images = jax.device_put(train.images)
        statistics = task.statistics(config.dataset, images, source.statistics)
        return Data(images, jnp.asarray(train.labels), *statistics)
    # No device need have room for all images. What is measured on them is measured by the host, so
    # that it is the same everywhere.
    with jax.default_device(_host()):
        measured = task.statistics(config.dataset, train.images, source.statistics)
    statistics = placement.put(jax.device_get(measured), placement.whole)
    return Data(*placement.put_examples((train.images, train.labels)), *statistics)


def task_of(config: Config, source: sources.Source) -> Task:
    """The configuration's task on a data set.

    Raises:
      ConfigError: they do not fit together.
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
            f" {source.train.images.shape[1]} pixels a side; expected less, or 0"
        )
    return task.cropped(config.crop) if config.crop else task


def _host() -> jax.Device | None:
    """The CPU as a device; None where JAX was told to do without."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
