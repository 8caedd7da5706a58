"""The study's tables and figures as lists of runs: ``python -m stn_jax.experiments --help``."""
