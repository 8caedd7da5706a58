"""Evaluation: every test example once in each pass, each pass freshly distorted."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from stn_jax.analysis import pose
from stn_jax.analysis.intervals import mean_and_interval
from stn_jax.data.distortions import example_keys
from stn_jax.progress import Progress
from stn_jax.training import processes
from stn_jax.training.config import Config
from stn_jax.training.hooks import Hooks
from stn_jax.training.provenance import environment
from stn_jax.training.run import Run
from stn_jax.training.step import distorted_batch
from stn_jax.training.workdir import Workdir
from stn_jax.warp import affine

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


def summarize(run: Run, predictions: Predictions) -> dict[str, Any]:
    """The figures of a result: error by seed, mean, interval and how the transformer aligns.

    An image with several labels counts as right only where all are; the share of wrong labels is
    the ``position_error_percent``. The ``window_share`` is the side of what the transformer shows,
    in those of the whole image (median). How well it undoes what the task distorts, a component of
    the pose, say a slope and one or two spreads (:data:`stn_jax.analysis.pose.POSE_COMPONENTS`).
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
            component = pose.POSE_COMPONENTS[run.task.aligns]
            shape = run.seen_shape()[:2]
            poses = [poses_of(predictions, seed, component, shape) for seed in range(len(by_seed))]
            summary |= _alignment(component, poses, passes=predictions.classes.shape[1])
    return summary


def _alignment(
    component: pose.PoseComponent, poses: Sequence[tuple[np.ndarray, ...]], passes: int
) -> dict[str, list[float]]:
    """Slopes and spreads by seed, of what :func:`poses_of` gives for each."""
    spread, within = component.spreads
    by_seed = [pose.slopes(applied, predicted) for applied, predicted, _ in poses]
    found = {
        spread: [pose.within_class_rms(*each) for each in poses],
        **dict(zip(component.slopes, map(list, zip(*by_seed, strict=True)), strict=True)),
    }
    if passes > 1:
        found[within] = [
            pose.within_example_rms(
                *(x.reshape(passes, -1, *x.shape[1:]) for x in (applied, predicted))
            )
            for applied, predicted, _ in poses
        ]
    return found


def _percent(shares: np.ndarray) -> list[float]:
    return [round(100 * float(share), 4) for share in shares]


def poses_of(
    predictions: Predictions, seed: int, component: pose.PoseComponent, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A component of the applied and of the predicted poses, and labels, over all passes.

    Args:
      predictions: of a network with a transformer.
      seed: which of its networks.
      component: see :data:`stn_jax.analysis.pose.POSE_COMPONENTS`.
      shape: spatial shape (H, W) of the images that the network sees.

    Returns:
      Two arrays ``[passes * N]`` (places: ``[passes * N, 2]``), and labels ``[passes * N]``.

    Raises:
      ValueError: the network has no transformer.
    """
    if predictions.theta is None:
        raise ValueError(f"this network has no transformer, and so predicts no {component.name}")
    applied, predicted = predictions.applied, predictions.theta[seed]
    passes, count = applied.shape[:2]
    applied, predicted = (x.reshape(passes * count, 2, 3) for x in (applied, predicted))
    return (
        np.asarray(component.applied(applied, shape)),
        np.asarray(component.predicted(predicted, shape)),
        np.tile(predictions.labels, passes),
    )


def angles_of(
    predictions: Predictions, seed: int, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`poses_of` for angles: applied, predicted ``[passes * N]`` in degrees, and labels."""
    return poses_of(predictions, seed, pose.POSE_COMPONENTS["angle"], shape)


# What a result says of the machine and the code that made it.
_MADE_WITH = ("device", "devices", "versions", "commit")


def evaluate(
    run: Run,
    params: Any,
    step: int,
    workdir: Workdir,
    *,
    trained: Mapping[str, Any] | None = None,
    hooks: Hooks | None = None,
) -> dict[str, Any]:
    """Evaluates and writes result.json.

    Args:
      run: what was trained.
      params: its parameters, with the leading axis of seeds.
      step: how far it was trained.
      workdir: where it was trained.
      trained: an earlier result of the same state. What it was made with then stays, and beside it
        is said what it was evaluated with, where that differs.
      hooks: whose ``draw`` is called if the config says so.

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
        **summarize(run, predictions),
        "train_examples": len(run.data.images),
        "epochs": config.epochs,
        "step": step,
        "total_steps": run.total_steps,
        "seconds": lines[-1]["seconds"] if lines else None,
        **made_with,
        **({"evaluated_with": here} if here != made_with else {}),
        "config": {k: v for k, v in config.to_dict().items() if k not in Config.FOLDER_FIELDS}
        | {"seeds": list(config.seeds)},
    }
    drawn_by = hooks if config.figures else None
    if drawn_by is not None:
        run, params = run.alone(), run.fetch(params)

    def write() -> int:
        if drawn_by is not None:
            with workdir.writing():
                drawn_by.draw(run, params, predictions, workdir)
        # Last: a run that has it is not evaluated again.
        workdir.write_json("result.json", result)
        return 0

    processes.run_on_primary(write)
    return result
