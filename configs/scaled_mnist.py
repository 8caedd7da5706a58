"""Scaled MNIST with clutter on 112x112, all 60,000 digits, in a one-cycle schedule of 20 epochs."""

from ml_collections import ConfigDict

from stn_jax.experiments.tables import DEFAULTS
from stn_jax.training import Config


def get_config() -> ConfigDict:
    task = "scaled_mnist"
    return ConfigDict(Config(task=task, **DEFAULTS[task]).to_dict())
