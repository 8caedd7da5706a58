"""Trained networks by name: load, list, describe and save."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from stn_jax.models import Network, Normalize, create_model
from stn_jax.pretrained import weights
from stn_jax.pretrained.weights import PretrainedError
from stn_jax.tensor_file import differences, leaves_by_name

FOLDER = Path(__file__).parent


def load_pretrained(
    name: str, *, folder: str | os.PathLike[str] | None = None
) -> tuple[Network, dict[str, Any], Normalize]:
    """Loads a trained network.

        model, variables, normalize = load_pretrained("rotated_mnist/stn-sl1")
        logits = model.apply(variables, normalize(images))  # images in [0, 1] or uint8

    Args:
      name: task and variant, as in ``create_model``: "rotated_mnist/stn-sl1". :func:`available`
        lists the names.
      folder: folder that holds the weights; None: the package's own.

    Returns:
      The module, its variables, and a function that normalizes images ``[..., H, W, C]`` (floats in
      [0, 1], or uint8) as in the network's training: :class:`stn_jax.models.Normalize`.

    Raises:
      PretrainedError: the name is unknown, or the file is damaged or holds a different network.
    """
    path, arrays, metadata = _read(name, folder)
    task, _, variant = name.partition("/")
    image = jax.ShapeDtypeStruct((1, *metadata["input_shape"]), jnp.float32)
    try:
        # Weights without a recipe were written before there was a choice.
        module = create_model(task, variant, **{"recipe": "legacy", **metadata["model"]})
        wanted = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        normalize = Normalize.of(metadata, metadata["input_shape"])
    except Exception as error:
        # Invalid options can fail anywhere in the network that they describe.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise PretrainedError(f"{path} does not describe a network: {first}") from None
    expected = {key: str(list(x.shape)) for key, x in leaves_by_name(wanted).items()}
    different = differences({key: str(list(x.shape)) for key, x in arrays.items()}, expected)
    if different or metadata["name"] != name:
        raise PretrainedError(
            f"{path} does not hold the weights of {name}, but those of "
            f"{metadata['name']}{different and f' ({different})'}"
        )
    params = {key: jnp.asarray(x, jnp.float32) for key, x in arrays.items()}
    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    return module, variables, normalize


def available(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """The names that :func:`load_pretrained` accepts.

    Args:
      folder: folder that holds the weights; None: the package's own.
    """
    return weights.names(Path(folder or FOLDER))


def describe(name: str, *, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The metadata of a trained network.

    Args:
      name, folder: as in :func:`load_pretrained`.

    Returns:
      A dictionary with, among others, ``input_shape`` ``[H, W, C]``, the ``mean`` and
      ``deviation`` that normalize its images, ``dataset``, ``test_error_percent``, ``seed``,
      ``epochs``, ``commit``, and the ``config`` of its training. The test error was measured with
      the weights as stored, in half precision.

    Raises:
      PretrainedError: the name is unknown or the file is damaged.
    """
    return _read(name, folder)[2]


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
      metadata: what :func:`describe` will return; JSON-serializable, with ``model`` (options of
        ``create_model``) and ``input_shape`` ``[H, W, C]``.
      folder: where to write; created if it does not exist. None: the package's own.

    Returns:
      The path of the file, which is written atomically.

    Raises:
      PretrainedError: a parameter is not finite in half precision, or the file cannot be written.
    """
    return weights.write(name, leaves_by_name(params), metadata, Path(folder or FOLDER))


def _read(
    name: str, folder: str | os.PathLike[str] | None
) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]]:
    path = weights.path_of(name, Path(folder or FOLDER))
    try:
        return path, *weights.read(path)
    except FileNotFoundError:
        known = ", ".join(available(folder)) or "none"
        raise PretrainedError(f"there are no weights named {name!r}; expected: {known}") from None
