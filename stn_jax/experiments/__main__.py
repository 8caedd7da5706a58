"""``python -m stn_jax.experiments``: see :mod:`stn_jax.cli.experiments`."""

import sys

from stn_jax import cli

if __name__ == "__main__":
    sys.exit(cli.stn_experiments())
