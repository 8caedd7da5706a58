"""The paper's training: 640 epochs at a learning rate of 0.01, divided by 10 after each third.

    python train.py --config=configs/paper_schedule.py --config.task=translated_mnist

The paper does not mention momentum, weight decay or clipping; here momentum is 0.9 and the others
are off.
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        schedule="step",
        learning_rate=0.01,
        localization_optimizer="sgd",
        localization_rate=0.3,
        label_smoothing=0.0,
        epochs=640,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    return ConfigDict(config.to_dict())
