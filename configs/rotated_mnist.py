"""Rotated MNIST, all 60,000 digits, in a one-cycle schedule of twenty epochs."""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(task="rotated_mnist").to_dict())
