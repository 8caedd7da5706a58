"""What a network says of a user's own pictures, and how far that can be trusted."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data.photographs import Reading, read_digit, read_number
from stn_jax.training.config import ConfigError
from stn_jax.training.run import Run
from stn_jax.warp import affine

# An answer less likely than the first is not sure; a second one more likely than this fraction of
# the first is close. Of the digits that are right, few are (docs/photographs.md).
_SURE, _CLOSE = 0.6, 0.5


class Answer(NamedTuple):
    """What a network says of a picture.

    Attributes:
      file: the picture's.
      label: the digit, or the number, as one writes it.
      probability: how likely the network takes it to be.
      runner_up: the next likely label, and ``runner_up_probability``.
      doubts: in words, why the answer may be wrong; empty where nothing speaks against it.
      box: left, top, right, bottom of what was read, in pixels of the picture.
      degrees: by how much the transformer turned it; None without a transformer.
      zoom: how much larger it made a house number; None for digits.
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
            line += f", turned by {self.degrees:+.0f} degrees"
        if self.zoom is not None:
            line += f", zoomed by {self.zoom:.2f}"
        return line + (f"; doubtful: {'; '.join(self.doubts)}" if self.doubts else "")


class Classified(NamedTuple):
    """What a network says of pictures, and what there is to show of it.

    Attributes:
      answers: one for each picture.
      readings: what was read from each.
      seen: what the network was given, ``[N, H, W, C]`` in [0, 1].
      aligned: what its transformer made of it, ``[N, H', W', C]`` in [0, 1].
      outlines: corners of what the transformer shows, ``[N, 5, 2]`` as (x, y) in [-1, 1]; None
        without a transformer.
    """

    answers: list[Answer]
    readings: list[Reading]
    seen: np.ndarray
    aligned: np.ndarray
    outlines: np.ndarray | None


def classify(
    run: Run,
    params: Any,
    files: Sequence[str | Path],
    name: str,
    box: Sequence[float] | None = None,
) -> Classified:
    """Classifies a user's images of digits or house numbers.

    Args:
      run: what was trained.
      params: its parameters, those of one seed.
      files: image files, one digit in each; for task svhn one house number.
      name: of the network, for messages.
      box: where in a photograph the house number is: left, top, right, bottom in pixels.

    Raises:
      ConfigError: the network sees neither gray images nor house numbers, or the box is for
        something else than one house number.
      DataError: a file shows nothing, or is no image that can be read.
    """
    if box is not None and (not run.task.positions or len(files) > 1):
        what = f"{len(files)} files" if run.task.positions else run.config.task
        raise ConfigError(f"--box goes with one photograph and a run of task svhn; here: {what}")
    readings = _readings(run, files, name, box)
    given = _at_network_size(run, np.stack([reading.image for reading in readings]))
    seen = (jnp.asarray(given, jnp.float32) / 255 - run.data.mean) / run.data.deviation
    logits, details = run.apply(params, seen)
    probability = np.asarray(jax.nn.softmax(logits))
    pose = run.pose(details)
    answers = [
        _answer(run, str(file), reading, probability[i], None if pose is None else pose[i])
        for i, (file, reading) in enumerate(zip(files, readings, strict=True))
    ]
    outlines = None
    if pose is not None:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], np.float32)
        outlines = corners @ np.asarray(pose)[..., :2].mT + np.asarray(pose)[:, None, :, 2]
    return Classified(
        answers, readings, run.denormalize(seen), run.aligned(seen, details), outlines
    )


def two_likeliest(probability: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The likeliest labels of an image and those after them, with their probabilities.

    Args:
      probability: ``[positions, classes]``, two classes or more.

    Returns:
      Labels ``[positions]`` and the probability of all of them, twice.
    """
    order = np.argsort(probability, axis=-1)
    ends = np.take_along_axis(probability, order[:, -2:], -1)
    first = order[:, -1]
    # The second differs where that costs least.
    costs = ends[:, 0] / np.maximum(ends[:, 1], np.finfo(np.float32).tiny)
    where = int(costs.argmax())
    second = first.copy()
    second[where] = order[where, -2]
    sure = ends[:, 1].prod()
    return [(first, float(sure)), (second, float(sure * costs[where]))]


def doubts_of(probability: np.ndarray, form: Callable[[np.ndarray], str]) -> tuple[str, ...]:
    """What speaks against an answer, going by its probabilities alone: in words.

    Args:
      probability: as for :func:`two_likeliest`.
      form: writes labels ``[positions]`` as a user does.
    """
    (first, sure), (second, close) = two_likeliest(probability)
    if close > _CLOSE * sure:
        return (f"{form(first)} and {form(second)} ({100 * close:.1f} %) are close",)
    return ("the network is not sure",) if sure < _SURE else ()


def _answer(
    run: Run, file: str, reading: Reading, probability: np.ndarray, pose: jax.Array | None
) -> Answer:
    by_position = probability.reshape(-1, probability.shape[-1])

    def form(labels: np.ndarray) -> str:
        return run.task.format_label(labels if run.task.positions else labels[0])

    (first, sure), (second, close) = two_likeliest(by_position)
    shape = run.seen_shape()[:2]
    return Answer(
        file,
        form(first),
        sure,
        form(second),
        close,
        reading.doubts + doubts_of(by_position, form),
        reading.box,
        None if pose is None else float(POSE_COMPONENTS["angle"].predicted(pose, shape)),
        None if pose is None or not run.task.positions else 1 / float(affine.scale(pose)),
    )


def _readings(
    run: Run, files: Sequence[str | Path], name: str, box: Sequence[float] | None
) -> list[Reading]:
    if run.task.positions:
        return [read_number(file, box) for file in files]
    side, channels = run.data.images.shape[2:]
    if channels != 1:
        raise ConfigError(
            f"{name} was trained on images of {channels} channels ({run.config.dataset}); "
            "--image reads gray digits and house numbers: name a run on MNIST, on a data set "
            "like it, or of task svhn"
        )
    return [read_digit(file, side) for file in files]


def _at_network_size(run: Run, images: np.ndarray) -> np.ndarray:
    """Images in the middle of what the run's network sees, or their middle: ``[N, H, W, C]``."""
    margin = run.seen_shape()[0] - images.shape[1]
    if margin < 0:
        start, side = -margin // 2, run.seen_shape()[0]
        return images[:, start : start + side, start : start + side]
    before = margin // 2
    return np.pad(images, ((0, 0), *2 * ((before, margin - before),), (0, 0)))
