"""Images of your own: a folder with a subfolder for each class, turned, moved and scaled a little.

    stn-train --config=own_data --config.dataset=folder:PATH

docs/own_data.md walks through it. Rates and batches are for sets of hundreds to some ten thousand
images.
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    config = Config(
        task="affine",
        variant="stn-c0",
        dataset="folder:",
        max_angle=30.0,
        max_translation=0.1,
        min_scale=0.8,
        max_scale=1.25,
        max_shear=0.1,
        epochs=30,
        batch_size=32,
        learning_rate=0.05,
        localization_rate=0.01,
        theta_clip=1.0,
        test_passes=4,
    )
    return ConfigDict(config.to_dict())
