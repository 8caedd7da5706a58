"""Trained weights that come with the package: :func:`load_pretrained`.

A network is a file ``<task>__<variant>.npz`` in this folder: an array for each parameter, in half
precision, and ``metadata``, JSON that says what it is. What its test error is was measured with
the weights as they are stored.
"""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from stn_jax.data.archives import read_npz
from stn_jax.files import atomic_write
from stn_jax.models import Network, create_model

FOLDER = Path(__file__).parent
FORMAT = 1
STORED = np.float16


class PretrainedError(ValueError):
    """Weights cannot be had: says which, why, and what there is."""


def load_pretrained(
    name: str, *, folder: str | os.PathLike[str] | None = None
) -> tuple[Network, dict[str, Any]]:
    """Loads a trained network.

    Args:
      name: task and variant, as in ``create_model``: "rotated_mnist/stn-sl1". :func:`available`
        lists the known.
      folder: of the weights; the package's own where None.

    Returns:
      The module and its variables: ``module.apply(variables, images)`` gives logits for
      *normalised* images ``[B, H, W, C]``, ``(x - mean) / deviation`` with x in [0, 1] and the
      figures that :func:`describe` gives.

    Raises:
      PretrainedError: the name is unknown, or the file is damaged or holds another network.
    """
    arrays, metadata = _read(name, folder)
    task, _, variant = name.partition("/")
    image = jax.ShapeDtypeStruct((1, *metadata["input_shape"]), jnp.float32)
    try:
        # Weights that do not say their recipe are from before there were two.
        module = create_model(task, variant, **{"recipe": "legacy", **metadata["model"]})
        wanted = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    except Exception as error:
        # Options that make no sense can fail anywhere in the network that they describe.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise PretrainedError(f"{_path(name, folder)} holds no network: {first}") from None
    expected = {key: x.shape for key, x in _flat(wanted).items()}
    shapes = {key: x.shape for key, x in arrays.items()}
    different = [
        f"{key} is {_shape(shapes.get(key))} and should be {_shape(expected.get(key))}"
        for key in sorted({*shapes, *expected})
        if shapes.get(key) != expected.get(key)
    ]
    if different or metadata["name"] != name:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        shown = f" ({', '.join(different[:3])}{more})" if different else ""
        raise PretrainedError(
            f"{_path(name, folder)} holds weights of another network than {name}: those of "
            f"{metadata['name']}{shown}"
        )
    params = {key: jnp.asarray(x, jnp.float32) for key, x in arrays.items()}
    return module, {"params": traverse_util.unflatten_dict(params, sep="/")}


def available(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """The names that :func:`load_pretrained` knows."""
    return sorted(p.stem.replace("__", "/") for p in Path(folder or FOLDER).glob("*__*.npz"))


def describe(name: str, *, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What is known of a trained network.

    Returns:
      Among others ``input_shape`` ``[H, W, C]`` of the images that it sees, ``mean`` and
      ``deviation`` that normalise them, ``dataset``, ``test_error_percent``, ``seed``, ``epochs``,
      ``commit``, and ``config``, with which it was trained.

    Raises:
      PretrainedError: the name is unknown or the file is damaged.
    """
    return _read(name, folder)[1]


def save(
    name: str,
    params: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a network's weights so that :func:`load_pretrained` finds them.

    Args:
      name: task and variant.
      params: its parameters.
      metadata: what :func:`describe` is to give, ready for JSON; with ``model`` (options of
        create_model) and ``input_shape``.
      folder: as above; made where it does not exist.

    Returns:
      The file, which appears whole or not at all.

    Raises:
      PretrainedError: a parameter is no finite number in the stored precision, or the file cannot
        be written.
    """
    path = _path(name, folder)
    arrays: dict[str, Any] = {key: stored(x) for key, x in _flat(params).items()}
    if bad := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
        raise PretrainedError(f"{name}: {bad[0]} has no finite values as {STORED.__name__}")
    text = json.dumps({"format": FORMAT, "name": name, **metadata})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, metadata=np.frombuffer(text.encode(), np.uint8), **arrays)
    try:
        with atomic_write(path, "wb") as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise PretrainedError(f"cannot write {path}: {error.strerror}") from None
    return path


def stored(x: Any) -> np.ndarray:
    """A parameter in the precision in which it is stored."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(STORED)


def _read(
    name: str, folder: str | os.PathLike[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    path = _path(name, folder)
    try:
        arrays = read_npz(path)
        metadata = json.loads(arrays.pop("metadata").tobytes())
        if metadata["format"] != FORMAT:
            raise PretrainedError(
                f"{path} has format {metadata['format']!r} and this version of stn_jax reads "
                f"{FORMAT}: export it again"
            )
        _check(arrays, metadata)
    except FileNotFoundError:
        known = ", ".join(available(folder)) or "none"
        raise PretrainedError(f"no weights are called {name!r}; there are: {known}") from None
    except PretrainedError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError, OSError) as error:
        raise PretrainedError(f"{path} is damaged ({error})") from error
    return arrays, metadata


def _check(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """ValueError or KeyError where a file's content cannot be what :func:`save` wrote."""
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


def _path(name: str, folder: str | os.PathLike[str] | None) -> Path:
    return Path(folder or FOLDER) / f"{str(name).replace('/', '__')}.npz"


def _flat(params: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
