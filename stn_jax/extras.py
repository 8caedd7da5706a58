"""Optional parts of the package: what they need, and how to install it."""

import contextlib
from collections.abc import Iterator


class MissingExtraError(ImportError):
    """A part of the package is used, and what it needs is not installed: says what to do."""


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that an extra of the package provides.

    Args:
      name: of the extra, as in ``pip install "stn_jax[train]"``.

    Raises:
      MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("stn_jax"):
            raise
        package = error.name.partition(".")[0]
        raise MissingExtraError(
            f'{package} is not installed; pip install "stn_jax[{name}]" installs it',
            name=error.name,
        ) from None
