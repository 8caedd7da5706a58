"""Checkpoints: a run's states on disk, whole or not at all, and checked before they are used.

A checkpoint is a folder named by its step. In it, ``default/`` is what Orbax makes of the state,
``log.json`` what was measured since the last line of metrics.jsonl, ``digests.json`` the SHA-256
of every file. It is written under another name and renamed once all of it is on disk, so that a
process can be killed at any moment.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from stn_jax.files import UNFINISHED, make_folder, rename, sync_tree
from stn_jax.training.step import State
from stn_jax.training.workdir import WorkdirError

_DIGESTS, _LOG, _STATE = "digests.json", "log.json", "default"
_DOOMED, _DAMAGED = ".doomed", ".damaged"


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: State
    log: dict[str, Any] | None  # what was measured and not yet logged


class Checkpoints:
    """The checkpoints of a run, by step; the newest ones are kept. To be used as a context.

    States are for one device: see :meth:`stn_jax.training.run.Run.put` and ``fetch``.

    Args:
      folder: of the checkpoints.
      keep: how many of them.

    Raises:
      WorkdirError: Orbax cannot open a folder of that name.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        # Orbax takes a second to import; those who train without checkpoints need not have it.
        import orbax.checkpoint as ocp

        self.folder = folder.absolute()
        self.keep = keep
        check_name(self.folder)
        self._args = ocp.args
        # Each process reads for itself, and the first alone writes: nobody waits for others.
        me = jax.process_index()
        alone: dict[str, Any] = {}
        if jax.process_count() > 1:
            alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
            )
        with _without_orbax_log():
            self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler(**alone), **alone)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        with _without_orbax_log():
            self._orbax.close()

    def steps(self) -> list[int]:
        """The steps of which there are checkpoints, rising."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if re.fullmatch(r"\d+", name))

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
        path, draft = self.folder / str(step), self.folder / f"{step}{UNFINISHED}"
        try:
            self._discard(draft)
            make_folder(draft)
            _check_room(draft, sum(x.nbytes for x in jax.tree.leaves(state)) + _MARGIN)
            with _without_orbax_log():
                self._orbax.save(draft / _STATE, args=self._args.StandardSave(state))
            (draft / _LOG).write_text(json.dumps(log))
            (draft / _DIGESTS).write_text(json.dumps(_digests(draft), indent=2))
            sync_tree(draft)
            if path.exists():
                self._discard(path)
            rename(draft, path)
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise WorkdirError(self._not_written(step, error)) from error
        for old in self.steps()[: -self.keep]:
            self._discard(self.folder / str(old))

    def restore(self, like: Any, *, mend: bool = False) -> Saved | None:
        """Reads the newest checkpoint that is whole; says which are not.

        Args:
          like: a state of the same network, or its shapes and types.
          mend: whether to rename what is damaged, and to delete what was left unfinished: for the
            process that has the run's lock.

        Returns:
          What it holds, or None where there is no checkpoint.

        Raises:
          WorkdirError: a checkpoint is whole, but not of this network, or cannot be read.
        """
        if mend:
            self._tidy()
        for step in reversed(self.steps()):
            path = self.folder / str(step)
            damage = _damage(path)
            if damage is None:
                try:
                    return self.read(step, like)
                except OSError as error:
                    raise WorkdirError(
                        f"checkpoint {path} cannot be read: {error.strerror or error}"
                    ) from error
                except Exception as error:
                    if (path / _DIGESTS).exists():
                        raise WorkdirError(
                            f"checkpoint {path} does not fit this network or this version: "
                            f"{_last_line(error)}; train in a new workdir"
                        ) from error
                    damage = _last_line(error)
            where = f"it is now {self._set_aside(path).name}" if mend else "it is left out"
            print(f"checkpoint {path} is damaged ({damage}); {where}", file=sys.stderr, flush=True)
        return None

    def read(self, step: int, like: Any) -> Saved:
        """Reads a checkpoint that is whole."""
        path = self.folder / str(step)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like
        )
        with _without_orbax_log():
            state = self._orbax.restore(path / _STATE, args=self._args.StandardRestore(abstract))
        log = path / _LOG
        return Saved(state, json.loads(log.read_text()) if log.exists() else None)

    def _set_aside(self, path: Path) -> Path:
        aside, number = path.with_name(path.name + _DAMAGED), 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}{_DAMAGED}-{number}")
        return rename(path, aside)

    def _tidy(self) -> None:
        """Deletes what killed processes have left."""
        for pattern in (f"*{UNFINISHED}", f"*{_DOOMED}", "*.orbax-checkpoint-tmp*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path)

    def _discard(self, path: Path) -> None:
        """Deletes a folder; where that is cut off, what is left goes by another name."""
        if path.exists():
            doomed = path.with_name(f"{path.name}{_DOOMED}")
            shutil.rmtree(doomed, ignore_errors=True)
            shutil.rmtree(rename(path, doomed))

    def _not_written(self, step: int, error: Exception) -> str:
        # TensorStore puts the system's error code into its message.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(code[1]) if code else getattr(error, "errno", None)
        why = os.strerror(number) if number else _last_line(error)
        last = self.latest_step()
        kept = "there is none from before" if last is None else f"the last is step {last}"
        return (
            f"cannot write the checkpoint of step {step} to {self.folder}: {why}; {kept}, and "
            "from there the same command goes on once this is mended"
        )


# Bytes that a checkpoint takes beside its arrays.
_MARGIN = 2**18


def _check_room(folder: Path, size: int) -> None:
    """OSError where so many bytes do not fit on the disk, while Orbax is not yet in the middle."""
    allocate = getattr(os, "posix_fallocate", None)  # macOS has none
    if allocate is None:
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    path = folder / "room"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        allocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
        path.unlink()


def check_name(folder: Path) -> None:
    """WorkdirError where Orbax, which takes UTF-8, cannot open a folder of that name."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise WorkdirError(
            f"checkpoints cannot be kept in {folder}: under this locale Python reads names as "
            f"{sys.getfilesystemencoding()}, and this one has other characters. Set PYTHONUTF8=1, "
            "or a locale of UTF-8 such as LC_ALL=C.UTF-8"
        ) from None


class _NotOrbax(logging.Filter):
    """Leaves out what Orbax says of its own work; what goes wrong it raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts


@contextlib.contextmanager
def _without_orbax_log() -> Iterator[None]:
    """Keeps Orbax's lines, and nobody else's, out of absl's log."""
    logger, left_out = logging.getLogger("absl"), _NotOrbax()
    logger.addFilter(left_out)
    try:
        yield
    finally:
        logger.removeFilter(left_out)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path in the folder."""
    digests = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are as they were written."""
    try:
        expected = json.loads((folder / _DIGESTS).read_text())
        found = _digests(folder)
    except FileNotFoundError:
        # Before there were digests, Orbax's own manager wrote the folder.
        old = (folder / "_CHECKPOINT_METADATA").exists()
        return None if old else f"{_DIGESTS} is missing"
    except (OSError, ValueError) as error:
        return f"{_DIGESTS} or another file cannot be read: {_last_line(error)}"
    found.pop(_DIGESTS)
    if not isinstance(expected, dict):
        return f"{_DIGESTS} holds something else"
    for name in sorted({*expected, *found}):
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected.get(name):
            return f"{name} is not as it was written"
    return None
