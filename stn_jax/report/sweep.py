"""A distortion run from end to end, and what a network makes of each step of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data.distortions import example_keys
from stn_jax.report import page
from stn_jax.report.gallery import first_of_each_class
from stn_jax.training.evaluation import TEST_KEY, answers
from stn_jax.training.run import Run
from stn_jax.warp import affine, affine_transform

_FEW = 6  # frames of photographs are large


@dataclasses.dataclass(frozen=True)
class _Distortion:
    """One parameter of a task's distortion, run from end to end on an image in the middle."""

    title: str
    applied: str
    undone: str
    chart: str
    unit: str
    values: Callable[[int, int], np.ndarray]  # of the image's side and the canvas's
    theta: Callable[[jax.Array, int], jax.Array]  # of the values and the canvas's side
    read: Callable[[jax.Array, int], jax.Array]  # from the network's thetas
    ideal: Callable[[np.ndarray], np.ndarray] | None  # what a perfect aligner would do
    decimals: int = 0
    signed: bool = True


_TURN = _Distortion(
    title="Turn a digit",
    applied="Turned by",
    undone="The network turned it by",
    chart=(
        "Up: the network's angle; across: the angle applied, in degrees. "
        "Dotted: a perfect aligner, up to a constant"
    ),
    unit="\N{DEGREE SIGN}",
    values=lambda side, canvas: np.arange(-90.0, 91.0, 3.0),
    theta=lambda values, canvas: affine.rotation(values),
    read=lambda theta, canvas: POSE_COMPONENTS["angle"].predicted(theta, (canvas, canvas)),
    ideal=lambda values: -values,
)
_SHIFT = _Distortion(
    title="Move a digit",
    applied="Moved to the right by",
    undone="The network's window is centred at",
    chart=(
        "Up: the centre of the network's window; across: the digit's, in pixels from the middle. "
        "Dotted: a perfect aligner, up to a constant"
    ),
    unit=" pixels",
    values=lambda side, canvas: np.arange(-((canvas - side) // 2), (canvas - side) // 2 + 1.0),
    theta=lambda values, canvas: affine.translation(
        jnp.stack([-2 * values / canvas, jnp.zeros(len(values))], -1)
    ),
    read=lambda theta, canvas: POSE_COMPONENTS["position"].predicted(theta, (canvas, canvas))[
        ..., 0
    ],
    ideal=lambda values: values,
)
_SCALE = _Distortion(
    title="Scale a digit",
    applied="Scaled by",
    undone="The side of the network's window, as a share of the image's:",
    chart="Up: the side of the network's window, as a share; across: the digit's scale",
    unit="",
    values=lambda side, canvas: 2 ** np.linspace(-1, 2, 61),
    theta=lambda values, canvas: affine.scaling(jnp.stack([1 / values, 1 / values], -1)),
    read=lambda theta, canvas: affine.scale(theta),
    ideal=None,
    decimals=2,
    signed=False,
)
# Nothing asks a network for house numbers to undo a turn.
_TURN_NUMBER = dataclasses.replace(
    _TURN,
    title="Turn a number",
    chart="Up: the network's angle; across: the angle applied, in degrees",
    ideal=None,
)
_DISTORTIONS = {"translated_mnist": _SHIFT, "scaled_mnist": _SCALE, "svhn": _TURN_NUMBER}


def sweep(run: Run, params: Any) -> page.Sweep:
    """A digit of each class, and what a network makes of it while the distortion runs.

    Rotated digits turn from -90 to 90 degrees, translated ones move through the canvas, scaled ones
    grow, without clutter; the images of any other task turn.

    Args:
      run: what was trained.
      params: its parameters, those of one seed.
    """
    how = _DISTORTIONS.get(run.task.name, _TURN)
    digits, labels = _examples(run)
    side, canvas = digits.shape[2], run.seen_shape()[1]
    values = how.values(side, canvas)
    # Put in the canvas's middle, then distorted there.
    thetas = affine.compose(
        affine.scaling(canvas / side), how.theta(jnp.asarray(values, jnp.float32), canvas)
    )

    @jax.jit
    def frames(image: jax.Array) -> tuple[Any, ...]:
        images = affine_transform(image, thetas, (canvas, canvas))
        seen = (images - run.data.mean) / run.data.deviation
        logits, details = run.apply(params, seen)
        pose = run.pose(details)
        read = None if pose is None else how.read(pose, canvas)
        return seen, details, read, *answers(logits)

    columns: list[list[Any]] = []
    for digit in digits:
        seen, details, *rest = frames(jnp.asarray(digit))
        after = None if rest[0] is None else run.aligned(seen, details)
        columns.append([run.denormalize(seen), after, *rest])
    inputs, after, read, classes, confidence = (
        None if each[0] is None else np.stack(each) for each in zip(*columns, strict=True)
    )
    assert inputs is not None
    assert classes is not None
    assert confidence is not None
    return page.Sweep(
        how.title,
        how.applied,
        how.undone,
        how.chart,
        how.unit,
        values,
        [run.task.format_label(label) for label in labels],
        inputs,
        after,
        read,
        [[run.task.format_label(each) for each in frame] for frame in classes],
        confidence,
        None if how.ideal is None else how.ideal(values),
        how.decimals,
        how.signed,
    )


def _examples(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """A few test images, undistorted, ``[N, H, W, C]`` in [0, 1], and their labels."""
    images, labels = run.test.images, run.test.labels
    if run.task.distorts:
        chosen = first_of_each_class(labels, np.arange(len(labels)))
        return images[chosen] / np.float32(255), labels[chosen]
    keys = example_keys(jax.random.key(TEST_KEY), jnp.arange(len(images[:_FEW])))
    shown = jax.jit(run.task.shown(False))(keys, images[:_FEW], run.data.images)
    return np.asarray(shown.images), labels[:_FEW]
