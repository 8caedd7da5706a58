"""Configurations from the command line: a config file, and fields of it set by flags."""

import ast
import dataclasses
import difflib
import inspect
import os
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import stn_jax
from stn_jax.cli.flags import Parser
from stn_jax.training.config import Config, ConfigError


def named_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name: those of the folder ``configs``."""
    folders = [
        Path(stn_jax.__file__).with_name("configs"),
        Path(stn_jax.__file__).parents[1] / "configs",
    ]
    found = next((folder for folder in folders if folder.is_dir()), None)
    return {} if found is None else {path.stem: path for path in sorted(found.glob("[!_]*.py"))}


def read_config(arguments: Sequence[str], default: str) -> tuple[Config, str]:
    """Reads ``--config=FILE --config.KEY=VALUE --workdir=DIR`` from a command line.

    Args:
      arguments: of the command.
      default: the config to read where --config is not given.

    Returns:
      The configuration, and the workdir: where not given, runs/ and the config file's name.

    Raises:
      ConfigError: a flag or field is unknown, a value is out of range, a file does not exist.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=default)
    parser.add_argument("--workdir")
    flags, rest = parser.parse_known_args(list(arguments))
    config = read_config_file(flags.config, read_fields(rest))
    return config, flags.workdir or os.path.join("runs", Path(flags.config).stem)


def read_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads ``--config.KEY=VALUE ...``, for a bool also ``--config.KEY`` and ``--noconfig.KEY``.

    Returns:
      The fields of Config that are named, in their types. What is not of a field's type is left as
      text, for Config to refuse.

    Raises:
      ConfigError: an argument is something else, or there is no such field.
    """
    fields: dict[str, Any] = {}
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            raise ConfigError(
                f"cannot make sense of {argument!r}; --help lists the flags, and a field of the "
                "configuration is set by --config.KEY=VALUE"
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
        fields[name] = _value(types[name], left.pop(0) if text is None else text)
    return fields


def _value(kind: Any, text: str) -> Any:
    """A text as a value of a field's type; the text itself where it is none."""
    if kind is bool:
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        return words.get(text.lower(), text)
    read = kind if kind in (str, int, float) else ast.literal_eval
    try:
        return read(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def read_config_file(path: str, fields: Mapping[str, Any]) -> Config:
    """The configuration of a config file: what its function ``get_config()`` returns.

    Args:
      path: the file, a Python program, or the name of one that comes with the package
        (:func:`named_configs`); behind a colon may be what get_config is called with.
      fields: of Config, in place of the file's own. What the file derives from a field by a
        reference of ml_collections follows it.

    Raises:
      ConfigError: there is no such file, it fails, or what it returns is no configuration.
    """
    from ml_collections import ConfigDict

    file, arguments = path, []
    if not os.path.exists(path) and ":" in path:
        file, *arguments = path.split(":", 1)
    named = named_configs()
    if not os.path.isfile(file) and file in named:
        file = str(named[file])
    if not os.path.isfile(file):
        raise ConfigError(
            f"--config is {file}, which is no file; expected a Python program, or one of "
            f"{', '.join(named)}"
        )
    try:
        found = runpy.run_path(file)["get_config"](*arguments)
        if isinstance(found, Config):
            found = found.to_dict()
        if not isinstance(found, dict | ConfigDict):
            raise TypeError(f"get_config returns {found!r:.60}; expected a ConfigDict")
        config = found if isinstance(found, ConfigDict) else ConfigDict(found)
        with config.unlocked(), config.ignore_type():
            config.update(fields)
        values = config.to_dict()
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except (Exception, SystemExit) as error:
        # A config file is a program, which can fail in any way.
        raise ConfigError(f"cannot load --config: {_failure(file, error)}") from None
    return Config.from_dict(values)


def _failure(file: str, error: BaseException) -> str:
    """What went wrong in a config file, and in which of its lines."""
    if isinstance(error, KeyError) and error.args == ("get_config",):
        return f"{file} has no function get_config"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f"{file}, line {lines[-1]}" if lines else file
    said = (str(error).strip().splitlines() or [""])[-1].strip()
    return f"{where}: {type(error).__name__}" + (f": {said}" if said else "")


def described_fields() -> str:
    """The fields of Config with what they mean and their defaults, as text."""
    about = inspect.getdoc(Config) or ""
    lines = []
    for line in about[about.index("Attributes:") :].splitlines()[1:]:
        if match := re.match(r"  (\w+(?:, \w+)*):", line):
            names = match[1].split(", ")
            defaults = ", ".join(repr(getattr(Config, name)) for name in names)
            line = f"  {match[1]} [{defaults}]{line[match.end() - 1 :]}"
        lines.append(line)
    return "\n".join(lines)
