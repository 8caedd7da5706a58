"""Trains the study's networks, tabulates the results, and draws the paper's figures.

python -m stn_jax.experiments TABLE [--rows ROWS] [--seeds SEEDS] [--epochs N] [--dry-run]
python -m stn_jax.experiments TABLE --render | --pretrained
python -m stn_jax.experiments figure1 | figure2 | figure3 [--pretrained]
python -m stn_jax.experiments pretrained [--rows ROWS]

TABLE: {tables}. Run the same command again to resume; finished
runs are skipped. --config.KEY=VALUE sets a field of the configuration for all rows, as in
train.py. TABLE --help lists the table's rows.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from stn_jax.cli.config_flags import read_fields
from stn_jax.cli.flags import (
    Parser,
    add_data_flags,
    check_folder,
    data_settings,
    enable_compilation_cache,
    exit_code,
)
from stn_jax.experiments.tables import TABLES, Row, Table
from stn_jax.training.config import Config, ConfigError

SEEDS = "0,1,2"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return exit_code(lambda: _experiments(argv))


def _experiments(argv: Sequence[str] | None) -> None:
    flags, rest = _parser().parse_known_args(argv)
    settings = {**data_settings(flags), **read_fields(rest)}
    if flags.epochs is not None:
        settings["epochs"] = flags.epochs
    if "seeds" in settings:
        raise ConfigError("--config.seeds cannot be set here; use --seeds")
    seeds = _seeds(flags.seeds)
    enable_compilation_cache()
    if flags.command in TABLES:
        _table(flags, settings, seeds)
    else:
        _from_trained(flags, settings, seeds)


def _table(flags: argparse.Namespace, settings: dict[str, Any], seeds: tuple[int, ...]) -> None:
    rows = TABLES[flags.command].select(flags.rows.split(","))
    if flags.render:
        _render(Path(flags.docs), flags.results)
    elif flags.pretrained:
        _measure_poses(flags, settings, rows)
    else:
        _train(flags, settings, seeds, rows)


def _measure_poses(
    flags: argparse.Namespace, settings: dict[str, Any], rows: Sequence[Row]
) -> None:
    """Adds the poses of the package's weights to the results of their training."""
    from stn_jax.experiments import jobs as runner
    from stn_jax.experiments import results

    if given := [name for name in ("export", "also_test") if getattr(flags, name)]:
        raise ConfigError(f"--{given[0]} cannot be combined with --pretrained")
    names = {row.name for row in rows}
    chosen = [result for result in results.read(flags.results) if result.line["row"] in names]
    runner.measure_poses(chosen, settings, _file(flags), lambda line: print(line, flush=True))


def _train(
    flags: argparse.Namespace,
    settings: dict[str, Any],
    seeds: tuple[int, ...],
    rows: Sequence[Row],
) -> None:
    """Trains what a table lacks; with ``--dry-run``, lists it."""
    from stn_jax.experiments import jobs as runner
    from stn_jax.experiments import results, results_page
    from stn_jax.training import processes

    if not flags.dry_run:  # this runs in a single process
        processes.join()
    if flags.export:
        _check_export([row.config(settings) for row in rows])
        check_folder("--export", flags.export)
    done = results.read_on_primary(flags.results)
    seeds_per_program = flags.seeds_per_program
    if seeds_per_program is None:
        seeds_per_program = runner.default_seeds_per_program()
    if seeds_per_program < 1:
        raise ConfigError(f"--seeds_per_program is {seeds_per_program}; expected 1 or more")
    jobs = runner.plan(rows, settings, seeds, done, seeds_per_program)
    root = _root(flags)

    def report(line: str) -> None:
        if processes.is_primary():
            print(line, flush=True)

    report(runner.summary(jobs, len(rows) * len(seeds), done))
    if flags.dry_run:
        for row in rows:
            for seed in seeds:
                for result in results.of(row.config({**settings, "seeds": (seed,)}), done):
                    report(f"{row.name}, seed {seed}: done, {result}")
        for job in jobs:
            report(f"{job}: {runner.estimate(job, done)}, in {job.workdir(root)}")
        return

    def finished(job: runner.Job) -> None:
        _also_test(flags, settings, [job.row], job.config.seeds, report)
        if flags.export and seeds[0] in job.config.seeds:
            report(_export(root, settings, seeds[:1], job.row, flags.export))

    runner.run(jobs, root, _file(flags), report, finished)
    _also_test(flags, settings, rows, seeds, report)  # what was trained earlier
    done = results.read_on_primary(flags.results, quiet=True)
    dataset = rows[0].config(settings).dataset
    report(results_page.markdown(TABLES[flags.command], done, dataset))


def _file(flags: argparse.Namespace) -> Path:
    """The results' file of the table."""
    return Path(flags.results) / f"{flags.command}.jsonl"


def _root(flags: argparse.Namespace) -> str:
    return flags.workdir or f"runs/{flags.command}"


def _also_test(
    flags: argparse.Namespace,
    settings: dict[str, Any],
    rows: Iterable[Row],
    seeds: Iterable[int],
    report: Callable[[str], None],
) -> None:
    """Evaluates trained networks on the data set of ``--also_test``, if it is given."""
    from stn_jax.experiments import jobs as runner
    from stn_jax.experiments import results

    if not flags.also_test:
        return
    trained = results.read_on_primary(flags.results, quiet=True)
    configs = [row.config({**settings, "seeds": (seed,)}) for row in rows for seed in seeds]
    to_test = [result for config in configs for result in results.of(config, trained)]
    folders = {name: settings[name] for name in Config.FOLDER_FIELDS if name in settings}
    runner.test_also(to_test, flags.also_test, folders, _root(flags), _file(flags), report)


def _check_export(configs: Sequence[Config]) -> None:
    """Raises ConfigError if the networks cannot all be exported."""
    import jax

    if jax.process_count() > 1:
        raise ConfigError("--export needs a single process; run the command pretrained afterwards")
    names = [f"{config.task}/{config.variant}" for config in configs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"--export would store several rows as {twice[0]}; choose one of them with --rows"
        )


def _export(
    root: str, settings: dict[str, Any], seeds: tuple[int, ...], row: Row, folder: str | None
) -> str:
    """Exports the weights of a row's first trained seed; what to report."""
    from stn_jax.experiments.export_weights import export
    from stn_jax.experiments.trained import Trained

    path, error = export(Trained(root, settings, seeds), row, folder)
    return f"{row.name}: test error {error:.2f} % with stored weights; {path}"


def _render(docs: Path, folder: str) -> None:
    """Writes the pages that a folder of results determines, or parts of them."""
    from stn_jax.experiments import claims, results, results_page

    found = results.read(folder)
    results_page.write(docs / "results.md", found, folder)
    print(f"written to {docs / 'results.md'}")
    if claims.update(docs / "study.md", found):
        print(f"written to {docs / 'study.md'}")


def _from_trained(
    flags: argparse.Namespace, settings: dict[str, Any], seeds: tuple[int, ...]
) -> None:
    from stn_jax.experiments.trained import Networks, Packaged, Trained

    root = flags.workdir or "runs/table1"
    if flags.command == "pretrained":
        if flags.folder:
            check_folder("--folder", flags.folder)
        for row in TABLES["table1"].select(flags.rows.split(",")):
            print(_export(root, settings, seeds, row, flags.folder), flush=True)
        return
    check_folder("--docs", flags.docs)
    try:
        from stn_jax.experiments import paper_figures
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed, and {flags.command} needs it") from None
    networks: Networks = Trained(root, settings, seeds)
    if flags.pretrained:
        if flags.workdir or set(settings) - set(Config.FOLDER_FIELDS):
            raise ConfigError("with --pretrained only data folders can be set")
        networks = Packaged(settings)
    path = Path(flags.docs) / f"{flags.command}.png"
    getattr(paper_figures, flags.command)(networks, path)
    print(f"drawn in {path}")


def _parser() -> argparse.ArgumentParser:
    about = __doc__.format(tables=", ".join(TABLES))
    parser = Parser(
        prog="python -m stn_jax.experiments",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        one.add_argument("--seeds", default=SEEDS, help=f"numbers with commas; default {SEEDS}")
        one.add_argument("--epochs", type=int, metavar="N", help="as --config.epochs")
        one.add_argument("--workdir", metavar="DIR", help="folder of the training runs' folders")
        add_data_flags(one)
        return one

    for name, table in TABLES.items():
        one = command(name, table.title)
        _add_table_flags(one, table)
    for name, about in (
        ("figure1", "a W and an M, and the equivariance of the networks (equivariance.png)"),
        ("figure2", "digits aligned by STN-C1 and STN-SL1"),
        ("figure3", "predicted against applied angles of STN-C1 and STN-SL1"),
    ):
        about += "; of each network the first trained one of --seeds, or --pretrained"
        one = command(name, about)
        one.add_argument("--docs", default="docs", metavar="DIR")
        one.add_argument(
            "--pretrained", action="store_true", help="use the weights that come with the package"
        )
    about = "export the networks of Table 1 as weights, for each the first trained one of --seeds"
    one = command("pretrained", about)
    one.add_argument("--rows", default="*", help="names or patterns with commas")
    one.add_argument("--folder", metavar="DIR", help="target folder; default: the package's own")
    return parser


def _add_table_flags(one: argparse.ArgumentParser, table: Table) -> None:
    rows = ", ".join(row.name for row in table.rows)
    one.add_argument("--rows", default="*", help=f"names or patterns with commas: {rows}")
    one.add_argument(
        "--seeds_per_program",
        "--together",  # the earlier name
        type=int,
        metavar="N",
        help="train up to N seeds of a row in one program; default 1 on CPU, otherwise all",
    )
    one.add_argument(
        "--also_test",
        metavar="DATASET",
        help="evaluate all trained networks on this data set's test split too",
    )
    one.add_argument(
        "--export",
        metavar="DIR",
        help="store weights of the networks trained with the first of --seeds in this folder, "
        "as the command pretrained does",
    )
    one.add_argument("--results", default="results", metavar="DIR", help="folder of the results")
    one.add_argument("--docs", default="docs", metavar="DIR", help="folder of pages")
    one.add_argument(
        "--pretrained",
        action="store_true",
        help="do not train; add pose results of the weights that come with the package",
    )
    one.add_argument("--dry-run", action="store_true", help="only list what would be trained")
    one.add_argument("--render", action="store_true", help="only write the pages of --docs")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds is {text!r}; expected numbers like 0,1,2") from None
