"""Checkpoints: the states of a run, written atomically and verified when they are read.

A checkpoint is one file, ``STEP.safetensors``: the state's arrays, named by their paths in it, and
as metadata the metrics since the last line of metrics.jsonl. The file appears under its name once
it is complete and on disk, so the process may be killed at any moment. Earlier versions wrote
folders, see :mod:`stn_jax.training.orbax_checkpoints`.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from stn_jax import tensor_file
from stn_jax.files import UNFINISHED, rename
from stn_jax.tensor_file import SUFFIX, DamagedFileError, leaves_by_name
from stn_jax.training import orbax_checkpoints
from stn_jax.training.step import State
from stn_jax.training.workdir import WorkdirError

_DAMAGED = ".damaged"


class Saved(NamedTuple):
    """The contents of a checkpoint."""

    state: State
    log: dict[str, Any] | None  # metrics not yet logged


class Checkpoints:
    """The checkpoints of a run, by step; the newest ones are kept.

    States are those of a single device: see :meth:`stn_jax.training.run.Run.put` and ``fetch``.
    Each process reads independently, without waiting for others.

    Args:
      folder: the folder of the checkpoints.
      keep: the number of checkpoints to keep.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        self.folder = folder.absolute()
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in increasing order."""
        return sorted({step for step, _ in self._stored()})

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None if there is no checkpoint."""
        return max(self.steps(), default=None)

    def delete(self, step: int) -> None:
        """Deletes the checkpoint of a step."""
        for each, path in self._stored():
            if each == step:
                _delete(path)

    def save(self, state: State, log: dict[str, Any] | None = None) -> None:
        """Writes the checkpoint of a state's step, then deletes the oldest ones.

        Args:
          state: the run's state.
          log: metrics not yet logged, JSON-serializable.

        Raises:
          WorkdirError: the checkpoint cannot be written. Earlier ones are unchanged.
        """
        step = int(state["step"])
        try:
            arrays = leaves_by_name(jax.device_get(state))
            tensor_file.write(self.folder / f"{step}{SUFFIX}", arrays, {"log": log})
            kept = self.steps()[-self.keep :]
            for each, path in self._stored():
                if each not in kept:
                    _delete(path)
        except Exception as error:
            raise WorkdirError(self._write_error(step, error)) from error

    def restore(self, like: Any, *, repair: bool = False) -> Saved | None:
        """Reads the newest intact checkpoint, and reports damaged ones on stderr.

        Args:
          like: a state of the same network, or its shapes and types.
          repair: whether to rename damaged checkpoints and to delete unfinished ones; only for the
            process that holds the run's lock.

        Returns:
          The checkpoint's contents; None if there is no checkpoint.

        Raises:
          WorkdirError: a checkpoint is intact but of a different network, or cannot be read for
            lack of permission.
        """
        if repair:
            self._delete_unfinished()
        for _, path in self._stored():
            try:
                return _read(path, like)
            except PermissionError as error:
                raise WorkdirError(f"cannot read checkpoint {path}: {error.strerror}") from error
            except (OSError, DamagedFileError) as error:
                action = f"renamed to {_set_aside(path).name}" if repair else "skipped"
                print(f"checkpoint {path} is damaged ({error}); {action}", file=sys.stderr)
                sys.stderr.flush()
        return None

    def read(self, step: int, like: Any) -> Saved:
        """Reads the checkpoint of a step.

        Raises:
          KeyError: the step has no checkpoint.
          WorkdirError: as :meth:`restore`.
          OSError, DamagedFileError: the checkpoint cannot be read, or is damaged.
        """
        return _read(dict(reversed(self._stored()))[step], like)

    def _stored(self) -> list[tuple[int, Path]]:
        """Steps and checkpoints, newest first; for each step, files before folders."""
        try:
            names = sorted(os.listdir(self.folder), reverse=True)
        except FileNotFoundError:
            return []
        matches = [re.fullmatch(rf"([0-9]+)({re.escape(SUFFIX)})?", name) for name in names]
        found = [(int(match[1]), self.folder / match[0]) for match in matches if match]
        return sorted(found, key=lambda each: each[0], reverse=True)

    def _delete_unfinished(self) -> None:
        """Deletes leftovers of killed processes; the last two patterns are of earlier versions."""
        for pattern in (f"*{UNFINISHED}", "*.doomed", "*.orbax-checkpoint-tmp*"):
            for path in self.folder.glob(pattern):
                _delete(path)

    def _write_error(self, step: int, error: Exception) -> str:
        why = getattr(error, "strerror", None) or str(error)
        last = self.latest_step()
        kept = "there is no earlier one" if last is None else f"the last one is of step {last}"
        return (
            f"cannot write the checkpoint of step {step} to {self.folder}: {why}; {kept}. Fix the "
            "cause, then run the same command again to resume"
        )


def _read(path: Path, like: Any) -> Saved:
    """Reads a checkpoint into arrays on this process's first device."""
    arrays, metadata = (orbax_checkpoints if path.suffix != SUFFIX else tensor_file).read(path)
    expected = {name: _kind(x) for name, x in leaves_by_name(like).items()}
    found = {name: _kind(x) for name, x in arrays.items()}
    if different := tensor_file.differences(found, expected):
        raise WorkdirError(
            f"checkpoint {path} does not match this network or this version: {different}; train in "
            "a new workdir"
        )
    here = jax.local_devices()[0]
    # The training step donates the state's buffers, so they must not be NumPy's memory.
    leaves = [jax.device_put(arrays[name], here, may_alias=False) for name in expected]
    return Saved(jax.tree.unflatten(jax.tree.structure(like), leaves), metadata["log"])


def _kind(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}"


def _set_aside(path: Path) -> Path:
    aside, number = path.with_name(path.name + _DAMAGED), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}{_DAMAGED}-{number}")
    return rename(path, aside)


def _delete(path: Path) -> None:
    """Deletes a checkpoint; a folder is renamed first, in case the deletion is interrupted."""
    if path.is_dir():
        if path.suffix != UNFINISHED:
            path = rename(path, path.with_name(f"{path.name}{UNFINISHED}"))
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
