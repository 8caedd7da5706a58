"""Reads the checkpoints of earlier versions, which were Orbax folders."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stn_jax.extras import MissingExtraError, extra
from stn_jax.tensor_file import DamagedFileError, leaves_by_name
from stn_jax.training.workdir import WorkdirError

_DIGESTS, _LOG = "digests.json", "log.json"


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a checkpoint's state, by their paths in it, and its metadata (``log``).

    Raises:
      DamagedFileError: the checkpoint differs from what was written.
      WorkdirError: Orbax is not installed.
    """
    _check(folder)
    try:
        with extra("orbax"):
            import orbax.checkpoint as ocp
    except MissingExtraError as error:
        raise WorkdirError(
            f"checkpoint {folder} was written by an earlier version, with Orbax: {error}"
        ) from None
    log = folder / _LOG
    try:
        # Orbax's checkpointers would wait for other processes; a handler does not.
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                handler.metadata(folder / "default").tree,
            )
            arguments = ocp.args.PyTreeRestore(restore_args=as_numpy)
            state = handler.restore(folder / "default", args=arguments)
        measured = json.loads(log.read_text()) if log.exists() else None
    except Exception as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise DamagedFileError(last) from error
    return leaves_by_name(state), {"log": measured}


def _check(folder: Path) -> None:
    """Raises DamagedFileError if a file differs from the one that was written."""
    try:
        expected = json.loads((folder / _DIGESTS).read_text())
        found = {}
        for path in folder.rglob("*"):
            if path.is_file() and path.name != _DIGESTS:
                content = path.read_bytes()
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    except FileNotFoundError:
        # The oldest versions wrote no digests.
        if not (folder / "_CHECKPOINT_METADATA").exists():
            raise DamagedFileError(f"{_DIGESTS} is missing") from None
        return
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{_DIGESTS} or another file cannot be read: {error}") from error
    if not isinstance(expected, dict):
        raise DamagedFileError(f"{_DIGESTS} has unexpected content")
    for name in sorted({*expected, *found}):
        if name not in found:
            raise DamagedFileError(f"{name} is missing")
        if found[name] != expected.get(name):
            raise DamagedFileError(f"{name} has changed since it was written")
