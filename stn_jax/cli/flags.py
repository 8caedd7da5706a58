"""Shared by the commands: parsing of flags, error messages and exit codes."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from stn_jax.data.sources import DataError
from stn_jax.files import can_be_written, user_cache
from stn_jax.training.config import Config, ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, as our commands do.

    A flag that is given twice is one of them, rather than silently the second.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        seen: set[str] = set()
        for argument in sys.argv[1:] if args is None else args:
            flag = str(argument).partition("=")[0]
            action = self._option_string_actions.get(flag)
            repeatable = action is None or action.nargs == 0 or isinstance(action.default, list)
            if action is not None and action.dest in seen and not repeatable:
                self.error(f"{flag} is given twice; leave one of them out")
            if action is not None:
                seen.add(action.dest)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command. Errors that the user can fix are reported in one line.

    Returns:
      0 for success; 2 for an invalid flag, configuration, folder or file; 1 if training failed; 130
      after Ctrl-C; 141 if the reader of the output has gone, as after ``| head``.
    """
    from stn_jax.pretrained import PretrainedError
    from stn_jax.training.metrics_log import TrainingError
    from stn_jax.training.processes import ProcessError

    for stream in (sys.stdout, sys.stderr):
        # Characters that the locale cannot encode, as in file names, are shown as \xNN.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
        sys.stdout.flush()
    except (ConfigError, DataError, PretrainedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, ProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        message = "stopped; run the same command again to resume from the last checkpoint"
        print(message, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Otherwise the interpreter reports the same error when it flushes the streams at its end.
        with open(os.devnull, "w") as nothing:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nothing.fileno(), stream.fileno())
        return 141
    return 0


def add_data_flags(parser: Any) -> None:
    """Adds --dataset and the data folders to an argparse parser or group."""
    parser.add_argument("--dataset", metavar="NAME", help="mnist, mnist_sample, ...")
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS's folder of prepared data")
    parser.add_argument("--manual_dir", metavar="DIR", help="folder of the original files")
    parser.add_argument("--cache_dir", metavar="DIR", help="folder of the decoded arrays")


def data_settings(flags: argparse.Namespace) -> dict[str, str]:
    """The fields of Config that are set by the flags of :func:`add_data_flags`."""
    names = ("dataset", *Config.FOLDER_FIELDS)
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def check_folder(flag: str, folder: str | Path) -> None:
    """Raises ConfigError if a flag's folder cannot be written to, before the work that fills it."""
    if not can_be_written(Path(folder)):
        raise ConfigError(f"{flag} {folder} cannot be written to; choose another folder")


def enable_compilation_cache() -> None:
    """Enables JAX's persistent compilation cache, so that later starts are quick.

    It is in the user's cache folder unless ``JAX_COMPILATION_CACHE_DIR`` is set.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "xla"))
    shortest = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min(shortest, 0.5))
