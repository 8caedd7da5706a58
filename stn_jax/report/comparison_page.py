"""A comparison of runs as one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from stn_jax.files import atomic_write
from stn_jax.report.page import environment
from stn_jax.training.comparison import Compared, different_fields, table
from stn_jax.training.config import ConfigError


def write_comparison(compared: Sequence[Compared], path: str | Path) -> Path:
    """Writes the table of a comparison, and the differences of the configurations.

    Args:
      compared: see :func:`stn_jax.training.comparison.compare`.
      path: the file to write.

    Raises:
      ConfigError: the file cannot be written.
    """
    first = compared[0]
    names = [each.name for each in compared]
    fields = [["field", *names]] + [
        [name, *map(str, values)] for name, values in different_fields(compared).items()
    ]
    text = (
        environment()
        .get_template("comparison.html")
        .render(
            title=f"{len(compared)} runs compared",
            about=about(first),
            rows=table(compared),
            fields=fields,
        )
    )
    try:
        with atomic_write(Path(path)) as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another file") from None
    return Path(path)


def about(first: Compared) -> str:
    """A sentence that explains the table's numbers."""
    return (
        f"Errors on the {first.evaluated_on}, {first.summary['test_examples']:,} images, with the "
        f"95 % interval over seeds; differences from {first.name} in percentage points, with 95 % "
        "intervals of the paired differences: below 0 is better."
    )
