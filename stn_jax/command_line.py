"""What the commands share: reading flags, and turning errors into one line and an exit code."""

import argparse
import ast
import dataclasses
import difflib
import io
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from stn_jax.data.sources import DataError
from stn_jax.files import user_cache
from stn_jax.training.config import Config, ConfigError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as our commands do."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command. What the user can mend is said in one line, with exit code 2.

    Returns:
      0 when all went well; 2 for a wrong flag, configuration, folder or file; 1 where training
      itself failed; 130 after Ctrl-C.
    """
    from stn_jax.pretrained import PretrainedError
    from stn_jax.training.loop import TrainingError
    from stn_jax.training.processes import ProcessError

    for stream in (sys.stdout, sys.stderr):
        # Whatever a locale's encoding lacks, in a name of a file say, is shown as \xNN.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
    except (ConfigError, DataError, PretrainedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, ProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def read_config(argv: Sequence[str], default: Path) -> tuple[Config, str]:
    """Reads ``--config=FILE --config.KEY=VALUE --workdir=DIR`` from a command line.

    Args:
      argv: the command line, with the program's name first.
      default: the config file to read where --config is not given.

    Returns:
      The configuration, and the workdir: where not given, runs/ and the config file's name.

    Raises:
      ConfigError: a flag or field is unknown, a value is out of range, a file does not exist.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=str(default))
    parser.add_argument("--workdir")
    flags, rest = parser.parse_known_args(list(argv)[1:])
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
      path: the file, a Python program; behind a colon may be what get_config is called with.
      fields: of Config, in place of the file's own. What the file derives from a field by a
        reference of ml_collections follows it.

    Raises:
      ConfigError: there is no such file, it fails, or what it returns is no configuration.
    """
    from ml_collections import ConfigDict

    file, arguments = path, []
    if not os.path.exists(path) and ":" in path:
        file, *arguments = path.split(":", 1)
    if not os.path.isfile(file):
        raise ConfigError(f"--config is {file}, which is no file; expected a Python program")
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


def add_data_flags(parser: Any) -> None:
    """Adds --dataset and the folders to an argparse parser or group of flags."""
    parser.add_argument("--dataset", metavar="NAME", help="mnist, mnist_sample, ...")
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS's folder of prepared data")
    parser.add_argument("--manual_dir", metavar="DIR", help="the data set's original files")
    parser.add_argument("--cache_dir", metavar="DIR", help="decoded arrays are kept there")


def data_settings(flags: argparse.Namespace) -> dict[str, str]:
    """The fields of Config that those flags set."""
    names = ("dataset", *Config.FOLDERS)
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def enable_compilation_cache() -> None:
    """Keeps what XLA compiles in a folder of the user's, so that a second start is quick.

    ``JAX_COMPILATION_CACHE_DIR`` names another folder, as everywhere in JAX.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "xla"))
    shortest = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min(shortest, 0.5))
