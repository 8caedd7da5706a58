"""Evaluates a trained network, or classifies images with it: ``python eval.py --help``."""

import sys

from stn_jax import cli

if __name__ == "__main__":
    sys.exit(cli.stn_eval())
