"""What the commands share: reading flags, and turning errors into one line and an exit code."""

import argparse
import io
import sys
from collections.abc import Callable
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
    from stn_jax.training.metrics_log import TrainingError
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


def add_data_flags(parser: Any) -> None:
    """Adds --dataset and the folders to an argparse parser or group of flags."""
    parser.add_argument("--dataset", metavar="NAME", help="mnist, mnist_sample, ...")
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS's folder of prepared data")
    parser.add_argument("--manual_dir", metavar="DIR", help="the data set's original files")
    parser.add_argument("--cache_dir", metavar="DIR", help="decoded arrays are kept there")


def data_settings(flags: argparse.Namespace) -> dict[str, str]:
    """The fields of Config that those flags set."""
    names = ("dataset", *Config.FOLDER_FIELDS)
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
