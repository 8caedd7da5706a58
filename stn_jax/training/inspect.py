"""What can be done with a run's folder after training: evaluate it, try it on one's own images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.image_files import read_digit
from stn_jax.training.checkpoints import Checkpoints
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import aligned, evaluate, to_show
from stn_jax.training.run import Run
from stn_jax.training.step import State
from stn_jax.training.workdir import Workdir
from stn_jax.warp import affine


def load(workdir: str | Path) -> tuple[Run, State]:
    """Opens a run's folder: its configuration, data and newest checkpoint.

    Raises:
      ConfigError: there is no run, or no checkpoint in it.
      DataError: the data cannot be had.
    """
    config = Config.load(workdir)
    run = Run.open(config)
    checkpoints = Checkpoints(Workdir(workdir).checkpoints)
    state = checkpoints.restore(jax.eval_shape(run.init_state))
    checkpoints.close()
    if state is None:
        raise ConfigError(f"{workdir} holds no checkpoint yet; train it first with train.py")
    return run, state


def evaluate_workdir(workdir: str | Path) -> dict[str, Any]:
    """Evaluates the newest checkpoint; writes and returns what result.json holds."""
    run, state = load(workdir)
    return evaluate(run, state["params"], int(state["step"]), Workdir(workdir))


def classify_files(workdir: str | Path, files: Sequence[str | Path]) -> list[str]:
    """Classifies a user's images of digits with a run's first network.

    Draws what the network saw and what its transformer made of it to ``figures/`` in the run's
    folder.

    Args:
      workdir: the run's folder.
      files: image files, one digit in each.

    Returns:
      A line for each file, and one for the picture.

    Raises:
      ConfigError, DataError: as :func:`load`, for files that are not images, and where the run's
        data set is not of gray images.
    """
    from stn_jax.analysis import figures

    run, state = load(workdir)
    side, channels = run.data.images.shape[2:]
    if channels != 1:
        raise ConfigError(
            f"{workdir} was trained on images of {channels} channels ({run.config.dataset}); "
            "--image reads gray digits: name a run on MNIST or a data set like it"
        )
    images = np.stack([read_digit(file, side) for file in files])
    margin = run.side() - side
    before = margin // 2
    images = np.pad(images, ((0, 0), *2 * ((before, margin - before),), (0, 0)))
    seen = (jnp.asarray(images, jnp.float32) / 255 - run.data.mean) / run.data.deviation
    params = jax.tree.map(lambda x: x[0], state["params"])
    logits, details = run.apply(params, seen)
    pose = run.pose(details)
    probability = np.asarray(jax.nn.softmax(logits))
    lines = []
    for i, file in enumerate(files):
        best = int(probability[i].argmax())
        line = f"{file}: {best} ({100 * probability[i, best]:.1f} %)"
        if pose is not None:
            line += f", turned by {float(affine.angle(pose[i])):+.0f} degrees"
        lines.append(line)
    picture = Workdir(workdir).figures / "images.png"
    figures.digits(to_show(run, seen), aligned(run, seen, details), lines, picture)
    return [*lines, f"drawn in {picture}"]
