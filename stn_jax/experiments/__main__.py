"""``python -m stn_jax.experiments``: see :mod:`stn_jax.cli.experiments`."""

import sys

from stn_jax.cli.experiments import main

if __name__ == "__main__":
    sys.exit(main())
