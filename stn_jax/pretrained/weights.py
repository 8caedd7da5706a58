"""Weight files: ``<task>__<variant>.safetensors``, in half precision.

A file holds one array per parameter, and metadata that describes the network. Earlier versions
wrote ``.npz`` files, which are still read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax import tensor_file
from stn_jax.data.archives import read_npz

FORMATS = {tensor_file.SUFFIX: 2, ".npz": 1}  # the first is what is written
STORED = np.float16


class PretrainedError(ValueError):
    """Weights cannot be loaded or saved; the message says which, and why."""


def names(folder: Path) -> list[str]:
    """The names of the networks whose weights a folder holds."""
    return sorted({p.stem.replace("__", "/") for s in FORMATS for p in folder.glob(f"*__*{s}")})


def path_of(name: str, folder: Path) -> Path:
    """The file of a network's weights: the existing one, or else the one to write."""
    stem = str(name).replace("/", "__")
    paths = [folder / f"{stem}{suffix}" for suffix in FORMATS]
    return next((path for path in paths if path.exists()), paths[0])


def write(
    name: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], folder: Path
) -> Path:
    """Writes a network's weights atomically and returns the file's path.

    Args:
      name: task and variant.
      arrays: by name.
      metadata: JSON-serializable; with ``model`` and ``input_shape``.
      folder: created if it does not exist.

    Raises:
      PretrainedError: an array is not finite in half precision, or the file cannot be written.
    """
    path = path_of(name, folder).with_suffix(tensor_file.SUFFIX)
    halved = {key: stored(x) for key, x in arrays.items()}
    if bad := [key for key, array in halved.items() if not np.isfinite(array).all()]:
        raise PretrainedError(f"{name}: {bad[0]} is not finite in {STORED.__name__}")
    known = {"format": FORMATS[path.suffix], "name": name, **metadata}
    try:
        tensor_file.write(path, halved, known)
    except OSError as error:
        raise PretrainedError(f"cannot write {path}: {error.strerror}") from None
    return path


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the metadata of a file of either format.

    Raises:
      FileNotFoundError: the file does not exist.
      PretrainedError: the file is damaged or has an unknown format version.
    """
    try:
        arrays, metadata = (_read_npz if path.suffix == ".npz" else tensor_file.read)(path)
        if metadata["format"] != FORMATS[path.suffix]:
            raise PretrainedError(
                f"{path} has format {metadata['format']!r}, but this version of stn_jax reads "
                f"{FORMATS[path.suffix]}; export it again"
            )
        _check(arrays, metadata)
    except (FileNotFoundError, PretrainedError):
        raise
    except (KeyError, TypeError, ValueError, RecursionError, OSError) as error:
        raise PretrainedError(f"{path} is damaged ({error})") from error
    return arrays, metadata


def stored(x: Any) -> np.ndarray:
    """A parameter in the precision in which it is stored, float16."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(STORED)


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays = read_npz(path)
    return arrays, json.loads(arrays.pop("metadata").tobytes())


def _check(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Raises ValueError or KeyError for content that :func:`write` cannot have written."""
    for key, kind in {"name": str, "model": dict, "input_shape": list}.items():
        if type(metadata[key]) is not kind:
            raise ValueError(f"{key} is {metadata[key]!r}; expected a {kind.__name__}")
    shape = metadata["input_shape"]
    if len(shape) != 3 or not all(type(n) is int and 0 < n <= 2**14 for n in shape):
        raise ValueError(f"input_shape is {shape}; expected [H, W, C]")
    for key, array in arrays.items():
        if array.dtype != STORED:
            raise ValueError(f"{key} has type {array.dtype}; expected {STORED.__name__}")
        if not np.isfinite(array).all():
            raise ValueError(f"{key} has non-finite values")
