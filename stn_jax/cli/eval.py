"""Evaluates a trained network, or classifies a user's own images of digits or house numbers.

{command} --workdir=runs/NAME [--dataset=OTHER] [--image FILE ... [--box L T R B]]
{command} --workdir=runs/NAME --report [FILE]
{command} --pretrained=rotated_mnist/stn-sl1 [--dataset=mnist_sample] [--image FILE ...]
{command} export (--workdir=runs/NAME [--seed=0] | --pretrained=NAME) FOLDER
{command} compare runs/A runs/B ... [--dataset=OTHER] [--page FILE]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stn_jax.cli.flags import (
    Parser,
    add_data_flags,
    check_folder,
    data_settings,
    enable_compilation_cache,
    exit_code,
)
from stn_jax.cli.summary import alignment, print_result, text_table
from stn_jax.pretrained import describe
from stn_jax.report.comparison_page import about, write_comparison
from stn_jax.report.gallery import DrawFigures
from stn_jax.report.run_report import write_report
from stn_jax.report.user_images import classify_files, classify_files_pretrained, picture_path
from stn_jax.training.comparison import compare, table
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.export import EXAMPLE, export_network
from stn_jax.training.restore import (
    evaluate_pretrained,
    evaluate_workdir,
    evaluate_workdir_on,
    load_seed,
    pretrained_without_data,
)

# The other flags that are allowed, by the network's source and the action's flag ("": evaluate).
_ALLOWED: dict[tuple[str, str], tuple[str, ...]] = {
    ("workdir", ""): ("best", "dataset", *Config.FOLDER_FIELDS),
    ("workdir", "image"): ("box",),
    ("workdir", "report"): (),
    ("pretrained", ""): ("dataset", *Config.FOLDER_FIELDS),
    ("pretrained", "image"): (),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["export"]:
        return exit_code(lambda: _export(arguments[1:]))
    if arguments[:1] == ["compare"]:
        return exit_code(lambda: _compare(arguments[1:]))
    return exit_code(lambda: _eval(_flags(arguments)))


def _export(arguments: Sequence[str]) -> None:
    parser = Parser(
        prog=f"{Path(sys.argv[0]).name} export",
        description="Writes a trained network as a program that runs without this package.",
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", help="folder of a training run")
    which.add_argument("--pretrained", metavar="NAME", help="weights that come with the package")
    parser.add_argument("--seed", type=int, help="which network of the run; default: its first")
    parser.add_argument("--best", action="store_true", help="its best state, see keep_best")
    parser.add_argument("folder", metavar="FOLDER", help="where the program is written")
    flags = parser.parse_args(arguments)
    if flags.workdir is None and (flags.seed is not None or flags.best):
        raise ConfigError("--seed and --best need --workdir")
    if flags.workdir is None:
        run, variables = pretrained_without_data(flags.pretrained)
        params = variables["params"]
    else:
        run, params = load_seed(flags.workdir, flags.seed, best=flags.best)
    program = export_network(run, params, flags.folder)
    print(f"written to {program}; {program.with_name(EXAMPLE)} loads and calls it")


def _compare(arguments: Sequence[str]) -> None:
    parser = Parser(
        prog=f"{Path(sys.argv[0]).name} compare",
        description="Tests runs on the same images; differences from the first, with intervals.",
        allow_abbrev=False,
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="folders of training runs")
    parser.add_argument("--page", metavar="FILE", help="also write the table as an HTML page")
    add_data_flags(parser.add_argument_group("compare on another data set"))
    flags = parser.parse_args(arguments)
    if flags.page is not None:
        check_folder("--page", Path(flags.page).parent)
    enable_compilation_cache()
    compared = compare(flags.workdirs, data_settings(flags))
    print(about(compared[0]), *text_table(table(compared)), sep="\n")
    if flags.page is not None:
        print(f"see {write_comparison(compared, flags.page)}")


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    assert __doc__ is not None
    parser = Parser(
        description=__doc__.format(command=Path(sys.argv[0]).name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", help="folder of a training run")
    which.add_argument("--pretrained", metavar="NAME", help="weights that come with the package")
    parser.add_argument("--image", nargs="+", metavar="FILE", help="images to classify")
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="with --image and a run of task svhn: location of the number, in pixels",
    )
    parser.add_argument(
        "--report",
        nargs="?",
        const="",
        metavar="FILE",
        help="write an HTML report of a run; by default report.html in its workdir",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        default=None,
        help="evaluate the best state of a run with keep_best, on the test split; writes nothing",
    )
    add_data_flags(parser.add_argument_group("evaluate on another data set"))
    return parser.parse_args(arguments)


def _task(flags: argparse.Namespace) -> tuple[str, str]:
    """The source and action, a key of _ALLOWED. Raises ConfigError for contradictory flags."""
    given = {name for name, value in vars(flags).items() if value is not None}
    source = "workdir" if flags.workdir is not None else "pretrained"
    asked = [name for name in ("image", "report") if name in given]
    if len(asked) > 1:
        raise ConfigError("--report cannot be combined with --image")
    task = source, asked[0] if asked else ""
    if task not in _ALLOWED:
        raise ConfigError(f"--{asked[0]} needs --workdir; it cannot be combined with --{source}")
    for name in sorted(given - {source, *asked, *_ALLOWED[task]}):
        fits = [key for key, names in _ALLOWED.items() if name in names]
        fitting = " or ".join(f"--{first} --{second}".removesuffix(" --") for first, second in fits)
        here = f"--{source} --{task[1]}".removesuffix(" --")
        raise ConfigError(f"--{name} cannot be combined with {here}; it needs {fitting}")
    if source == "workdir" and "dataset" not in given and given & set(Config.FOLDER_FIELDS):
        name = min(given & set(Config.FOLDER_FIELDS))
        raise ConfigError(f"--{name} needs --dataset; a workdir has its own folders")
    return task


def _eval(flags: argparse.Namespace) -> None:
    source, action = _task(flags)
    enable_compilation_cache()
    if action == "report":
        summary, path = write_report(flags.workdir, flags.report or None)
        print(f"test error {summary['mean']:.2f} %; see {path}")
    elif action == "image":
        _classify(flags)
    elif source == "pretrained":
        _evaluate_pretrained(flags)
    elif flags.dataset is not None or flags.best:
        _evaluate_on(flags)
    else:
        print_result(evaluate_workdir(flags.workdir, DrawFigures()), flags.workdir)


def _classify(flags: argparse.Namespace) -> None:
    if flags.workdir is not None:
        picture = picture_path(flags.workdir)
        predictions = classify_files(flags.workdir, flags.image, flags.box)
    else:
        picture = Path("runs", "pretrained", flags.pretrained, "images.png")
        predictions = classify_files_pretrained(flags.pretrained, flags.image, picture)
    print(*predictions, f"drawn in {picture}", sep="\n")


def _evaluate_pretrained(flags: argparse.Namespace) -> None:
    settings = data_settings(flags)
    result = evaluate_pretrained(flags.pretrained, settings)
    expected = describe(flags.pretrained)
    dataset = settings.get("dataset", expected["dataset"])
    print(
        f"{flags.pretrained}: test error {result['mean']:.2f} % on {dataset} "
        f"({result['test_examples']} examples){alignment(result)}; expected "
        f"{expected['test_error_percent']:.2f} % on {expected['dataset']} "
        f"({expected['test_examples']})"
    )


def _evaluate_on(flags: argparse.Namespace) -> None:
    best = bool(flags.best)
    result = evaluate_workdir_on(flags.workdir, data_settings(flags), best=best)
    dataset = flags.dataset or Config.load(flags.workdir).dataset
    by_position = result.get("position_error_percent")
    digits = f" (digits: {np.mean(by_position):.2f} %)" if by_position else ""
    print(
        f"{flags.workdir}{', best state' * best}: test error {result['mean']:.2f} %{digits} on "
        f"{dataset} ({result['test_examples']} examples)"
    )
