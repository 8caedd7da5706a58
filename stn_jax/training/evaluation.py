"""Evaluation on the test set: several passes, each with new distortions."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from stn_jax.analysis import pose
from stn_jax.analysis.intervals import mean_and_interval
from stn_jax.data.distortions import example_keys
from stn_jax.progress import Progress
from stn_jax.training import processes
from stn_jax.training.diagnosis import diagnose, print_warnings
from stn_jax.training.hooks import Hooks
from stn_jax.training.provenance import environment
from stn_jax.training.run import Run
from stn_jax.training.step import distorted_batch
from stn_jax.training.workdir import Workdir
from stn_jax.warp import affine

# The key of the test set's distortions, the same for all networks.
TEST_KEY = 2020


class Predictions(NamedTuple):
    """Predictions for each seed, pass and test example, in the test set's order."""

    # [seeds, passes, N], the predicted class; house numbers: [seeds, passes, N, positions]
    classes: np.ndarray
    confidence: np.ndarray  # [seeds, passes, N], its probability; jointly over all positions
    # [seeds, passes, N, T, 2, 3], predicted by T transformers, see Run.poses; None without any
    poses: np.ndarray | None
    applied: np.ndarray  # [passes, N, 2, 3]: the theta of the distortion
    labels: np.ndarray  # [N] or [N, positions]
    # By layer, [seeds, units] bools: the ReLUs that are above 0 for any image
    active: Mapping[str, np.ndarray] = {}

    @property
    def theta(self) -> np.ndarray | None:
        """``[seeds, passes, N, 2, 3]``: the first transformer's poses; None without one."""
        return None if self.poses is None else self.poses[..., 0, :, :]

    @property
    def wrong(self) -> np.ndarray:
        """``[seeds, passes, N]`` bools; several labels are correct only if all of them are."""
        wrong = self.classes != self.labels
        return wrong.any(-1) if self.labels.ndim > 1 else wrong


def predict_classes(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Classes ``[B, ...]`` of logits ``[B, ..., classes]``, and their joint probability ``[B]``."""
    probability = jax.nn.softmax(logits)
    best = probability.max(-1)
    return probability.argmax(-1), best.reshape(len(logits), math.prod(best.shape[1:])).prod(-1)


PredictStep = Callable[..., Any]


def predict_step(run: Run) -> PredictStep:
    """Compiles the evaluation of a batch, for :func:`predict`."""

    @functools.partial(jax.jit, **_replicated(run))
    def step(params, data, images, number, indices):
        key = jax.random.fold_in(jax.random.key(TEST_KEY), number)
        keys = example_keys(key, indices)
        images, applied = distorted_batch(run.task, data, keys, images, train=False)
        logits, details, active = run.apply_and_observe(params, images)
        return (*predict_classes(logits), run.poses(details), applied), active

    return step


def _replicated(run: Run) -> dict[str, Any]:
    """Options of jit that replicate the results on every device, and so in every process."""
    if run.placement is None or run.placement.single:
        return {}
    return {"out_shardings": run.placement.replicated}


def predict(
    run: Run,
    params: Any,
    *,
    passes: int | None = None,
    quiet: bool = False,
    step: PredictStep | None = None,
) -> Predictions:
    """Runs the networks over the test set.

    Args:
      run: the trained run.
      params: its parameters, with a leading axis of seeds.
      passes: number of passes; None: the configuration's.
      quiet: whether to hide the progress bar.
      step: the result of :func:`predict_step`, to compile only once for several calls.
    """
    passes, step = passes or run.config.test_passes, step or predict_step(run)
    total = len(run.test.images)
    placement = None if run.placement is None or run.placement.single else run.placement
    devices = 1 if placement is None else placement.mesh.size
    size = run.chunk_size(-(-min(run.config.test_batch_size, total) // devices) * devices)

    def shard(x):
        return x if placement is None else placement.put(x, placement.by_device)

    by_seed, active_by_seed = [], []
    with Progress(
        "test", passes * total * len(run.config.seeds), "images", quiet=quiet
    ) as progress:
        for seed in range(len(run.config.seeds)):
            own = jax.jit(
                lambda tree, seed=seed: jax.tree.map(lambda x: x[seed], tree), **_replicated(run)
            )(params)
            outputs, observed = [], []
            for i in range(passes):
                for start in range(0, total, size):
                    # The last batch is padded with the last image; those outputs are dropped.
                    indices = np.arange(start, start + size)
                    images = run.test.images[np.minimum(indices, total - 1)]
                    args = (shard(images), np.int32(i), shard(indices.astype(np.int32)))
                    out, active = jax.device_get(step(own, run.data, *args))
                    observed.append(active)
                    count = min(size, total - start)
                    outputs.append(jax.tree.map(lambda x, count=count: x[:count], out))
                    progress.advance(count)
            joined = jax.tree.map(lambda *x: np.concatenate(x), *outputs)
            by_seed.append(jax.tree.map(lambda x: x.reshape(passes, total, *x.shape[1:]), joined))
            active_by_seed.append(jax.tree.map(lambda *x: np.any(x, axis=0), *observed))
    classes, confidence, poses, applied = jax.tree.map(lambda *x: np.stack(x), *by_seed)
    active = jax.tree.map(lambda *x: np.stack(x), *active_by_seed)
    labels = np.asarray(run.test.labels)
    return Predictions(classes, confidence, poses, applied[0], labels, active)


def summarize(run: Run, predictions: Predictions) -> dict[str, Any]:
    """The numbers of a result: error by seed, mean, confidence interval, and alignment.

    An image with several labels is correct only if all of them are; ``position_error_percent`` is
    the percentage of wrong labels. ``window_share`` is the side of the sampled region as a fraction
    of the image's (median). A slope and one or two RMS errors measure how well the transformer
    undoes the task's distortion (:data:`stn_jax.analysis.pose.POSE_COMPONENTS`). They are those of
    the first transformer; those of any others, each by itself, are in ``further_poses``, by name.
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
    if predictions.poses is not None:
        summary |= _pose_summary(run, predictions, 0)
        if further := run.transformer_names[1:]:
            summary["further_poses"] = {
                name: _pose_summary(run, predictions, i) for i, name in enumerate(further, 1)
            }
    return summary


def _pose_summary(run: Run, predictions: Predictions, transformer: int) -> dict[str, list[float]]:
    """The numbers about one transformer, by seed."""
    assert predictions.poses is not None
    scales = affine.scale(predictions.poses[..., transformer, :, :])
    found = {"window_share": [float(np.median(each)) for each in np.asarray(scales)]}
    if run.task.aligns:
        component = pose.POSE_COMPONENTS[run.task.aligns]
        shape, seeds = run.input_shape()[:2], range(len(predictions.poses))
        poses = [poses_of(predictions, seed, component, shape, transformer) for seed in seeds]
        found |= _alignment(component, poses, passes=predictions.classes.shape[1])
    return found


def _alignment(
    component: pose.PoseComponent, poses: Sequence[tuple[np.ndarray, ...]], passes: int
) -> dict[str, list[float]]:
    """Slopes and RMS errors by seed; ``poses`` holds the result of :func:`poses_of` for each."""
    within_class, within_example = component.rms_keys
    found = {
        within_class: [
            pose.within_class_rms(applied, predicted, labels, component.period)
            for applied, predicted, labels in poses
        ]
    }
    if component.slope_keys:
        by_seed = [pose.slopes(applied, predicted) for applied, predicted, _ in poses]
        found |= zip(component.slope_keys, map(list, zip(*by_seed, strict=True)), strict=True)
    if passes > 1:
        found[within_example] = [
            pose.within_example_rms(
                applied.reshape(passes, -1, *applied.shape[1:]),
                predicted.reshape(passes, -1, *predicted.shape[1:]),
                component.period,
            )
            for applied, predicted, _ in poses
        ]
    return found


def _percent(fractions: np.ndarray) -> list[float]:
    return [round(100 * float(fraction), 4) for fraction in fractions]


def poses_of(
    predictions: Predictions,
    seed: int,
    component: pose.PoseComponent,
    shape: Sequence[int],
    transformer: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A component of the applied and of the predicted poses, and the labels, over all passes.

    Args:
      predictions: of a network with a transformer.
      seed: index of the seed.
      component: see :data:`stn_jax.analysis.pose.POSE_COMPONENTS`.
      shape: spatial shape (H, W) of the network's input.
      transformer: index of the transformer.

    Returns:
      Two arrays ``[passes * N]`` (translations: ``[passes * N, 2]``), and labels ``[passes * N]``.

    Raises:
      ValueError: the network has no transformer.
    """
    if predictions.poses is None:
        raise ValueError(f"this network has no transformer, and so predicts no {component.name}")
    applied, predicted = predictions.applied, predictions.poses[seed, ..., transformer, :, :]
    passes, count = applied.shape[:2]
    applied, predicted = (x.reshape(passes * count, 2, 3) for x in (applied, predicted))
    return (
        np.asarray(component.applied(applied, shape)),
        np.asarray(component.predicted(predicted, shape)),
        np.tile(predictions.labels, passes),
    )


def angles_of(
    predictions: Predictions, seed: int, shape: Sequence[int], transformer: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`poses_of` for angles: applied, predicted ``[passes * N]`` in degrees, and labels."""
    return poses_of(predictions, seed, pose.POSE_COMPONENTS["angle"], shape, transformer)


# Fields of a result that describe the machine and the code.
_PROVENANCE = ("device", "devices", "versions", "commit")


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
      run: the trained run.
      params: its parameters, with a leading axis of seeds.
      step: the number of steps it was trained for.
      workdir: its folder.
      trained: an earlier result. If it is of the same step, its provenance is kept, and that of
        this evaluation is stored too if it differs.
      hooks: its ``draw`` is called if the configuration asks for figures.

    Returns:
      The contents of result.json.
    """
    config = run.config
    here = {**environment(), "devices": run.devices}
    provenance = here
    if trained is not None and trained["step"] == step:
        provenance = {name: trained.get(name) for name in _PROVENANCE}
    predictions = predict(run, params)
    lines = workdir.metrics()
    diagnosis = diagnose(run, predictions, lines)
    result = {
        "task": config.task,
        "variant": config.variant,
        "dataset": config.dataset,
        "evaluated_on": config.evaluated_on,
        "seeds": list(config.seeds),
        **summarize(run, predictions),
        **diagnosis.numbers,
        "warnings": diagnosis.warnings,
        **({} if run.task.class_names is None else {"class_names": list(run.task.class_names)}),
        "train_examples": len(run.data.images),
        "epochs": config.epochs,
        "step": step,
        "total_steps": run.total_steps,
        "seconds": lines[-1]["seconds"] if lines else None,
        **provenance,
        **({"evaluated_with": here} if here != provenance else {}),
        "config": config.to_json(),
    }
    figure_hooks = hooks if config.figures else None
    if figure_hooks is not None:
        run, params = run.on_single_device(), run.fetch(params)  # every process takes part

    def write() -> int:
        if figure_hooks is not None:
            with workdir.writing():
                figure_hooks.draw(run, params, predictions, workdir)
        # Last, since a run with a result counts as evaluated.
        workdir.write_json("result.json", result)
        print_warnings(result)
        return 0

    processes.run_on_primary(write)
    return result
