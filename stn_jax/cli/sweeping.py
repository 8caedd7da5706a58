"""Trains the combinations of several values of fields, and tabulates their test errors."""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stn_jax.cli.config_flags import read_config
from stn_jax.cli.flags import Parser
from stn_jax.cli.summary import text_table
from stn_jax.files import atomic_write
from stn_jax.training import Config, ConfigError, TrainingError, processes
from stn_jax.training.comparison import format_interval

TABLE, RESULTS = "sweep.txt", "sweep.jsonl"
Values = dict[str, str]


def read_sweeps(arguments: Sequence[str]) -> tuple[list[Values], list[str]]:
    """Parses ``--sweep KEY=VALUE,VALUE,...`` among other arguments.

    Returns:
      The combinations of the values, as text by field, empty without a sweep; and the other
      arguments.

    Raises:
      ConfigError: a sweep is malformed, or a field is swept twice.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--sweep", action="append", default=[])
    flags, rest = parser.parse_known_args(list(arguments))
    sweeps: dict[str, list[str]] = {}
    for text in flags.sweep:
        name, _, values = text.partition("=")
        listed = values.split(",")
        if not name or not all(listed) or len(set(listed)) < len(listed):
            raise ConfigError(
                f"--sweep is {text!r}; expected a field and different values, such as "
                "learning_rate=0.05,0.1"
            )
        if name == "seeds":
            raise ConfigError("--sweep cannot vary seeds; --config.seeds=0,1,2 trains each of them")
        if name in sweeps:
            raise ConfigError(f"--sweep {name} is given twice; name all its values in one of them")
        sweeps[name] = listed
    combined = [
        dict(zip(sweeps, values, strict=True)) for values in itertools.product(*sweeps.values())
    ]
    return (combined if sweeps else []), rest


def train_all(
    combinations: Sequence[Values],
    arguments: Sequence[str],
    default: str,
    train: Callable[[Config, Path], dict[str, Any]],
) -> list[str]:
    """Trains each combination in a separate folder in the workdir; finished ones are skipped.

    A training that fails does not stop the others.

    Args:
      combinations: see :func:`read_sweeps`.
      arguments: of the command, without sweeps.
      default: the config if --config is not given.
      train: trains a configuration in a folder and returns its result.

    Returns:
      The lines of the table, also written to ``sweep.txt`` in the workdir; ``sweep.jsonl`` has the
      results, a line each.

    Raises:
      ConfigError: a combination is not a valid configuration.
      TrainingError: a training failed; raised after the others are done.
    """
    planned = []
    for values in combinations:  # all are checked before the first is trained
        flags = [f"--config.{name}={value}" for name, value in values.items()]
        config, workdir = read_config([*arguments, *flags], default)
        planned.append((values, config, Path(workdir)))
    rows = [[*combinations[0], "test error (%)", "warnings", "workdir"]]
    failed, results = [], []
    for i, (values, config, root) in enumerate(planned, 1):
        folder = root / folder_of(values)
        if processes.is_primary():
            print(f"sweep, {i} of {len(planned)}: {folder}", flush=True)
        try:
            result = train(config, folder)
            error = format_interval((result["mean"], result["ci95"])).lstrip("+")
            warnings = ", ".join(result.get("warnings", {})).replace("_", " ")
            results.append({"sweep": values, **result})
        except TrainingError as reason:
            failed.append(f"{folder}: {reason}")
            error, warnings = "failed", ""
        rows.append([*values.values(), error, warnings or "-", str(folder)])
    lines = text_table(rows)
    if processes.is_primary():
        with atomic_write(planned[0][2] / TABLE) as file:
            file.write("\n".join(lines) + "\n")
        with atomic_write(planned[0][2] / RESULTS) as file:
            file.writelines(json.dumps(result) + "\n" for result in results)
        print(*lines, sep="\n", flush=True)
    if failed:
        raise TrainingError("; ".join(failed))
    return lines


def folder_of(values: Values) -> str:
    """The name of a combination's folder: "learning_rate=0.05,variant=stn-c0"."""
    return ",".join(f"{name}={re.sub(r'[^A-Za-z0-9_.+-]', '_', v)}" for name, v in values.items())
