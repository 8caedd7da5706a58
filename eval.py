"""Evaluates a trained network, or asks it about pictures: ``python eval.py --help``."""

import sys

from stn_jax import cli

if __name__ == "__main__":
    sys.exit(cli.stn_eval())
