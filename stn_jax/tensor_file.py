"""Named arrays and JSON metadata in one safetensors file, with a digest that covers both.

The metadata is stored as JSON under the key ``stn_jax`` of the header's ``__metadata__``. Its
``sha256`` is the digest of all other metadata and of every array.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from stn_jax.files import atomic_write

SUFFIX = ".safetensors"
_KEY = "stn_jax"


class DamagedFileError(ValueError):
    """A file differs from what was written; the message says how."""


def write(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes a file atomically: completely or not at all.

    Args:
      path: the file; its folder is created if it does not exist.
      arrays: by name, of any type that safetensors supports, bfloat16 included.
      metadata: must be JSON-serializable.

    Raises:
      OSError: the file cannot be written.
    """
    # safetensors copies an array's memory as is, so any other order would scramble the values.
    ordered = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    text = json.dumps({"sha256": digest(ordered, metadata), **metadata})
    content = safetensors.numpy.save(ordered, {_KEY: text})
    with atomic_write(path, "wb") as file:
        file.write(content)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the metadata of a file written by :func:`write`.

    Raises:
      DamagedFileError: the file differs from what was written.
      OSError: the file cannot be read.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = metadata.pop("sha256")
    except safetensors.SafetensorError as error:
        raise DamagedFileError(_first_line(error)) from error
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"its metadata cannot be read: {_first_line(error)}") from error
    if digest(arrays, metadata) != expected:
        raise DamagedFileError("its content has changed since it was written: the SHA-256 differs")
    return arrays, metadata


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """A tree's leaves by their paths, such as "params/head/logits/bias"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The first three differences between descriptions of arrays, by name; empty if equal."""
    different = [
        f"{name} is {found.get(name, 'absent')}, expected {expected.get(name, 'absent')}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    more = f", and {len(different) - 3} more" if len(different) > 3 else ""
    return ", ".join(different[:3]) + more


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    """The SHA-256 of metadata and arrays; it does not depend on the arrays' order."""
    found = hashlib.sha256(json.dumps(metadata).encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
