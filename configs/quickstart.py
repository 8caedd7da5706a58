"""Quickstart: STN-SL1 on rotated digits, with the MNIST sample in the package.

    python train.py

16 epochs of 10,000 digits take a few minutes on two CPU cores. After so few steps the classifier
works, but the transformer undoes only half of the rotation: to align digits fully, train on all of
MNIST with configs/rotated_mnist.py. Without theta_clip it would hardly align them at all
(docs/table1.md).
"""

from ml_collections import ConfigDict

from stn_jax.training import Config


def get_config() -> ConfigDict:
    return ConfigDict(Config(dataset="mnist_sample", epochs=16, theta_clip=1.0).to_dict())
