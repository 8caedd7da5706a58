"""Classifies a user's own images and flags predictions that may be wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data.photographs import Reading, read_digit, read_number, read_whole
from stn_jax.data.sources import OWN
from stn_jax.training.config import ConfigError
from stn_jax.training.run import Run
from stn_jax.warp import affine

# A prediction is doubtful if its probability is below _MIN_PROBABILITY, or if the runner-up's is
# more than _MAX_RUNNER_UP of it. Few correct predictions are (docs/photographs.md).
_MIN_PROBABILITY, _MAX_RUNNER_UP = 0.6, 0.5


class Classification(NamedTuple):
    """A network's prediction for an image file.

    Attributes:
      file: path of the image.
      label: the digit or house number, as text.
      probability: the network's probability of that label.
      runner_up: the second most likely label.
      runner_up_probability: its probability.
      doubts: reasons why the prediction may be wrong, as text; empty if there are none.
      box: the region that was read: left, top, right, bottom in pixels of the image.
      degrees: rotation applied by the transformer; None without a transformer.
      zoom: magnification of a house number by the transformer; None for digits.
    """

    file: str
    label: str
    probability: float
    runner_up: str
    runner_up_probability: float
    doubts: tuple[str, ...]
    box: tuple[float, float, float, float]
    degrees: float | None = None
    zoom: float | None = None

    def __str__(self) -> str:
        line = f"{self.file}: {self.label} ({100 * self.probability:.1f} %)"
        if self.degrees is not None:
            line += f", rotated by {self.degrees:+.0f} degrees"
        if self.zoom is not None:
            line += f", zoomed by {self.zoom:.2f}"
        return line + (f"; doubtful: {'; '.join(self.doubts)}" if self.doubts else "")


class ClassifiedImages(NamedTuple):
    """Predictions for several images, and the arrays needed to draw them.

    Attributes:
      predictions: one for each image.
      readings: the digit or number extracted from each file.
      inputs: the network's inputs, ``[N, H, W, C]`` in [0, 1].
      aligned: the transformer's outputs, ``[N, H', W', C]`` in [0, 1].
      outlines: closed outlines of the sampled regions, ``[N, 5, 2]`` as (x, y) in [-1, 1]; None
        without a transformer.
    """

    predictions: list[Classification]
    readings: list[Reading]
    inputs: np.ndarray
    aligned: np.ndarray
    outlines: np.ndarray | None


def classify(
    run: Run,
    params: Any,
    files: Sequence[str | Path],
    name: str,
    box: Sequence[float] | None = None,
) -> ClassifiedImages:
    """Classifies a user's images: of digits, house numbers, or whatever a run was trained on.

    Args:
      run: the trained run.
      params: parameters of one seed.
      files: image files. For runs on gray digits each has one digit somewhere, for task svhn one
        house number; for all others the whole image is resized, with padding, as in training.
      name: name of the network, for messages.
      box: location of the house number in a photograph: left, top, right, bottom in pixels.

    Raises:
      ConfigError: a box is given for anything but a single house number.
      DataError: a file is not a readable image, or no digit is found in it.
    """
    if box is not None and (not run.task.positions or len(files) > 1):
        what = f"{len(files)} files" if run.task.positions else run.config.task
        raise ConfigError(f"--box needs one photograph and a run of task svhn; found {what}")
    readings = _read(run, files, name, box)
    images = _pad_or_crop(run, np.stack([reading.image for reading in readings]))
    inputs = (jnp.asarray(images, jnp.float32) / 255 - run.data.mean) / run.data.deviation
    logits, details = run.apply(params, inputs)
    probability = np.asarray(jax.nn.softmax(logits))
    pose = run.pose(details)
    predictions = [
        _classification(run, str(file), reading, probability[i], None if pose is None else pose[i])
        for i, (file, reading) in enumerate(zip(files, readings, strict=True))
    ]
    outlines = None
    if pose is not None:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], np.float32)
        outlines = corners @ np.asarray(pose)[..., :2].mT + np.asarray(pose)[:, None, :, 2]
    return ClassifiedImages(
        predictions, readings, run.denormalize(inputs), run.aligned(inputs, details), outlines
    )


def top_two(probability: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The most likely and the second most likely labels of an image.

    Args:
      probability: ``[positions, classes]``, two classes or more.

    Returns:
      Two pairs: labels ``[positions]`` and their joint probability.
    """
    order = np.argsort(probability, axis=-1)
    ends = np.take_along_axis(probability, order[:, -2:], -1)
    first = order[:, -1]
    # The second best changes the one position where the probability drops least.
    ratios = ends[:, 0] / np.maximum(ends[:, 1], np.finfo(np.float32).tiny)
    position = int(ratios.argmax())
    second = first.copy()
    second[position] = order[position, -2]
    best = ends[:, 1].prod()
    return [(first, float(best)), (second, float(best * ratios[position]))]


def probability_doubts(
    probability: np.ndarray, format_label: Callable[[np.ndarray], str]
) -> tuple[str, ...]:
    """Reasons to doubt a prediction, judged by its probabilities alone; as text.

    Args:
      probability: as for :func:`top_two`.
      format_label: formats labels ``[positions]`` as text.
    """
    (first, best), (second, next_best) = top_two(probability)
    if next_best > _MAX_RUNNER_UP * best:
        labels = f"{format_label(first)} and {format_label(second)}"
        return (f"{labels} ({100 * next_best:.1f} %) are close",)
    return ("the network is not sure",) if best < _MIN_PROBABILITY else ()


def _classification(
    run: Run, file: str, reading: Reading, probability: np.ndarray, pose: jax.Array | None
) -> Classification:
    by_position = probability.reshape(-1, probability.shape[-1])

    def format_label(labels: np.ndarray) -> str:
        return run.task.format_label(labels if run.task.positions else labels[0])

    (first, best), (second, next_best) = top_two(by_position)
    shape = run.input_shape()[:2]
    return Classification(
        file,
        format_label(first),
        best,
        format_label(second),
        next_best,
        reading.doubts + probability_doubts(by_position, format_label),
        reading.box,
        None if pose is None else float(POSE_COMPONENTS["angle"].predicted(pose, shape)),
        None if pose is None or not run.task.positions else 1 / float(affine.scale(pose)),
    )


def _read(
    run: Run, files: Sequence[str | Path], name: str, box: Sequence[float] | None
) -> list[Reading]:
    if run.task.positions:
        return [read_number(file, box) for file in files]
    height, width, channels = run.image_shape
    own = run.config.dataset.partition(":")[0] in OWN
    if own or channels != 1 or height != width:
        return [read_whole(file, run.image_shape) for file in files]
    return [read_digit(file, width) for file in files]


def _pad_or_crop(run: Run, images: np.ndarray) -> np.ndarray:
    """Images centered in, or cropped to, the network's input shape: ``[N, H, W, C]``."""
    for axis, side in enumerate(run.input_shape()[:2], 1):
        margin = side - images.shape[axis]
        start = -margin // 2
        if margin < 0:
            images = images.take(range(start, start + side), axis)
        else:
            pads = [(0, 0)] * images.ndim
            pads[axis] = (margin // 2, margin - margin // 2)
            images = np.pad(images, pads)
    return images
