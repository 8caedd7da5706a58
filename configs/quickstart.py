"""Quickstart: STN-SL1 on rotated digits, with the MNIST sample that comes with the package.

    python train.py

16 epochs of 10,000 digits take a few minutes on two CPU cores. So few steps teach the classifier,
and the transformer to turn digits half way: for digits that turn upright, train on all of MNIST,
with configs/rotated_mnist.py. Without theta_clip it learns next to nothing of it (docs/table1.md).
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(dataset="mnist_sample", epochs=16, theta_clip=1.0).to_dict())
