"""Evaluation: every test example once in each pass, each pass freshly distorted."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis import pose
from stn_jax.data import house_numbers
from stn_jax.data.tasks import example_keys
from stn_jax.models import Details
from stn_jax.progress import Progress
from stn_jax.training import processes
from stn_jax.training.config import Config
from stn_jax.training.run import Run, environment, mean_and_interval
from stn_jax.training.step import distorted_batch
from stn_jax.training.workdir import Workdir
from stn_jax.warp import affine, grid_sample

# The distortions of the test set come from this key, for all networks and all time.
TEST_KEY = 2020


class Predictions(NamedTuple):
    """What the networks said, for each seed, pass and test example, in the test set's order."""

    # [seeds, passes, N], the predicted class; house numbers: [seeds, passes, N, positions]
    classes: np.ndarray
    confidence: np.ndarray  # [seeds, passes, N], its probability; of all positions together
    # [seeds, passes, N, 2, 3], predicted, as Run.pose reads it; None: no transformer
    theta: np.ndarray | None
    applied: np.ndarray  # [passes, N, 2, 3]: the theta of the distortion
    labels: np.ndarray  # [N] or [N, positions]

    @property
    def wrong(self) -> np.ndarray:
        """``[seeds, passes, N]``: an image with several labels is right only where all are."""
        wrong = self.classes != self.labels
        return wrong.any(-1) if self.labels.ndim > 1 else wrong


def answers(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Classes of logits ``[B, ..., classes]``, and ``[B]``, how likely all of an image's are."""
    probability = jax.nn.softmax(logits)
    sure = probability.max(-1)
    return probability.argmax(-1), sure.reshape(len(logits), math.prod(sure.shape[1:])).prod(-1)


def predict(
    run: Run, params: Any, *, passes: int | None = None, quiet: bool = False
) -> Predictions:
    """Runs the networks over the test set.

    Args:
      run: what was trained.
      params: its parameters, with the leading axis of seeds.
      passes: number of passes; the config's where None.
      quiet: whether to show no progress.
    """
    passes = passes or run.config.test_passes
    total = len(run.test.images)
    placement = None if run.placement is None or run.placement.single else run.placement
    devices = 1 if placement is None else placement.mesh.size
    size = run.at_once(-(-min(run.config.test_batch_size, total) // devices) * devices)
    whole: dict[str, Any] = {} if placement is None else {"out_shardings": placement.whole}

    def shared(x):
        return x if placement is None else placement.put(x, placement.by_device)

    @functools.partial(jax.jit, **whole)
    def batch(params, data, images, number, indices):
        key = jax.random.fold_in(jax.random.key(TEST_KEY), number)
        keys = example_keys(key, indices)
        images, applied = distorted_batch(run.task, data, keys, images, train=False)
        logits, details = run.apply(params, images)
        return *answers(logits), run.pose(details), applied

    by_seed = []
    with Progress(
        "test", passes * total * len(run.config.seeds), "images", quiet=quiet
    ) as progress:
        for seed in range(len(run.config.seeds)):
            own = jax.jit(lambda tree, seed=seed: jax.tree.map(lambda x: x[seed], tree), **whole)(
                params
            )
            outputs = []
            for i in range(passes):
                for start in range(0, total, size):
                    # The last batch is filled up with the last image; what that gives is cut off.
                    indices = np.arange(start, start + size)
                    images = run.test.images[np.minimum(indices, total - 1)]
                    args = (shared(images), np.int32(i), shared(indices.astype(np.int32)))
                    out = jax.device_get(batch(own, run.data, *args))
                    count = min(size, total - start)
                    outputs.append(jax.tree.map(lambda x, count=count: x[:count], out))
                    progress.advance(count)
            joined = jax.tree.map(lambda *x: np.concatenate(x), *outputs)
            by_seed.append(jax.tree.map(lambda x: x.reshape(passes, total, *x.shape[1:]), joined))
    classes, confidence, theta, applied = jax.tree.map(lambda *x: np.stack(x), *by_seed)
    return Predictions(classes, confidence, theta, applied[0], np.asarray(run.test.labels))


def summarise(run: Run, predictions: Predictions) -> dict[str, Any]:
    """The figures of a result: error by seed, mean, interval and how the transformer aligns.

    An image with several labels counts as right only where all are; the share of wrong labels is
    the ``position_error_percent``. The ``window_share`` is the side of what the transformer shows,
    in those of the whole image (median). How well it undoes what the task distorts, an aspect of
    the pose, say a slope and one or two spreads (:data:`stn_jax.analysis.pose.ASPECTS`).
    """
    by_seed = _percent(predictions.wrong.mean((1, 2)))
    mean, interval = mean_and_interval(by_seed)
    summary: dict[str, Any] = {
        "test_error_percent": by_seed,
        "mean": mean,
        "ci95": interval,
        "test_examples": len(predictions.labels),
        "test_passes": predictions.classes.shape[1],
    }
    if predictions.labels.ndim > 1:
        positions = predictions.classes != predictions.labels
        summary["position_error_percent"] = _percent(positions.mean((1, 2, 3)))
    if predictions.theta is not None:
        windows = np.asarray(affine.scale(predictions.theta)).reshape(len(by_seed), -1)
        summary["window_share"] = [float(each) for each in np.median(windows, 1)]
        if run.task.aligns:
            aspect = pose.ASPECTS[run.task.aligns]
            shape = run.seen_shape()[:2]
            poses = [poses_of(predictions, seed, aspect, shape) for seed in range(len(by_seed))]
            summary |= _alignment(aspect, poses, passes=predictions.classes.shape[1])
    return summary


def _alignment(
    aspect: pose.Aspect, poses: Sequence[tuple[np.ndarray, ...]], passes: int
) -> dict[str, list[float]]:
    """Slopes and spreads by seed, of what :func:`poses_of` gives for each."""
    spread, within = aspect.spreads
    by_seed = [pose.slopes(applied, predicted) for applied, predicted, _ in poses]
    found = {
        spread: [pose.spread(*each) for each in poses],
        **dict(zip(aspect.slopes, map(list, zip(*by_seed, strict=True)), strict=True)),
    }
    if passes > 1:
        found[within] = [
            pose.spread_within(*(x.reshape(passes, -1, *x.shape[1:]) for x in (applied, predicted)))
            for applied, predicted, _ in poses
        ]
    return found


def _percent(shares: np.ndarray) -> list[float]:
    return [round(100 * float(share), 4) for share in shares]


def poses_of(
    predictions: Predictions, seed: int, aspect: pose.Aspect, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An aspect of the applied and of the predicted poses, and labels, over all passes.

    Args:
      predictions: of a network with a transformer.
      seed: which of its networks.
      aspect: see :data:`stn_jax.analysis.pose.ASPECTS`.
      shape: spatial shape (H, W) of the images that the network sees.

    Returns:
      Two arrays ``[passes * N]`` (places: ``[passes * N, 2]``), and labels ``[passes * N]``.

    Raises:
      ValueError: the network has no transformer.
    """
    if predictions.theta is None:
        raise ValueError(f"this network has no transformer, and so predicts no {aspect.name}")
    applied, predicted = predictions.applied, predictions.theta[seed]
    passes, count = applied.shape[:2]
    applied, predicted = (x.reshape(passes * count, 2, 3) for x in (applied, predicted))
    return (
        np.asarray(aspect.applied(applied, shape)),
        np.asarray(aspect.predicted(predicted, shape)),
        np.tile(predictions.labels, passes),
    )


def angles_of(
    predictions: Predictions, seed: int, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`poses_of` for angles: applied, predicted ``[passes * N]`` in degrees, and labels."""
    return poses_of(predictions, seed, pose.ASPECTS["angle"], shape)


# What a result says of the machine and the code that made it.
_MADE_WITH = ("device", "devices", "versions", "commit")


def evaluate(
    run: Run,
    params: Any,
    step: int,
    workdir: Workdir,
    *,
    trained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates, writes result.json and (if the config says so) the figures.

    Args:
      run: what was trained.
      params: its parameters, with the leading axis of seeds.
      step: how far it was trained.
      workdir: where it was trained.
      trained: an earlier result of the same state. What it was made with then stays, and beside it
        is said what it was evaluated with, where that differs.

    Returns:
      What result.json holds.
    """
    config = run.config
    here = {**environment(), "devices": run.devices}
    made_with = here
    if trained is not None and trained["step"] == step:
        made_with = {name: trained.get(name) for name in _MADE_WITH}
    predictions = predict(run, params)
    lines = workdir.metrics()
    result = {
        "task": config.task,
        "variant": config.variant,
        "dataset": config.dataset,
        "evaluated_on": "held-out training examples" if config.holdout else "test set",
        "seeds": list(config.seeds),
        **summarise(run, predictions),
        "train_examples": len(run.data.images),
        "epochs": config.epochs,
        "step": step,
        "total_steps": run.total_steps,
        "seconds": lines[-1]["seconds"] if lines else None,
        **made_with,
        **({"evaluated_with": here} if here != made_with else {}),
        "config": {k: v for k, v in config.to_dict().items() if k not in Config.FOLDERS}
        | {"seeds": list(config.seeds)},
    }
    if config.figures:
        run, params = run.alone(), run.fetch(params)

    def write() -> int:
        if config.figures:
            with workdir.writing():
                draw(run, params, predictions, workdir)
        # Last: a run that has it is not evaluated again.
        workdir.write_json("result.json", result)
        return 0

    processes.by_first(write)
    return result


def draw(run: Run, params: Any, predictions: Predictions, workdir: Workdir) -> None:
    """Draws the first seed's gallery and angle plot; says so where matplotlib is missing."""
    if predictions.theta is None:
        return
    try:
        from stn_jax.analysis import figures
    except ModuleNotFoundError as error:
        print(f"no figures: {str(error.name).partition('.')[0]} is not installed", flush=True)
        return
    own = jax.tree.map(lambda x: x[0], params)
    title = _title(run)
    figures.gallery(*gallery(run, own), workdir.figures / "gallery.png", title)
    if run.task.aligns == "angle":
        panel = figures.Angles(title, *angles_of(predictions, 0, run.seen_shape()[:2]))
        figures.angle_plot([panel], workdir.figures / "angles.png")


def _title(run: Run) -> str:
    config = run.config
    family = "" if config.transform == "affine" else f" ({config.transform})"
    return f"{config.variant}{family} on {config.task} ({config.dataset})"


def gallery(run: Run, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Test images as a network saw them, and what its transformer made of them.

    Where the task distorts, one of each class in several distortions, else many different ones.

    Args:
      run: what was trained.
      params: its parameters, those of one seed.

    Returns:
      Two arrays ``[rows, columns, H, W, C]`` in [0, 1].
    """
    if run.task.distorts:
        return tried(run, params, one_of_each_class(run.test.labels, run.test.images))
    rows = [tried(run, params, run.test.images[i : i + 10], turns=1) for i in range(0, 40, 10)]
    rows = [row for row in rows if row[0].shape[1] == 10] or rows[:1]
    before, after = (np.concatenate(each) for each in zip(*rows, strict=True))
    return before, after


def said(run: Run, labels: np.ndarray) -> str:
    """One image's label, or the number that its labels by position make, as one writes it."""
    if not run.task.positions:
        return str(int(labels))
    return "".join(str(c) for c in labels if c != house_numbers.NONE) or "no digits"


def one_of_each_class(labels: np.ndarray, images: np.ndarray, columns: int = 10) -> np.ndarray:
    """One image of each of the first classes: ``[columns, H, W, C]``."""
    classes = np.unique(labels)[:columns]
    return images[[int(np.flatnonzero(labels == c)[0]) for c in classes]]


def tried(run: Run, params: Any, images: np.ndarray, turns: int = 4) -> tuple[Any, Any]:
    """Several distortions of each image, the same for all networks, and what one makes of them.

    Args:
      run: what was trained.
      params: its parameters, those of one seed.
      images: ``[N, H, W, C]``, uint8.
      turns: how many distortions of each.

    Returns:
      Two arrays ``[turns, N, H', W', C]`` in [0, 1].
    """
    count = len(images)
    keys = example_keys(jax.random.key(TEST_KEY + 1), jnp.arange(turns * count))
    tiled = np.concatenate([images] * turns)
    show = functools.partial(distorted_batch, run.task, train=False)
    seen, _ = jax.jit(show)(run.data, keys, tiled)
    _, details = run.apply(params, seen)
    pair = to_show(run, seen), aligned(run, seen, details)
    first, second = (x.reshape(turns, count, *x.shape[1:]) for x in pair)
    return first, second


def aligned(run: Run, seen: jax.Array, details: Details) -> np.ndarray:
    """The input as the transformer aligns it, to look at: ``[B, H', W', C]`` in [0, 1].

    Where a feature map was warped, it is what the same transform does to the input.
    """
    warped, transformer = details.warped, run.model.transformer
    if run.model.warp_depth and transformer is not None and details.theta is not None:
        align_corners = transformer.align_corners
        grid = transformer.family().grid_of(
            details.theta, seen.shape[1:3], align_corners=align_corners
        )
        warped = grid_sample(
            seen, grid, padding_mode=transformer.padding_mode, align_corners=align_corners
        )
    return to_show(run, warped)


def to_show(run: Run, images: jax.Array) -> np.ndarray:
    """Normalised images as they were before: ``[B, H, W, C]`` in [0, 1]."""
    return np.clip(np.asarray(images * run.data.deviation + run.data.mean), 0, 1)
