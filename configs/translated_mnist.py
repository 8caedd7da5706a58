"""Translated MNIST with clutter, all 60,000 digits, in a one-cycle schedule of twenty epochs.

The more pixels a network adds up, the more a step moves what it gives: at the rates for 28x28
images, a localization network's last ReLUs die here (docs/table1.md).
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="translated_mnist",
        localization_rate=0.003,
        localization_decay=0.7,
        theta_clip=1.0,
    )
    return ConfigDict(config.to_dict())
