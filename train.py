"""Trains a network and evaluates it: ``python train.py --help``."""

import sys

from stn_jax import cli

if __name__ == "__main__":
    sys.exit(cli.stn_train())
