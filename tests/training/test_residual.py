"""The residual classifier learns."""

import pytest

from stn_jax.training import Config, train


@pytest.mark.slow
def test_the_residual_classifier_trains_on_the_sample(tmp_path):
    config = Config(
        task="rotated",
        max_angle=45.0,
        dataset="mnist_sample",
        variant="stn-sl2",
        classifier="residual",
        width=1 / 4,
        batch_size=64,
        epochs=2,
        test_passes=1,
        figures=False,
    )
    result = train(config, tmp_path)
    assert result["mean"] < 20
    assert result["warnings"] == {}
