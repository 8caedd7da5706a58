"""Evaluates a trained network, or shows what it makes of a user's own digits.

python eval.py --workdir=runs/NAME
python eval.py --workdir=runs/NAME --image FILE [FILE ...]
"""

import argparse
import sys

from stn_jax.command_line import enable_compilation_cache, exit_code
from stn_jax.training.inspect import classify_files, evaluate_workdir
from train import print_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of a training run")
    parser.add_argument("--image", nargs="+", metavar="FILE", help="images of digits to classify")
    flags = parser.parse_args()
    enable_compilation_cache()
    if flags.image:
        print("\n".join(classify_files(flags.workdir, flags.image)))
    else:
        print_result(evaluate_workdir(flags.workdir), flags.workdir)


if __name__ == "__main__":
    sys.exit(exit_code(main))
