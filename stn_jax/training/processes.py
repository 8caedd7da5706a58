"""Several processes that train one run together, through ``jax.distributed``.

Every process runs the same program; the first one alone writes. A process does nothing here where
it is the only one.
"""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from stn_jax.training.config import ConfigError

T = TypeVar("T")


class ProcessError(RuntimeError):
    """Another process of the run could not go on."""


def join() -> None:
    """Joins the other processes where the environment says that there are some.

    ``JAX_COORDINATOR_ADDRESS=HOST:PORT``, of the first process, says so. How many there are and
    which this is are in ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``; where they are not set, JAX
    takes them from Slurm, Open MPI or a TPU pod. To be called before anything is computed.

    Raises:
      ConfigError: the environment makes no sense, or the others do not answer.
    """
    if not os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return
    try:
        count, number = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        jax.distributed.initialize(num_processes=count, process_id=number)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            "cannot join the other processes (JAX_COORDINATOR_ADDRESS is "
            f"{os.environ['JAX_COORDINATOR_ADDRESS']!r}): {error}; expected HOST:PORT of the first "
            "process, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def is_primary() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def run_on_primary(work: Callable[[], int]) -> int:
    """Does something in the first process; its result, for all.

    Args:
      work: returns a number from 0 to 2**31 - 1.

    Raises:
      ProcessError: it has failed, in the processes that are not the first. That one raises what
        work has raised.
    """
    if jax.process_count() == 1:
        return work()
    failure: BaseException | None = None
    value = -1
    if is_primary():
        try:
            value = work()
        except BaseException as error:
            failure = error
    from jax.experimental import multihost_utils

    value = int(multihost_utils.broadcast_one_to_all(np.int32(value)))
    if failure is not None:
        raise failure
    if value < 0:
        raise ProcessError("the first process could not go on; it says why")
    return value


def run_on_all(work: Callable[[], T]) -> T:
    """Does something in every process; none goes on where one of them could not.

    What may fail in one process alone, before all meet in a collective, belongs in here: the others
    would wait there without end.

    Args:
      work: has no collective in it.

    Raises:
      ProcessError: it has failed in another process. That one raises what work has raised.
    """
    if jax.process_count() == 1:
        return work()
    failure: BaseException | None = None
    try:
        result = work()
    except BaseException as error:
        failure = error
    failed = all_reduce_max(int(failure is not None))
    if failure is not None:
        raise failure
    if failed:
        raise ProcessError("another process could not go on; it says why")
    return result


def broadcast_from_primary(work: Callable[[], Any]) -> Any:
    """What the first process finds, for all.

    Args:
      work: returns what JSON can hold.

    Raises:
      ProcessError: as :func:`run_on_primary`.
    """
    if jax.process_count() == 1:
        return work()
    text = b""

    def found() -> int:
        nonlocal text
        text = json.dumps(work()).encode()
        return len(text)

    size = run_on_primary(found)
    from jax.experimental import multihost_utils

    own = np.frombuffer(text, np.uint8) if is_primary() else np.zeros(size, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes())


def all_reduce_max(value: int) -> int:
    """The largest of all processes' values."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))
