"""Evaluates a trained network, or shows what it makes of a user's own digits or house numbers.

python eval.py --workdir=runs/NAME [--dataset=OTHER] [--image FILE ... [--box L T R B]]
python eval.py --workdir=runs/NAME --report [FILE]
python eval.py --pretrained=rotated_mnist/stn-sl1 [--dataset=mnist_sample] [--image FILE ...]
"""

import sys
from pathlib import Path

import numpy as np

from stn_jax.command_line import (
    Parser,
    add_data_flags,
    data_settings,
    enable_compilation_cache,
    exit_code,
)
from stn_jax.pretrained import describe
from stn_jax.training.config import ConfigError
from stn_jax.training.inspect import (
    classify_files,
    classify_files_pretrained,
    evaluate_pretrained,
    evaluate_workdir,
    evaluate_workdir_on,
)
from stn_jax.training.report import write_report
from train import alignment, print_result


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
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
    flags = parser.parse_args()
    settings = data_settings(flags)
    if settings and flags.workdir and "dataset" not in settings:
        raise ConfigError(f"--{next(iter(settings))} goes with --dataset; a workdir has its own")
    if settings and flags.workdir and (flags.image or flags.report is not None):
        raise ConfigError("--dataset goes with neither --image nor --report")
    if flags.box and not flags.image:
        raise ConfigError("--box says where in an --image the number is; name one")
    if flags.report is not None and (flags.pretrained or flags.image):
        other = "--pretrained" if flags.pretrained else "--image"
        raise ConfigError(f"--report goes with --workdir alone, not with {other}")
    enable_compilation_cache()
    if flags.pretrained and flags.image:
        if flags.box:
            raise ConfigError("--box goes with a --workdir of task svhn")
        picture = Path("runs", "pretrained", flags.pretrained, "images.png")
        print("\n".join(classify_files_pretrained(flags.pretrained, flags.image, picture)))
    elif flags.pretrained:
        result = evaluate_pretrained(flags.pretrained, settings)
        stated = describe(flags.pretrained)
        dataset = settings.get("dataset", stated["dataset"])
        print(
            f"{flags.pretrained}: test error {result['mean']:.2f} % on {dataset} "
            f"({result['test_examples']} examples){alignment(result)}; stated "
            f"{stated['test_error_percent']:.2f} % on {stated['dataset']} "
            f"({stated['test_examples']})"
        )
    elif flags.image:
        print("\n".join(classify_files(flags.workdir, flags.image, flags.box)))
    elif flags.report is not None:
        summary, path = write_report(flags.workdir, flags.report or None)
        print(f"test error {summary['mean']:.2f} %; see {path}")
    elif settings:
        result = evaluate_workdir_on(flags.workdir, settings)
        several = result.get("position_error_percent")
        digits = f" (digits: {np.mean(several):.2f} %)" if several else ""
        print(
            f"{flags.workdir}: test error {result['mean']:.2f} %{digits} on {settings['dataset']} "
            f"({result['test_examples']} examples)"
        )
    else:
        print_result(evaluate_workdir(flags.workdir), flags.workdir)


if __name__ == "__main__":
    sys.exit(exit_code(main))
