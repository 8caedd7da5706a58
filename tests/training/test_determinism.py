"""The same seed gives the same bits, however the work is divided. (Dispatches: test_step.py.)"""

import dataclasses
import json

import chex
import pytest

from stn_jax.training import Config, train
from stn_jax.training.restore import load

TIMED = {"seconds", "images_per_second"}


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """A function from fields of Config to state, history and errors after eight steps."""
    config = Config(**tiny_config | {"test_passes": 1})

    def run(**fields):
        path = tmp_path_factory.mktemp("runs")
        result = train(dataclasses.replace(config, **fields), path)
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        bare = [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
        return load(path)[1], bare, result["test_error_percent"]

    return run


@pytest.fixture(scope="module")
def once(trained):
    return trained()


@pytest.mark.parametrize("fields", [{}, {"steps_per_dispatch": 1}], ids=["again", "apart"])
def test_the_same_again_whatever_the_dispatches(trained, once, fields):
    state, lines, errors = trained(**fields)
    chex.assert_trees_all_equal(state, once[0])
    assert lines == once[1]
    assert errors == once[2]


def test_the_logging_interval_and_the_checkpoints_do_not_matter(trained, once):
    state, lines, errors = trained(log_every=5, checkpoint_every=2, test_batch_size=7)
    chex.assert_trees_all_equal(state, once[0])
    assert [line["step"] for line in lines] == [5, 8]
    assert errors == once[2]


def test_another_seed_is_another_training(trained, once):
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(trained(seeds=(1,))[0], once[0])
