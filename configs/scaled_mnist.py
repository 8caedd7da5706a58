"""Scaled MNIST with clutter, 112x112, all 60,000 digits, with a one-cycle schedule of 20 epochs.

At the learning rate of the other tasks the classifiers' ReLUs die (docs/table1.md).
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="scaled_mnist",
        learning_rate=0.05,
        localization_rate=0.006,
        localization_decay=0.7,
        theta_clip=1.0,
    )
    return ConfigDict(config.to_dict())
