"""A run's configuration from the command line: a config file, with fields overridden by flags."""

import ast
import dataclasses
import difflib
import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stn_jax.cli.flags import Parser
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.config_files import read_config_file


def read_config(arguments: Sequence[str], default: str) -> tuple[Config, str]:
    """Parses ``--config=FILE --config.KEY=VALUE --workdir=DIR``.

    Args:
      arguments: the command's arguments.
      default: the config if --config is not given.

    Returns:
      The configuration, and the workdir; by default runs/ and the config file's name.

    Raises:
      ConfigError: a flag or field is unknown, a value is invalid, or a file does not exist.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=default)
    parser.add_argument("--workdir")
    flags, rest = parser.parse_known_args(list(arguments))
    config = read_config_file(flags.config, read_fields(rest))
    return config, flags.workdir or os.path.join("runs", Path(flags.config).stem)


def read_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses ``--config.KEY=VALUE ...``, for bools also ``--config.KEY`` and ``--noconfig.KEY``.

    Returns:
      The given fields of Config, in their types. Values that cannot be converted stay text, which
      Config rejects.

    Raises:
      ConfigError: an argument has another form, or the field is unknown or given twice.
    """
    fields: dict[str, Any] = {}
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            raise ConfigError(
                f"unknown argument {argument!r}; --help lists the flags, and --config.KEY=VALUE "
                "sets a field of the configuration"
            )
        negated, name, text = match.groups()
        if name not in types:
            near = difflib.get_close_matches(name, types, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ConfigError(f"unknown configuration field {name!r}{hint}")
        if types[name] is bool and text is None:
            text = "false" if negated else "true"
        elif negated or (text is None and not left):
            raise ConfigError(f"{argument} has no value; expected --config.{name}=VALUE")
        if name in fields:
            raise ConfigError(f"--config.{name} is given twice; leave one of them out")
        fields[name] = _value(types[name], left.pop(0) if text is None else text)
    return fields


def _value(kind: Any, text: str) -> Any:
    """Converts text to a field's type; the text itself if it is not valid."""
    if kind is bool:
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        return words.get(text.lower(), text)
    read = kind if kind in (str, int, float) else ast.literal_eval
    try:
        return read(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def described_fields() -> str:
    """The fields of Config with their descriptions and defaults, as text."""
    about = inspect.getdoc(Config) or ""
    lines = []
    for line in about[about.index("Attributes:") :].splitlines()[1:]:
        if match := re.match(r"  (\w+(?:, \w+)*):", line):
            names = match[1].split(", ")
            defaults = ", ".join(repr(getattr(Config, name)) for name in names)
            line = f"  {match[1]} [{defaults}]{line[match.end() - 1 :]}"
        lines.append(line)
    return "\n".join(lines)
