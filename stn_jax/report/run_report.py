"""A workdir as one HTML page: what was trained, how well, and what it makes of digits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax.analysis import mistakes
from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.data import house_numbers
from stn_jax.files import atomic_write
from stn_jax.report import page
from stn_jax.report.gallery import gallery
from stn_jax.report.sweep import sweep
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.evaluation import (
    TEST_KEY,
    Predictions,
    angles_of,
    predict,
    summarize,
)
from stn_jax.training.provenance import environment
from stn_jax.training.restore import load
from stn_jax.training.run import Run
from stn_jax.training.step import distorted_batch
from stn_jax.training.workdir import Workdir

HARDEST = 24
_LOG = ("loss", "train_error_percent")
_NAMES = {"train_error_percent": "training error (%)"}
_NOT_CURVES = ("step", "epoch", "seconds", "images_per_second")


def write_report(workdir: str | Path, path: str | Path | None = None) -> tuple[dict, Path]:
    """Evaluates a run's newest checkpoint and writes what there is to know as one HTML page.

    The page needs no network and no other file.

    Args:
      workdir: the run's folder.
      path: the file to write; ``report.html`` in the run's folder where None.

    Returns:
      The figures of :func:`stn_jax.training.evaluation.summarize`, and the file's path.

    Raises:
      ConfigError, DataError: as :func:`stn_jax.training.restore.load`, and where the file cannot
        be written.
    """
    run, state = load(workdir)
    folder = Workdir(workdir)
    path = folder.path / "report.html" if path is None else Path(path)
    try:
        # Opened first: whether it can be written is known before the work.
        with atomic_write(path) as file:
            predictions = predict(run, state["params"])
            found = report(run, state["params"], int(state["step"]), predictions, folder.metrics())
            file.write(page.render(found))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another file") from None
    return summarize(run, predictions), path


def report(
    run: Run, params: Any, step: int, predictions: Predictions, lines: list[dict[str, Any]]
) -> page.Report:
    """What the page of a run says.

    Args:
      run: what was trained.
      params: its parameters, with the leading axis of seeds.
      step: how far it was trained.
      predictions: what it says of the test set.
      lines: those of metrics.jsonl.
    """
    config = run.config
    own = jax.tree.map(lambda x: x[0], params)
    moves = predictions.theta is not None
    classes = run.model.head.classes
    summary = summarize(run, predictions)
    on = "held-out training examples" if config.holdout else "test set"
    names = [str(c) for c in range(classes)]
    labels, said_labels = predictions.labels, predictions.classes
    if run.task.positions:
        names[house_numbers.NONE] = "none"
        said_labels = said_labels.reshape(*said_labels.shape[:2], -1)
    return page.Report(
        title=f"{config.variant} on {config.task} ({config.dataset})",
        about=(
            f"Step {step:,} of {run.total_steps:,}. Evaluated on the {on}: "
            f"{summary['test_examples']:,} examples, passes: {summary['test_passes']}"
            f"{', each freshly distorted' if run.task.distorts else ''}. Pictures, angles and "
            f"hardest images: seed {config.seeds[0]}."
        ),
        tiles=_tiles(run, own, predictions, summary, lines),
        sweep=sweep(run, own),
        curves=_curves(lines),
        gallery=gallery(run, own) if moves else None,
        angles=(
            page.Angles(*angles_of(predictions, 0, run.seen_shape()[:2]))
            if moves and run.task.aligns == "angle"
            else None
        ),
        confusion=mistakes.confusion(labels.ravel(), said_labels, classes),
        hardest=_hardest(run, own, predictions),
        config=config.to_dict() | {"seeds": list(config.seeds)},
        defaults=Config().to_dict() | {"seeds": [0]},
        made_with=_made_with(),
        names=names,
    )


def _tiles(
    run: Run, params: Any, predictions: Predictions, summary: dict[str, Any], lines: list[dict]
) -> list[page.Tile]:
    seeds = len(run.config.seeds)
    low, high = mistakes.error_interval(predictions.wrong)
    value = f"{summary['mean']:.2f} %"
    if summary["ci95"] is not None:
        value += f" \N{PLUS-MINUS SIGN} {summary['ci95']:.2f}"
        note = f"95 % interval over {seeds} seeds (Student's t). From the finite test set alone: "
    else:
        note = "One seed, so no interval over seeds. 95 % interval from the finite test set: "
    note += f"{100 * low:.2f} to {100 * high:.2f} %."
    tiles = [page.Tile("Test error", value, note)]
    if seeds > 1:
        each = ", ".join(f"{error:.2f}" for error in summary["test_error_percent"])
        tiles.append(page.Tile("By seed", f"{each} %"))
    if run.task.aligns:
        component = POSE_COMPONENTS[run.task.aligns]
        mean = "mean of seeds; " if seeds > 1 else ""
        spread, within = component.spreads
        distance = f"{{:.{component.decimals}f}}{component.symbol}"
        for name, keys, form, note in (
            (f"Slope of {component.name}s", component.slopes, "{:.2f}", "a perfect aligner: -1"),
            ("Spread of poses", (spread,), distance, "of a class, however it is drawn"),
            ("Within a digit", (within,), distance, "a perfect aligner: 0"),
        ):
            if all(key in summary for key in keys):
                value = ", ".join(form.format(np.mean(summary[key])) for key in keys)
                tiles.append(page.Tile(name, value, mean + note))
    parameters = sum(x.size for x in jax.tree.leaves(params))
    tiles.append(page.Tile("Parameters", f"{parameters:,}"))
    seconds = f"{lines[-1]['seconds']:,.0f} s" if lines else "unknown"
    together = f", {seeds} seeds together" if seeds > 1 else ""
    tiles.append(page.Tile("Training", seconds, f"{run.config.epochs} epochs{together}"))
    return tiles


def _curves(lines: list[dict[str, Any]]) -> list[page.Curve]:
    """All that metrics.jsonl holds, by epoch: a line a seed where it has a value for each."""
    curves = []
    names = dict.fromkeys(name for line in lines for name in line if name not in _NOT_CURVES)
    for name in names:
        rows = [
            (line["epoch"], np.ravel(line[name]).tolist())
            for line in lines
            if _is_number(line.get(name))
        ]
        if not rows:
            continue
        series = [
            [(epoch, values[i]) for epoch, values in rows if i < len(values)]
            for i in range(max(len(values) for _, values in rows))
        ]
        shown = _NAMES.get(name, name.replace("_", " "))
        curves.append(page.Curve(shown, series, log=name in _LOG))
    return curves


def _is_number(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(type(x) in (int, float) for x in values)


def _hardest(run: Run, params: Any, predictions: Predictions) -> list[page.Hard]:
    """The first seed's hardest test images, as they were when it was wrong most surely."""
    classes, confidence = predictions.classes[0], predictions.confidence[0]
    wrong = predictions.wrong[0]
    which = mistakes.hardest(wrong, confidence, HARDEST)
    if not len(which):
        return []
    passes = np.where(wrong, confidence, -1)[:, which].argmax(0)

    @jax.jit
    def look(images: jax.Array) -> tuple[Any, ...]:
        # The keys that the evaluation took.
        by_pass = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(TEST_KEY), passes)
        keys = jax.vmap(jax.random.fold_in)(by_pass, jnp.asarray(which))
        seen, _ = distorted_batch(run.task, run.data, keys, images, train=False)
        return seen, run.apply(params, seen)[1]

    seen, details = look(jnp.asarray(run.test.images[which]))
    after = run.aligned(seen, details) if predictions.theta is not None else None
    before = run.denormalize(seen)
    cases = []
    for i, (index, at) in enumerate(zip(which, passes, strict=True)):
        often = int(wrong[:, index].sum())
        sure = 100 * confidence[at, index]
        cases.append(
            page.Hard(
                f"{run.task.format_label(predictions.labels[index])} read as "
                f"{run.task.format_label(classes[at, index])} ({sure:.0f} %)",
                f"wrong {often} of {len(wrong)} times; image {index}",
                before[i],
                None if after is None else after[i],
            )
        )
    return cases


def _made_with() -> dict[str, Any]:
    found = environment()
    versions = found.pop("versions")
    return found | versions
