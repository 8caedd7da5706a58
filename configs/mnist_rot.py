"""MNIST-rot: 12,000 training digits, 50,000 test digits, rotated over the full circle.

A training digit is rotated by a new angle in each epoch, a test digit by a fixed one. 200 epochs of
12,000 digits have as many steps as 40 of all 60,000. ``--config.holdout=2000`` leaves the usual
10,000 training digits, and evaluates the other 2,000 in place of the test set.
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="rotated_mnist",
        dataset="mnist_rot",
        max_angle=180.0,
        epochs=200,
        learning_rate=0.2,
        checkpoint_every=5,
        test_passes=1,
    )
    return ConfigDict(config.to_dict())
