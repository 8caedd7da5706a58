"""Optional features of the package: a clear error where their dependencies are missing."""

import contextlib
from collections.abc import Iterator


class MissingExtraError(ImportError):
    """A package that an optional feature needs is not installed; the message says what to do."""


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Context for imports of packages that an extra installs.

    Args:
      name: name of the extra, as in ``pip install "stn_jax[train]"``.

    Raises:
      MissingExtraError: one of the packages is not installed.
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
