"""Lines of results as runs would have left them."""

import pytest

from stn_jax.experiments import results
from stn_jax.experiments.tables import TABLES


@pytest.fixture
def line():
    """Makes the line of a run of a row: ``line("rotation/cnn", seed, error, epochs=2, ...)``."""

    def make(
        row,
        seed=0,
        error=1.5,
        *,
        device="a CPU",
        seconds=600.0,
        together=None,
        extra=(),
        **settings,
    ):
        table = next(t for t in TABLES.values() if any(r.name == row for r in t.rows))
        config = table.select([row])[0].config({"dataset": "mnist", **settings, "seeds": (seed,)})
        return {
            "row": row,
            "seed": seed,
            "test_error_percent": error,
            "trained_together": together or [seed],
            "images_per_second": 1000.0,
            "seconds": seconds,
            "epochs": config.epochs,
            "total_steps": 234 * config.epochs,
            "train_examples": 60_000,
            "test_examples": 10_000,
            "test_passes": 10,
            "evaluated_on": "test set",
            "device": device,
            "devices": 1,
            "versions": dict.fromkeys(["jax", "jaxlib", "flax", "optax", "python"], "1.2.3"),
            "commit": "abc",
            "config": config.to_dict(),
            **dict(extra),
        }

    return make


@pytest.fixture
def read_back(tmp_path):
    """Writes lines to a file and reads them."""

    def through_a_file(*lines):
        results.append(tmp_path / "results" / "made.jsonl", lines)
        return results.read(tmp_path / "results")

    return through_a_file
