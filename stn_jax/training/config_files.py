"""Config files: Python programs whose ``get_config()`` returns a configuration."""

import os
import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stn_jax
from stn_jax.training.config import Config, ConfigError


def named_configs() -> dict[str, Path]:
    """Paths of the configurations that come with the package, by name."""
    folders = [
        Path(stn_jax.__file__).with_name("configs"),
        Path(stn_jax.__file__).parents[1] / "configs",
    ]
    found = next((folder for folder in folders if folder.is_dir()), None)
    return {} if found is None else {path.stem: path for path in sorted(found.glob("[!_]*.py"))}


def named_config(name: str) -> dict[str, Any]:
    """The non-default fields of a configuration that comes with the package."""
    fields, defaults = read_config_file(name, {}).to_dict(), Config().to_dict()
    return {key: value for key, value in fields.items() if value != defaults[key]}


def read_config_file(path: str, fields: Mapping[str, Any]) -> Config:
    """Reads a config file: runs it and calls its function ``get_config()``.

    Args:
      path: a Python file, or the name of a configuration that comes with the package
        (:func:`named_configs`); an argument for get_config may follow after a colon.
      fields: fields of Config that override the file's. Values that the file derives from them
        through ml_collections references are updated too.

    Raises:
      ConfigError: the file does not exist, fails, or does not return a configuration.
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
            f"--config is {file}, which is not a file; expected a Python file, or one of "
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
        # A config file is a program, so anything can be raised.
        raise ConfigError(f"cannot load --config: {_failure(file, error)}") from None
    return Config.from_dict(values)


def _failure(file: str, error: BaseException) -> str:
    """Describes an error in a config file, with its line."""
    if isinstance(error, KeyError) and error.args == ("get_config",):
        return f"{file} has no function get_config"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f"{file}, line {lines[-1]}" if lines else file
    message = (str(error).strip().splitlines() or [""])[-1].strip()
    return f"{where}: {type(error).__name__}" + (f": {message}" if message else "")
