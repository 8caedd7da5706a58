"""Trained networks by name: loaded, listed, described and saved."""

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
        lists the known.
      folder: of the weights; the package's own where None.

    Returns:
      The module, its variables, and a function that normalizes images ``[..., H, W, C]`` as in the
      network's training (:class:`stn_jax.models.Normalize`): floats in [0, 1], or uint8.

    Raises:
      PretrainedError: the name is unknown, or the file is damaged or holds another network.
    """
    path, arrays, metadata = _read(name, folder)
    task, _, variant = name.partition("/")
    image = jax.ShapeDtypeStruct((1, *metadata["input_shape"]), jnp.float32)
    try:
        # Weights that do not say their recipe are from before there were two.
        module = create_model(task, variant, **{"recipe": "legacy", **metadata["model"]})
        wanted = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        normalize = Normalize.of(metadata, metadata["input_shape"])
    except Exception as error:
        # Options that make no sense can fail anywhere in the network that they describe.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise PretrainedError(f"{path} holds no network: {first}") from None
    expected = {key: str(list(x.shape)) for key, x in leaves_by_name(wanted).items()}
    different = differences({key: str(list(x.shape)) for key, x in arrays.items()}, expected)
    if different or metadata["name"] != name:
        raise PretrainedError(
            f"{path} holds weights of another network than {name}: those of "
            f"{metadata['name']}{different and f' ({different})'}"
        )
    params = {key: jnp.asarray(x, jnp.float32) for key, x in arrays.items()}
    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    return module, variables, normalize


def available(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """The names that :func:`load_pretrained` knows."""
    return weights.names(Path(folder or FOLDER))


def describe(name: str, *, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What is known of a trained network.

    Returns:
      Among others ``input_shape`` ``[H, W, C]`` of the images that it sees, ``mean`` and
      ``deviation`` that normalise them, ``dataset``, ``test_error_percent``, ``seed``, ``epochs``,
      ``commit``, and ``config``, with which it was trained. The test error was measured with the
      weights as they are stored, in half precision.

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
      metadata: what :func:`describe` is to give, ready for JSON; with ``model`` (options of
        create_model) and ``input_shape``.
      folder: as above; made where it does not exist.

    Returns:
      The file, which appears whole or not at all.

    Raises:
      PretrainedError: a parameter is no finite number in the stored precision, or the file cannot
        be written.
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
        raise PretrainedError(f"no weights are called {name!r}; there are: {known}") from None
