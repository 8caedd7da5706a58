"""Which results belong to a row of a table, and how they were trained."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from stn_jax.experiments.results import Result, identity
from stn_jax.experiments.tables import NETWORK, Row
from stn_jax.training.config import Config


def of_row(row: Row, results: Iterable[Result], dataset: str) -> list[Result]:
    """The results of a row's network on a data set."""
    wanted = row.config()
    return [
        result
        for result in results
        if result.config.dataset == dataset
        and all(getattr(result.config, name) == getattr(wanted, name) for name in NETWORK)
    ]


def grouped(results: Iterable[Result]) -> list[list[Result]]:
    """Groups of results that differ only in the seed, those with most epochs first."""
    groups: dict[object, list[Result]] = {}
    for result in results:
        config = dataclasses.replace(result.config, seeds=(0,))
        examples = result.line["train_examples"], result.line["test_examples"]
        groups.setdefault((identity(config), result.device, examples), []).append(result)
    return sorted(groups.values(), key=lambda group: (-group[0].config.epochs, group[0].device))


def settings_of(row: Row, config: Config) -> dict[str, Any]:
    """Fields that differ from the row's configuration and have no column: {"width": 0.5}."""
    own, columns = row.config().to_dict(), {"seeds", "epochs", "dataset", "test_passes"}
    values = config.to_dict()
    hidden = Config.RUNTIME_FIELDS | columns
    return {n: values[n] for n in own if own[n] != values[n] and n not in hidden}


def format_settings(settings: Sequence[tuple[str, Any]], form: str) -> str:
    """Formats settings, "width 0.5, dropout 0.0", and inserts them into a form; "" for none."""
    words = ", ".join(f"{name} {value}" for name, value in settings)
    return form.format(words) if words else ""
