"""Sweeps of a distortion's parameter over its range, with the network's output at each value."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data.distortions import AffineRanges, example_keys
from stn_jax.report import page
from stn_jax.report.gallery import first_of_each_class, side_by_side
from stn_jax.training.evaluation import TEST_KEY, predict_classes
from stn_jax.training.run import Run
from stn_jax.warp import affine, affine_transform

_MAX_EXAMPLES = 6  # of photographs, whose frames are large
_LARGE = 128**2  # pixels; larger images have fewer frames, since all are in the page


Shape = Sequence[int]  # height and width
_FRAMES = 61  # odd, so that the middle is one of them


@dataclasses.dataclass(frozen=True)
class _Distortion:
    """One parameter of a task's distortion, swept over its range for a centered image."""

    title: str
    applied: str
    undone: str
    chart: str
    unit: str
    values: Callable[[Shape, Shape], np.ndarray]  # from the image's shape and the canvas's
    theta: Callable[[jax.Array, Shape], jax.Array]  # from the values and the canvas's shape
    read: Callable[[jax.Array, Shape], jax.Array]  # from the network's thetas
    ideal: Callable[[np.ndarray], np.ndarray] | None  # the prediction of a perfect aligner
    decimals: int = 0
    signed: bool = True


_ROTATE = _Distortion(
    title="Rotate a digit",
    applied="Rotated by",
    undone="The network rotated it by",
    chart=(
        "Vertical: the network's angle; horizontal: the angle applied, in degrees. "
        "Dotted: a perfect aligner, up to a constant"
    ),
    unit="\N{DEGREE SIGN}",
    values=lambda side, canvas: np.linspace(-90, 90, _FRAMES),
    theta=lambda values, canvas: affine.rotation(values, aspect=canvas[1] / canvas[0]),
    read=lambda theta, canvas: POSE_COMPONENTS["angle"].predicted(theta, canvas),
    ideal=lambda values: -values,
)
_SHIFT = _Distortion(
    title="Move a digit",
    applied="Moved to the right by",
    undone="The network's sampling window is centered at",
    chart=(
        "Vertical: the center of the network's sampling window; horizontal: the digit's, in pixels "
        "from the image's center. Dotted: a perfect aligner, up to a constant"
    ),
    unit=" pixels",
    values=lambda side, canvas: np.arange(
        -((canvas[1] - side[1]) // 2), (canvas[1] - side[1]) // 2 + 1.0
    ),
    theta=lambda values, canvas: affine.translation(
        jnp.stack([-2 * values / canvas[1], jnp.zeros(len(values))], -1)
    ),
    read=lambda theta, canvas: POSE_COMPONENTS["position"].predicted(theta, canvas)[..., 0],
    ideal=lambda values: values,
)
_SCALE = _Distortion(
    title="Scale a digit",
    applied="Scaled by",
    undone="The side of the network's sampling window, as a fraction of the image's:",
    chart=(
        "Vertical: the side of the network's sampling window, as a fraction of the image's; "
        "horizontal: the digit's scale"
    ),
    unit="",
    values=lambda side, canvas: 2 ** np.linspace(-1, 2, _FRAMES),
    theta=lambda values, canvas: affine.scaling(jnp.stack([1 / values, 1 / values], -1)),
    read=lambda theta, canvas: affine.scale(theta),
    ideal=None,
    decimals=2,
    signed=False,
)
# House numbers are not rotated in training, so there is no ideal.
_ROTATE_NUMBER = dataclasses.replace(
    _ROTATE,
    title="Rotate a number",
    chart="Vertical: the network's angle; horizontal: the angle applied, in degrees",
    ideal=None,
)
_DISTORTIONS = {
    "translated_mnist": _SHIFT,
    "scaled_mnist": _SCALE,
    "svhn": _ROTATE_NUMBER,
    "plain": dataclasses.replace(_ROTATE_NUMBER, title="Rotate an image"),
}


def _of_ranges(task: str, ranges: AffineRanges) -> _Distortion:
    """The distortion that is swept for a task for any data, over its range."""
    ends = np.linspace(-1, 1, _FRAMES)
    if task == "translated":
        return dataclasses.replace(
            _SHIFT,
            title="Move an image",
            values=lambda side, canvas: ends * ranges.translation * canvas[1],
            decimals=1,
        )
    if task == "scaled":
        return dataclasses.replace(
            _SCALE,
            title="Scale an image",
            values=lambda side, canvas: np.geomspace(*ranges.scale, _FRAMES),
        )
    return dataclasses.replace(
        _ROTATE,
        title="Rotate an image",
        values=lambda side, canvas: ends * (ranges.angle or 90.0),
    )


def sweep(run: Run, params: Any) -> page.Sweep:
    """An image of each class and the network's output at each value of the distortion.

    Translated images move across the canvas, scaled ones grow, without clutter; those of all other
    tasks are rotated, from -90 to 90 degrees where the task has no range of its own.

    Args:
      run: the trained run.
      params: parameters of one seed.
    """
    distortion = _DISTORTIONS.get(run.task.name, _ROTATE)
    if run.task.ranges is not None:
        distortion = _of_ranges(run.task.name, run.task.ranges)
    digits, labels = _examples(run)
    side, canvas = digits.shape[1:3], run.input_shape()[:2]
    values = distortion.values(side, canvas)
    if math.prod(canvas) > _LARGE:
        values = values[::3]
    # Centered on the canvas, then distorted.
    enlarged = jnp.array([canvas[1] / side[1], canvas[0] / side[0]], jnp.float32)
    thetas = affine.compose(
        affine.scaling(enlarged), distortion.theta(jnp.asarray(values, jnp.float32), canvas)
    )

    @jax.jit
    def frames(image: jax.Array) -> tuple[Any, ...]:
        images = affine_transform(image, thetas, canvas)
        inputs = (images - run.data.mean) / run.data.deviation
        logits, details = run.apply(params, inputs)
        pose = run.pose(details)
        read = None if pose is None else distortion.read(pose, canvas)
        return inputs, details, read, *predict_classes(logits)

    columns: list[list[Any]] = []
    for digit in digits:
        images, details, *rest = frames(jnp.asarray(digit))
        after = side_by_side(run.views(images, details))
        columns.append([run.denormalize(images), after, *rest])
    inputs, after, read, classes, confidence = (
        None if each[0] is None else np.stack(each) for each in zip(*columns, strict=True)
    )
    assert inputs is not None
    assert classes is not None
    assert confidence is not None
    return page.Sweep(
        distortion.title,
        distortion.applied,
        _of_first(run, distortion.undone),
        _of_first(run, distortion.chart),
        distortion.unit,
        values,
        [run.task.format_label(label) for label in labels],
        inputs,
        after,
        read,
        [[run.task.format_label(each) for each in frame] for frame in classes],
        confidence,
        None if distortion.ideal is None else distortion.ideal(values),
        distortion.decimals,
        distortion.signed,
    )


def _of_first(run: Run, text: str) -> str:
    """A text about a network's pose; of several transformers, it names the first."""
    names = run.transformer_names
    return text if len(names) < 2 else text.replace("he network", f"he transformer {names[0]}", 1)


def _examples(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """A few test images, undistorted, ``[N, H, W, C]`` in [0, 1], and their labels."""
    images, labels = run.test.images, run.test.labels
    if run.task.distorts:
        most = 10 if math.prod(run.input_shape()[:2]) <= _LARGE else _MAX_EXAMPLES
        chosen = first_of_each_class(labels, np.arange(len(labels)), most)
        return images[chosen] / np.float32(255), labels[chosen]
    keys = example_keys(jax.random.key(TEST_KEY), jnp.arange(len(images[:_MAX_EXAMPLES])))
    rendered = jax.jit(run.task.transform(False))(keys, images[:_MAX_EXAMPLES], run.data.images)
    return np.asarray(rendered.images), labels[:_MAX_EXAMPLES]
