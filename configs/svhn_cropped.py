"""SVHN's single digits, TFDS's svhn_cropped: the networks for SVHN with one head.

    python train.py --config=configs/svhn_cropped.py --config.variant=stn-sl3

The schedule has not been tuned on the real data.
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="svhn_cropped",
        variant="stn-sl3",
        dataset="svhn_cropped",
        batch_size=128,
        epochs=12,
        learning_rate=0.03,
        localization_optimizer="sgd",
        localization_rate=0.1,
        warmup=0.25,
        label_smoothing=0.0,
        weight_decay=0.0005,
        compute_dtype="bfloat16",
        test_passes=1,  # nothing is distorted, so that all passes are the same
    )
    return ConfigDict(config.to_dict())
