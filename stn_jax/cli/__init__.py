"""The commands ``stn-train``, ``stn-eval`` and ``stn-experiments``."""

import sys
from collections.abc import Callable

from stn_jax.extras import MissingExtraError, extra


def stn_train() -> int:
    """``stn-train``: see :mod:`stn_jax.cli.train`."""

    def load() -> Callable[[], int]:
        from stn_jax.cli.train import main

        return main

    return _run(load)


def stn_eval() -> int:
    """``stn-eval``: see :mod:`stn_jax.cli.eval`."""

    def load() -> Callable[[], int]:
        from stn_jax.cli.eval import main

        return main

    return _run(load)


def stn_experiments() -> int:
    """``stn-experiments``: see :mod:`stn_jax.cli.experiments`."""

    def load() -> Callable[[], int]:
        from stn_jax.cli.experiments import main

        return main

    return _run(load)


def _run(load: Callable[[], Callable[[], int]]) -> int:
    try:
        with extra("train"):
            command = load()
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return command()
