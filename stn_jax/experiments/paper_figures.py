"""The paper's figures. All but the first half of Figure 1 use the networks of Table 1."""

from pathlib import Path

import jax
import numpy as np

from stn_jax.analysis.equivariance import rotations, scalings, translations
from stn_jax.analysis.network_equivariance import network_error
from stn_jax.experiments.tables import TABLES
from stn_jax.experiments.trained import Networks
from stn_jax.report import figures
from stn_jax.report.gallery import first_of_each_class, render_samples
from stn_jax.training.config import ConfigError
from stn_jax.training.evaluation import angles_of, predict

NETWORKS = ("stn-c1", "stn-sl1")
TITLES = {"rotation": "rotated digits", "translation": "translated digits"}
# Figure 2 shows these classes, with this many distortions of each.
CLASSES, REPEATS = slice(2, 6), 3

# Equivariance is measured on this many test digits, padded by a margin of this many pixels.
DIGITS, MARGIN = 100, 14
MEASURED = ("cnn", *NETWORKS)

_ROWS = {row.name: row for row in TABLES["table1"].rows}


def figure1(trained: Networks, path: Path) -> None:
    """Draws the W and the M (paper, Figure 1), and the equivariance of trained networks.

    The second figure, ``equivariance.png`` in the same folder, has panels for rotations,
    translations and scalings, and a line each for the CNN, STN-C1 and STN-SL1 of rotated digits.

    Args:
      trained: the networks.
      path: the PNG of the W to write.

    Raises:
      ConfigError: a network is not available.
      DataError: the data cannot be loaded.
    """
    figures.w_and_m(path)
    results = {}
    for variant in MEASURED:
        run, params = trained.open(_ROWS[f"rotation/{variant}"])
        digits = np.pad(run.test.images[:DIGITS], ((0, 0), (MARGIN,) * 2, (MARGIN,) * 2, (0, 0)))
        digits = (digits / np.float32(255) - run.data.mean) / run.data.deviation
        families = (
            rotations(np.arange(15, 91, 15)),
            translations(np.arange(1, 7), digits.shape[1:3]),
            scalings(np.array([0.7, 0.8, 0.9, 1.1, 1.25, 1.4])),
        )
        variables = {"params": jax.tree.map(lambda x: x[0], params)}
        results[variant.upper()] = {
            family.name: network_error(
                run.model, variables, digits, family.thetas, margin=0, padding_mode="border"
            )
            for family in families
        }
    figures.equivariance_plot(
        results,
        path.with_name("equivariance.png"),
        f"Feature maps warped back, {DIGITS} test digits, networks trained on rotated digits",
    )


def figure2(trained: Networks, path: Path) -> None:
    """Draws distorted digits, and how STN-C1 and STN-SL1 align them (paper, Figure 2).

    STN-C1 warps a feature map; shown is the input under the same transform. A task whose networks
    are not available is skipped, with a message.

    Args:
      trained: the networks.
      path: the PNG to write.

    Raises:
      ConfigError: no task's networks are available.
      DataError: the data cannot be loaded.
    """
    blocks = []
    missing: list[ConfigError] = []
    for task, title in TITLES.items():
        try:
            opened = [trained.open(_ROWS[f"{task}/{variant}"]) for variant in NETWORKS]
        except ConfigError as error:
            missing.append(error)
            continue
        strips: list[figures.Strip] = []
        for variant, (run, params) in zip(NETWORKS, opened, strict=True):
            images = first_of_each_class(run.test.labels, run.test.images)[CLASSES]
            own = jax.tree.map(lambda x: x[0], params)
            inputs, views = render_samples(run, own, images, REPEATS)
            # [REPEATS, classes, ...] to a row with a digit's distortions side by side.
            before, after = (
                x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) for x in (inputs, *views.values())
            )
            strips = strips or [figures.Strip("input", before)]
            strips.append(figures.Strip(variant.upper(), after))
        blocks.append((title, strips))
    if not blocks:
        raise missing[0]
    for reason in missing:
        print(f"skipped: {reason}", flush=True)
    figures.strips(blocks, path)


def figure3(trained: Networks, path: Path) -> None:
    """Draws predicted against applied angles of STN-C1 and STN-SL1 (paper, Figure 3).

    Args, Raises: as :func:`figure1`.
    """
    panels = []
    for variant in NETWORKS:
        run, params = trained.open(_ROWS[f"rotation/{variant}"])
        angles = angles_of(predict(run, params), 0, run.input_shape()[:2])
        panels.append(figures.Angles(variant.upper(), *angles))
    figures.angle_plot(panels, path)
