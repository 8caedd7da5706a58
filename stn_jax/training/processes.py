"""Training one run in several processes, through ``jax.distributed``.

Every process runs the same program; only the primary (first) process writes files. With a single
process these functions just call their argument.
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
    """Another process of the run failed."""


def join() -> None:
    """Joins the other processes if ``JAX_COORDINATOR_ADDRESS`` is set.

    ``JAX_COORDINATOR_ADDRESS`` is HOST:PORT of the primary process. The number of processes and
    the index of this one are in ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``; if they are not set,
    JAX takes them from Slurm, Open MPI or a TPU pod. Call this before any computation.

    Raises:
      ConfigError: the environment variables are invalid, or the connection fails.
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
            "process, and JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def is_primary() -> bool:
    """Whether this is the primary process, which writes the files."""
    return jax.process_index() == 0


def run_on_primary(work: Callable[[], int]) -> int:
    """Runs a function in the primary process and returns its result in all processes.

    Args:
      work: returns an integer from 0 to 2**31 - 1.

    Raises:
      ProcessError: in the other processes, if ``work`` failed. The primary process raises the
        original exception.
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
        raise ProcessError("the first process failed; see its output for the reason")
    return value


def run_on_all(work: Callable[[], T]) -> T:
    """Runs a function in every process; if it fails in one, all of them raise.

    Use this for work that may fail in a single process before a collective operation: otherwise
    the other processes would wait there forever.

    Args:
      work: a function without collective operations.

    Raises:
      ProcessError: ``work`` failed in another process, which raises the original exception.
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
        raise ProcessError("another process failed; see its output for the reason")
    return result


def broadcast_from_primary(work: Callable[[], Any]) -> Any:
    """Runs a function in the primary process and returns its JSON-serializable result in all.

    Args:
      work: returns a value that JSON can represent.

    Raises:
      ProcessError: as :func:`run_on_primary`.
    """
    if jax.process_count() == 1:
        return work()
    text = b""

    def encode() -> int:
        nonlocal text
        text = json.dumps(work()).encode()
        return len(text)

    size = run_on_primary(encode)
    from jax.experimental import multihost_utils

    own = np.frombuffer(text, np.uint8) if is_primary() else np.zeros(size, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes())


def all_reduce_max(value: int) -> int:
    """The maximum of a value over all processes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))
