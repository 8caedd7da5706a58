"""Rotated MNIST, all 60,000 digits, with a one-cycle schedule of 20 epochs."""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(task="rotated_mnist", learning_rate=0.2).to_dict())
