"""Translated MNIST with clutter, all 60,000 digits, with a one-cycle schedule of 20 epochs.

The more inputs a layer sums, the more a step changes its output: at the rates for 28x28 images,
the last ReLUs of the localization network die (docs/table1.md).
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="translated_mnist",
        learning_rate=0.2,
        localization_rate=0.003,
        localization_decay=0.7,
        theta_clip=1.0,
    )
    return ConfigDict(config.to_dict())
