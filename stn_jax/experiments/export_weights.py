"""Exports trained networks as the weights that come with the package."""

from pathlib import Path

import jax
import jax.numpy as jnp

from stn_jax import pretrained
from stn_jax.experiments.tables import Row
from stn_jax.experiments.trained import Trained
from stn_jax.training.evaluation import predict, summarize
from stn_jax.training.provenance import environment
from stn_jax.training.run import description
from stn_jax.training.workdir import Workdir


def export(trained: Trained, row: Row, folder: str | Path | None = None) -> tuple[Path, float]:
    """Stores a trained network for :func:`stn_jax.load_pretrained`.

    The test error in the file is measured with the weights rounded to the stored precision.

    Args:
      trained: the trained networks.
      row: the row of the network to export.
      folder: folder of the weights; None: the package's own.

    Returns:
      The file and its test error in percent.

    Raises:
      ConfigError: the network has not been trained.
      DataError: the data cannot be loaded.
      PretrainedError: the file cannot be written.
    """
    run, params = trained.open(row)
    params = jax.tree.map(lambda x: jnp.asarray(pretrained.stored(x), jnp.float32), params)
    summary = summarize(run, predict(run, params))
    result = Workdir(trained.workdir(row)[0]).result() or {}
    config = run.config
    metadata = {
        **description(run),
        "dataset": config.dataset,
        "test_error_percent": summary["test_error_percent"][0],
        "test_passes": summary["test_passes"],
        "test_examples": summary["test_examples"],
        "seed": config.seeds[0],
        "epochs": config.epochs,
        "commit": result.get("commit"),
        "trained_with": {name: result.get(name) for name in ("device", "devices", "versions")},
        "measured_with": environment(),
        "config": config.to_json(),
    }
    own = jax.tree.map(lambda x: x[0], params)
    path = pretrained.save(f"{config.task}/{config.variant}", own, metadata, folder=folder)
    return path, summary["test_error_percent"][0]
