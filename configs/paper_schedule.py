"""The paper's own training: 640 epochs at a learning rate of 0.01, a tenth after each third.

    python train.py --config=configs/paper_schedule.py --config.task=translated_mnist

The paper gives no momentum, penalty or clipping; here momentum stays at 0.9 and the others are off.
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
