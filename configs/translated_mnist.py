"""Translated MNIST with clutter, all 60,000 digits, in a one-cycle schedule of twenty epochs."""

from ml_collections import ConfigDict

from stn_jax.experiments.tables import DEFAULTS
from stn_jax.training import Config


def get_config() -> ConfigDict:
    task = "translated_mnist"
    return ConfigDict(Config(task=task, **DEFAULTS[task]).to_dict())
