"""The same seed gives the same bits, whatever is recorded on the way; see test_step.py, too."""

import dataclasses
import json

import chex
import pytest

from stn_jax.training import Config, train
from stn_jax.training.restore import load


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """A function from fields of Config to state, steps of the history and errors of eight steps."""
    config = Config(**tiny_config | {"test_passes": 1})

    def run(**fields):
        path = tmp_path_factory.mktemp("runs")
        result = train(dataclasses.replace(config, **fields), path)
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return load(path)[1], [line["step"] for line in lines], result["test_error_percent"]

    return run


@pytest.fixture(scope="module")
def once(trained):
    return trained()


@pytest.mark.slow
def test_the_logging_interval_and_the_checkpoints_do_not_matter(trained, once):
    state, steps, errors = trained(
        log_every=5, checkpoint_every=2, test_batch_size=7, steps_per_dispatch=1
    )
    chex.assert_trees_all_equal(state, once[0])
    assert (once[1], steps) == ([3, 4, 6, 8], [5, 8])
    assert errors == once[2]


@pytest.mark.slow
def test_another_seed_is_another_training(trained, once):
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(trained(seeds=(1,))[0], once[0])
