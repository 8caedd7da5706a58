"""SVHN's single digits, the svhn_cropped of TFDS: the networks of SVHN with one head.

    python train.py --config=configs/svhn_cropped.py --config.variant=stn-sl3

The schedule has not been tuned on the real data.
"""

from ml_collections import ConfigDict

from stn_jax.experiments.tables import SVHN_CROPPED
from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(**SVHN_CROPPED, variant="stn-sl3").to_dict())
