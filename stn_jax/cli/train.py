"""Trains a network and evaluates it.

{command} [--config=NAME|FILE] [--workdir=DIR] [--config.KEY=VALUE ...]
{command} ... --sweep KEY=VALUE,VALUE,... [--sweep KEY=VALUE,... ...]

NAME is one of {names}; without --config it is {default}. Run the same command again to resume from
the last checkpoint. The workdir (runs/NAME) then holds config.json, metrics.jsonl, checkpoints/,
figures/ and result.json. With --sweep all combinations of the values are trained, each in a
separate folder in the workdir, and a table is printed at the end. The fields of the configuration,
with their defaults:

{fields}
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from stn_jax.cli.config_flags import described_fields, read_config
from stn_jax.cli.flags import enable_compilation_cache, exit_code
from stn_jax.cli.summary import print_result
from stn_jax.cli.sweeping import read_sweeps, train_all
from stn_jax.report.gallery import DrawFigures
from stn_jax.training import processes, train
from stn_jax.training.config_files import named_configs
from stn_jax.training.overview import overview
from stn_jax.training.run import Run

DEFAULT = "quickstart"


class _Hooks(DrawFigures):
    """Prints an overview before the first step, and draws figures at the end."""

    def before_steps(self, run: Run, step: int) -> None:
        if step == 0:
            print(overview(run), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: _train(arguments))


def _train(arguments: Sequence[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(_help())
        return
    enable_compilation_cache()
    processes.join()
    combinations, rest = processes.run_on_all(lambda: read_sweeps(arguments))
    if combinations:
        train_all(
            combinations, rest, DEFAULT, lambda config, workdir: train(config, workdir, _Hooks())
        )
        return
    config, workdir = processes.run_on_all(lambda: read_config(arguments, DEFAULT))
    result = train(config, workdir, _Hooks())
    if processes.is_primary():
        print_result(result, workdir)


def _help() -> str:
    assert __doc__ is not None
    return __doc__.format(
        command=Path(sys.argv[0]).name,
        names=", ".join(named_configs()),
        default=DEFAULT,
        fields=described_fields(),
    )
