"""Evaluates a trained network, or asks it about a user's own digits or house numbers.

{command} --workdir=runs/NAME [--dataset=OTHER] [--image FILE ... [--box L T R B]]
{command} --workdir=runs/NAME --report [FILE]
{command} --pretrained=rotated_mnist/stn-sl1 [--dataset=mnist_sample] [--image FILE ...]
{command} export (--workdir=runs/NAME [--seed=0] | --pretrained=NAME) FOLDER
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stn_jax.cli.flags import (
    Parser,
    add_data_flags,
    data_settings,
    enable_compilation_cache,
    exit_code,
)
from stn_jax.cli.summary import alignment, print_result
from stn_jax.pretrained import describe
from stn_jax.report.gallery import DrawFigures
from stn_jax.report.run_report import write_report
from stn_jax.report.user_images import answer_files, answer_files_pretrained, picture_of
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.export import EXAMPLE, export_network
from stn_jax.training.restore import (
    evaluate_pretrained,
    evaluate_workdir,
    evaluate_workdir_on,
    load_seed,
    pretrained_alone,
)

# What is done, by the network's source and the flag that asks for it (none: evaluate), and the
# flags that go with it.
_GOES_WITH: dict[tuple[str, str], tuple[str, ...]] = {
    ("workdir", ""): ("dataset", *Config.FOLDER_FIELDS),
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
    parser.add_argument("folder", metavar="FOLDER", help="where the program is written")
    flags = parser.parse_args(arguments)
    if flags.workdir is None and flags.seed is not None:
        raise ConfigError("--seed goes with --workdir")
    if flags.workdir is None:
        run, variables = pretrained_alone(flags.pretrained)
        params = variables["params"]
    else:
        run, params = load_seed(flags.workdir, flags.seed)
    program = export_network(run, params, flags.folder)
    print(f"written to {program}; {program.with_name(EXAMPLE)} loads and calls it")


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
        help="with --image and a run of task svhn: where the number is, in pixels",
    )
    parser.add_argument(
        "--report",
        nargs="?",
        const="",
        metavar="FILE",
        help="write all there is to know of a run as one HTML page; report.html in its workdir",
    )
    add_data_flags(parser.add_argument_group("what to evaluate on, if not what it trained for"))
    return parser.parse_args(arguments)


def _task(flags: argparse.Namespace) -> tuple[str, str]:
    """What is asked for, as a key of the table above; ConfigError where flags contradict."""
    given = {name for name, value in vars(flags).items() if value is not None}
    source = "workdir" if flags.workdir is not None else "pretrained"
    asked = [name for name in ("image", "report") if name in given]
    if len(asked) > 1:
        raise ConfigError("--report goes with --workdir alone, not with --image")
    what = source, asked[0] if asked else ""
    if what not in _GOES_WITH:
        raise ConfigError(f"--{asked[0]} goes with --workdir alone, not with --{source}")
    for name in sorted(given - {source, *asked, *_GOES_WITH[what]}):
        fits = [key for key, names in _GOES_WITH.items() if name in names]
        fitting = " or ".join(f"--{first} --{second}".removesuffix(" --") for first, second in fits)
        here = f"--{source} --{what[1]}".removesuffix(" --")
        raise ConfigError(f"--{name} goes with {fitting}; here: {here}")
    if source == "workdir" and "dataset" not in given and given & set(Config.FOLDER_FIELDS):
        name = min(given & set(Config.FOLDER_FIELDS))
        raise ConfigError(f"--{name} goes with --dataset; a workdir has its own")
    return what


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
    elif flags.dataset is not None:
        _evaluate_on(flags)
    else:
        print_result(evaluate_workdir(flags.workdir, DrawFigures()), flags.workdir)


def _classify(flags: argparse.Namespace) -> None:
    if flags.workdir is not None:
        picture = picture_of(flags.workdir)
        answers = answer_files(flags.workdir, flags.image, flags.box)
    else:
        picture = Path("runs", "pretrained", flags.pretrained, "images.png")
        answers = answer_files_pretrained(flags.pretrained, flags.image, picture)
    print(*answers, f"drawn in {picture}", sep="\n")


def _evaluate_pretrained(flags: argparse.Namespace) -> None:
    settings = data_settings(flags)
    result = evaluate_pretrained(flags.pretrained, settings)
    stated = describe(flags.pretrained)
    dataset = settings.get("dataset", stated["dataset"])
    print(
        f"{flags.pretrained}: test error {result['mean']:.2f} % on {dataset} "
        f"({result['test_examples']} examples){alignment(result)}; stated "
        f"{stated['test_error_percent']:.2f} % on {stated['dataset']} "
        f"({stated['test_examples']})"
    )


def _evaluate_on(flags: argparse.Namespace) -> None:
    result = evaluate_workdir_on(flags.workdir, data_settings(flags))
    several = result.get("position_error_percent")
    digits = f" (digits: {np.mean(several):.2f} %)" if several else ""
    print(
        f"{flags.workdir}: test error {result['mean']:.2f} %{digits} on {flags.dataset} "
        f"({result['test_examples']} examples)"
    )
