"""SVHN's full house numbers with a short one-cycle schedule: 12 epochs, 2.8 million images.

    python train.py --config=configs/svhn.py --config.manual_dir=FOLDER --config.variant=stn-sl3

docs/svhn.md describes the content of FOLDER. The schedule has not been tuned on the real data.
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="svhn",
        variant="stn-sl3",
        dataset="svhn_numbers",
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
