"""SVHN's whole house numbers in a short one-cycle schedule: 12 epochs, 2.8 million images.

    python train.py --config=configs/svhn.py --config.manual_dir=FOLDER --config.variant=stn-sl3

docs/svhn.md tells what goes into FOLDER. The schedule has not been tuned on the real data.
"""

from ml_collections import ConfigDict

from stn_jax.experiments.tables import SVHN
from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(**SVHN, variant="stn-sl3").to_dict())
