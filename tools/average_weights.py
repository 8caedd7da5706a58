"""Test errors of a run's checkpoints, and of the means of the last ones' weights.

    python -m tools.average_weights RUN

RUN is a run's folder with several checkpoints (``keep_checkpoints``). The means are those of
Izmailov et al. 2018 (arXiv:1803.05407); the networks have no statistics to compute again. Errors
are in percent, as means over the run's seeds, on the images that the run is evaluated on.
"""

import argparse
from typing import Any

import jax
import numpy as np

from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.evaluation import predict, predict_step
from stn_jax.training.restore import load
from stn_jax.training.workdir import Workdir


def errors(workdir: str) -> list[tuple[int, float, float]]:
    """For each checkpoint: its step, its error, and the error of the mean of it and all later ones.

    Raises:
      ConfigError: the folder holds no run or no checkpoint.
    """
    run, state = load(workdir)
    checkpoints, step = Checkpoints(Workdir(workdir).checkpoints), predict_step(run)

    def error(params: Any) -> float:
        predictions = predict(run, params, quiet=True, step=step)
        return 100 * float(np.mean(predictions.wrong))

    found, total = [], None
    for count, number in enumerate(reversed(checkpoints.steps()), 1):
        params = run.put(checkpoints.read(number, state).state)["params"]
        total = params if total is None else jax.tree.map(np.add, total, params)
        mean = jax.tree.map(lambda x, count=count: x / count, total)
        found.append((number, error(params), error(mean)))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    found = errors(parser.parse_args(argv).run)
    print("step   error    of the mean of it and all later ones")
    for number, alone, mean in found:
        print(f"{number:<6} {alone:.3f} %  {mean:.3f} %")


if __name__ == "__main__":
    main()
