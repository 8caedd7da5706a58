"""SVHN's full house numbers, trained as published: 400,000 steps of 128 images, 217 epochs.

    python train.py --config=configs/svhn_published.py --config.variant=stn-sl8

Jaderberg et al. 2015 (arXiv:1506.02025), Appendix A.3: learning rate 0.01, divided by 10 after
every fifth of the steps, weight decay 5e-4, a tenth of the rate for the localization network.
Momentum is 0.9. Goodfellow et al. 2014 train on random 54x54 crops: ``--config.crop=54``.
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="svhn",
        variant="stn-sl3",
        dataset="svhn_numbers",
        batch_size=128,
        epochs=217,
        learning_rate=0.01,
        localization_optimizer="sgd",
        localization_rate=0.1,
        warmup=0.25,
        label_smoothing=0.0,
        weight_decay=0.0005,
        test_passes=1,  # nothing is distorted, so that all passes are the same
        schedule="step",
        step_drops=4,
        clip_norm=0.0,
    )
    return ConfigDict(config.to_dict())
