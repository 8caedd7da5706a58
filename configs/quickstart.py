"""Quickstart: STN-SL1 on rotated digits, with the MNIST sample that comes with the package."""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(dataset="mnist_sample", epochs=16).to_dict())
