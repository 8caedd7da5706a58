"""Files of weights: ``<task>__<variant>.safetensors``, in half precision.

A file holds an array for each parameter, and metadata that says what network it is. Earlier
versions wrote ``.npz`` files, which are read where there is no other.
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
    """Weights cannot be loaded or saved: says which, why, and what there is."""


def names(folder: Path) -> list[str]:
    """The networks of which a folder holds weights."""
    return sorted({p.stem.replace("__", "/") for s in FORMATS for p in folder.glob(f"*__*{s}")})


def path_of(name: str, folder: Path) -> Path:
    """The file of a network's weights: the one that is there, or the one to write."""
    stem = str(name).replace("/", "__")
    paths = [folder / f"{stem}{suffix}" for suffix in FORMATS]
    return next((path for path in paths if path.exists()), paths[0])


def write(
    name: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], folder: Path
) -> Path:
    """Writes a network's weights and returns the file, which appears whole or not at all.

    Args:
      name: task and variant.
      arrays: by name.
      metadata: ready for JSON; with ``model`` and ``input_shape``.
      folder: made where it does not exist.

    Raises:
      PretrainedError: an array is not finite in the stored precision, or the file cannot be
        written.
    """
    path = path_of(name, folder).with_suffix(tensor_file.SUFFIX)
    halved = {key: stored(x) for key, x in arrays.items()}
    if bad := [key for key, array in halved.items() if not np.isfinite(array).all()]:
        raise PretrainedError(f"{name}: {bad[0]} has no finite values as {STORED.__name__}")
    known = {"format": FORMATS[path.suffix], "name": name, **metadata}
    try:
        tensor_file.write(path, halved, known)
    except OSError as error:
        raise PretrainedError(f"cannot write {path}: {error.strerror}") from None
    return path


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a file of either format.

    Raises:
      FileNotFoundError: there is none.
      PretrainedError: it is damaged or of another format.
    """
    try:
        arrays, metadata = (_read_npz if path.suffix == ".npz" else tensor_file.read)(path)
        if metadata["format"] != FORMATS[path.suffix]:
            raise PretrainedError(
                f"{path} has format {metadata['format']!r} and this version of stn_jax reads "
                f"{FORMATS[path.suffix]}: export it again"
            )
        _check(arrays, metadata)
    except (FileNotFoundError, PretrainedError):
        raise
    except (KeyError, TypeError, ValueError, RecursionError, OSError) as error:
        raise PretrainedError(f"{path} is damaged ({error})") from error
    return arrays, metadata


def stored(x: Any) -> np.ndarray:
    """A parameter in the precision in which it is stored."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(STORED)


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays = read_npz(path)
    return arrays, json.loads(arrays.pop("metadata").tobytes())


def _check(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """ValueError or KeyError where a file's content cannot be what :func:`write` wrote."""
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
            raise ValueError(f"{key} has values that are not finite")
