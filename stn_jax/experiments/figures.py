"""The paper's Figures 2 and 3, drawn from the networks of Table 1."""

from pathlib import Path

import jax

from stn_jax.analysis import figures
from stn_jax.experiments.tables import TABLES
from stn_jax.experiments.trained import Trained
from stn_jax.training.evaluation import angles_of, one_of_each_class, predict, tried

NETWORKS = ("stn-c1", "stn-sl1")
TITLES = {"rotation": "rotated digits", "translation": "translated digits"}
# Figure 2 shows these classes, each distorted so many times.
CLASSES, TURNS = slice(2, 6), 3

_ROWS = {row.name: row for row in TABLES["table1"].rows}


def figure2(trained: Trained, path: Path) -> None:
    """Draws distorted digits, and how STN-C1 and STN-SL1 align them (paper, Figure 2).

    For STN-C1, which warps a feature map, it is the input that is shown, warped alike.

    Args:
      trained: the networks.
      path: the PNG to write.

    Raises:
      ConfigError: a network is not trained yet.
      DataError: the data cannot be had.
    """
    blocks = []
    for task, title in TITLES.items():
        strips: list[figures.Strip] = []
        for variant in NETWORKS:
            run, params = trained.open(_ROWS[f"{task}/{variant}"])
            images = one_of_each_class(run.test.labels, run.test.images)[CLASSES]
            pair = tried(run, jax.tree.map(lambda x: x[0], params), images, TURNS)
            # [TURNS, classes, ...] to a row in which the turns of a digit are neighbours.
            before, after = (x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) for x in pair)
            strips = strips or [figures.Strip("input", before)]
            strips.append(figures.Strip(variant.upper(), after))
        blocks.append((title, strips))
    figures.strips(blocks, path)


def figure3(trained: Trained, path: Path) -> None:
    """Draws predicted against applied angles of STN-C1 and STN-SL1 (paper, Figure 3).

    Args, Raises: as :func:`figure2`.
    """
    panels = []
    for variant in NETWORKS:
        run, params = trained.open(_ROWS[f"rotation/{variant}"])
        panels.append(figures.Angles(variant.upper(), *angles_of(predict(run, params), 0)))
    figures.angle_plot(panels, path)
