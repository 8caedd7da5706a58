"""SVHN's whole house numbers in the published training, 217 epochs: 400,000 steps of 128 images.

    python train.py --config=configs/svhn_published.py --config.variant=stn-sl8

Jaderberg et al. 2015 (arXiv 1506.02025), Appendix A.3: learning rate 0.01, a tenth every fifth of
the steps, weight decay 5e-4, a tenth of the rate for the localization network. Momentum stays at
our 0.9. Goodfellow et al. 2014 train on random 54x54 parts: ``--config.crop=54``.
"""

from ml_collections import ConfigDict

from stn_jax.experiments.tables import SVHN_PUBLISHED
from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(**SVHN_PUBLISHED, variant="stn-sl3").to_dict())
