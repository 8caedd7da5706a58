"""Exports a trained network as a program that runs without this package."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stn_jax.files import atomic_write, make_folder
from stn_jax.training.config import ConfigError
from stn_jax.training.provenance import environment
from stn_jax.training.run import Run

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, ABOUT, EXAMPLE = "network.jax_export", "about.json", "load.py"

_LOAD = '''"""Loads and calls the network. Needs only JAX, NumPy and flatbuffers."""

from pathlib import Path

import jax.export
import numpy as np

network = jax.export.deserialize(Path(__file__).with_name("{program}").read_bytes())
images = np.zeros((2, {shape}), np.float32)  # any batch size, pixels in [0, 1]
logits = network.call(images)
print(np.asarray(logits).argmax(-1))
'''


def export_network(run: Run, params: Any, folder: str | Path) -> Path:
    """Writes one network, with its weights, as serialized StableHLO.

    The program maps images ``[B, H, W, C]`` for any B, float32 in [0, 1], to logits; it normalizes
    them as in training. It runs on CPUs, NVIDIA GPUs and TPUs. Later versions of JAX can still load
    it (``jax.export``, "Compatibility guarantees").

    Args:
      run: the trained run.
      params: the parameters of one seed.
      folder: the folder to write: the program, a description of its input and output (JSON), and
        an example that calls it.

    Returns:
      The path of the program.

    Raises:
      ConfigError: the folder cannot be written.
    """
    shape = run.input_shape()
    mean, deviation = jax.device_get((run.data.mean, run.data.deviation))

    def network(images: jax.Array) -> jax.Array:
        return run.apply(params, (images - mean) / deviation)[0]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    program = jax.export.export(jax.jit(network), platforms=PLATFORMS)(images)
    about = {
        "takes": f"images [batch, {', '.join(map(str, shape))}], float32 in [0, 1]",
        "gives": "logits [batch, 5, 11], class 10: no digit"
        if run.task.positions
        else f"logits [batch, {run.model.head.classes}]",
        **({} if (names := run.task.class_names) is None else {"class_names": names}),
        "platforms": PLATFORMS,
        "task": run.config.task,
        "variant": run.config.variant,
        "dataset": run.config.dataset,
        "seed": run.config.seeds[0],
        "made_with": environment(),
    }
    path = Path(folder)
    example = _LOAD.format(program=PROGRAM, shape=", ".join(map(str, shape)))
    try:
        make_folder(path)
        with atomic_write(path / PROGRAM, "wb") as file:
            file.write(program.serialize())
        for name, text in ((ABOUT, json.dumps(about, indent=2) + "\n"), (EXAMPLE, example)):
            with atomic_write(path / name) as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {path}: {error.strerror}; name another folder"
        ) from None
    return path / PROGRAM
