"""What the commands share: reading flags, and turning errors into one line and an exit code."""

import argparse
import ast
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stn_jax.data.sources import DataError
from stn_jax.training.config import Config, ConfigError


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command. What the user can mend is said in one line, with exit code 2.

    Returns:
      0 when all went well; 2 for a wrong flag, configuration, folder or file; 1 where training
      itself failed; 130 after Ctrl-C.
    """
    from stn_jax.pretrained import PretrainedError
    from stn_jax.training.loop import TrainingError
    from stn_jax.training.processes import ProcessError

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
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)
    try:
        file = config_flags.DEFINE_config_file("config", str(default), flag_values=values)
        rest = values(list(argv))[1:]
        config = Config.from_dict(file.value.to_dict())
    except ConfigError:
        raise
    except AttributeError as error:
        # A misspelt field: ml_collections names the nearest one.
        message = str(error).strip("\"'").replace("\\'", "").replace("\\n", ". ")
        raise ConfigError(f"unknown configuration field {message}") from None
    except flags.Error as error:
        raise ConfigError(str(error)) from None
    except Exception as error:
        # A config file is a program, which can fail in any way; the last line says how it did.
        last = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"cannot load --config: {last}") from None
    if rest:
        raise ConfigError(f"cannot make sense of {' '.join(rest)!r}; flags are --NAME=VALUE")
    name = config_flags.get_config_filename(values["config"])
    return config, workdir.value or os.path.join("runs", Path(name).stem)


def read_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads ``--config.KEY=VALUE ...`` alone, without a config file.

    Returns:
      The fields of Config that are named; whether their values can be is for Config to say.

    Raises:
      ConfigError: an argument is something else, or there is no such field.
    """
    fields = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if name == argument.partition("=")[0] or not equals:
            raise ConfigError(
                f"cannot make sense of {argument!r}; --help lists the flags, and a field of the "
                "configuration is set by --config.KEY=VALUE"
            )
        if name not in (known := [field.name for field in dataclasses.fields(Config)]):
            near = difflib.get_close_matches(name, known, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ConfigError(f"unknown configuration field {name!r}{hint}")
        try:
            fields[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            fields[name] = text
    return fields


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
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(base, "stn_jax", "xla"))
    shortest = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min(shortest, 0.5))
