"""Trains a network and evaluates it: ``python train.py --help``."""

import sys

from stn_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
