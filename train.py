"""Trains a network and evaluates it.

python train.py [--config=configs/quickstart.py] [--workdir=runs/NAME] [--config.KEY=VALUE ...]

The same command again goes on from the last checkpoint. The workdir then holds config.json,
metrics.jsonl, checkpoints/, figures/ and result.json. The fields of the configuration:
"""

import sys
from pathlib import Path

import numpy as np

from stn_jax.analysis.pose import ASPECTS
from stn_jax.command_line import enable_compilation_cache, exit_code, read_config
from stn_jax.training import Config, processes, train

DEFAULT = Path(__file__).parent / "configs" / "quickstart.py"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, Config.__doc__, sep="\n")
        return
    enable_compilation_cache()
    processes.join()
    config, workdir = processes.everywhere(lambda: read_config(sys.argv, DEFAULT))
    result = train(config, workdir)
    if processes.is_first():
        print_result(result, workdir)


def print_result(result: dict, workdir: str) -> None:
    errors = ", ".join(f"{error:.2f}" for error in result["test_error_percent"])
    interval = "" if result["ci95"] is None else f" +- {result['ci95']:.2f} (95 %)"
    print(
        f"{result['variant']} on {result['task']}: test error {errors} %, mean "
        f"{result['mean']:.2f} %{interval}{alignment(result)}; "
        f"see {workdir}/result.json and figures/"
    )


def alignment(result: dict) -> str:
    """What there is to say of how well poses are undone, means over seeds; or nothing."""
    said = ""
    for aspect in ASPECTS.values():
        if aspect.slopes[0] not in result:
            continue
        slope = " and ".join(f"{np.mean(result[name]):.2f}" for name in aspect.slopes)
        spread, within = (np.mean(result.get(name, [np.nan])) for name in aspect.spreads)
        digits = aspect.decimals
        inside = "" if np.isnan(within) else f" ({within:.{digits}f} within a digit)"
        said = f", slope {slope}, spread {spread:.{digits}f} {aspect.unit}{inside}"
    if "window_share" in result:
        said += f", window {np.mean(result['window_share']):.2f}"
    return said


if __name__ == "__main__":
    sys.exit(exit_code(main))
