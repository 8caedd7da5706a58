"""Checkpoints: a run's states on disk, whole or not at all, and checked before they are used.

A checkpoint is one file, ``STEP.safetensors``: the state's arrays, named by their path in it, and
as metadata what was measured since the last line of metrics.jsonl. It appears under its name once
all of it is on disk, so that a process can be killed at any moment. Earlier versions wrote folders,
see :mod:`stn_jax.training.orbax_checkpoints`.
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
    """What a checkpoint holds."""

    state: State
    log: dict[str, Any] | None  # what was measured and not yet logged


class Checkpoints:
    """The checkpoints of a run, by step; the newest ones are kept.

    States are for one device: see :meth:`stn_jax.training.run.Run.put` and ``fetch``. Each process
    reads for itself, and waits for no other.

    Args:
      folder: of the checkpoints.
      keep: how many of them.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        self.folder = folder.absolute()
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps of which there are checkpoints, rising."""
        return sorted({step for step, _ in self._stored()})

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None where there is none."""
        return max(self.steps(), default=None)

    def save(self, state: State, log: dict[str, Any] | None = None) -> None:
        """Writes a state under its step, and then deletes the oldest beyond those that are kept.

        Args:
          state: of the run.
          log: what was measured and not yet logged, ready for JSON.

        Raises:
          WorkdirError: it cannot be written. The earlier checkpoints are as they were.
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
            raise WorkdirError(self._not_written(step, error)) from error

    def restore(self, like: Any, *, mend: bool = False) -> Saved | None:
        """Reads the newest checkpoint that is whole; says which are not.

        Args:
          like: a state of the same network, or its shapes and types.
          mend: whether to rename what is damaged, and to delete what was left unfinished: for the
            process that has the run's lock.

        Returns:
          What it holds, or None where there is no checkpoint.

        Raises:
          WorkdirError: a checkpoint is whole, but not of this network, or may not be read.
        """
        if mend:
            self._tidy()
        for _, path in self._stored():
            try:
                return _read(path, like)
            except PermissionError as error:
                raise WorkdirError(f"cannot read checkpoint {path}: {error.strerror}") from error
            except (OSError, DamagedFileError) as error:
                where = f"it is now {_set_aside(path).name}" if mend else "it is left out"
                print(f"checkpoint {path} is damaged ({error}); {where}", file=sys.stderr)
                sys.stderr.flush()
        return None

    def read(self, step: int, like: Any) -> Saved:
        """Reads the checkpoint of a step, which is there and whole.

        Raises:
          WorkdirError: as :meth:`restore`.
          OSError, DamagedFileError: it is not.
        """
        return _read(dict(reversed(self._stored()))[step], like)

    def _stored(self) -> list[tuple[int, Path]]:
        """Steps and checkpoints, newest first; of one step a file before a folder."""
        try:
            names = sorted(os.listdir(self.folder), reverse=True)
        except FileNotFoundError:
            return []
        matches = [re.fullmatch(rf"([0-9]+)({re.escape(SUFFIX)})?", name) for name in names]
        found = [(int(match[1]), self.folder / match[0]) for match in matches if match]
        return sorted(found, key=lambda each: each[0], reverse=True)

    def _tidy(self) -> None:
        """Deletes what killed processes have left; the last two are of earlier versions."""
        for pattern in (f"*{UNFINISHED}", "*.doomed", "*.orbax-checkpoint-tmp*"):
            for path in self.folder.glob(pattern):
                _delete(path)

    def _not_written(self, step: int, error: Exception) -> str:
        why = getattr(error, "strerror", None) or str(error)
        last = self.latest_step()
        kept = "there is none from before" if last is None else f"the last is step {last}"
        return (
            f"cannot write the checkpoint of step {step} to {self.folder}: {why}; {kept}, and "
            "from there the same command goes on once this is mended"
        )


def _read(path: Path, like: Any) -> Saved:
    """Reads a checkpoint, as arrays on the first device of this process."""
    arrays, metadata = (orbax_checkpoints if path.suffix != SUFFIX else tensor_file).read(path)
    expected = {name: _kind(x) for name, x in leaves_by_name(like).items()}
    found = {name: _kind(x) for name, x in arrays.items()}
    if different := tensor_file.differences(found, expected):
        raise WorkdirError(
            f"checkpoint {path} does not fit this network or this version: {different}; train in "
            "a new workdir"
        )
    here = jax.local_devices()[0]
    # Steps write their results over the state, and must not find NumPy's memory there.
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
    """Deletes a checkpoint; where that is cut off, what is left of a folder has another name."""
    if path.is_dir():
        if path.suffix != UNFINISHED:
            path = rename(path, path.with_name(f"{path.name}{UNFINISHED}"))
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
