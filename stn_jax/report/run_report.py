"""The HTML report of a run: configuration, training curves, test results and examples."""

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
from stn_jax.report.gallery import gallery, side_by_side
from stn_jax.report.sweep import sweep
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.diagnosis import diagnose
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
    """Evaluates a run's newest checkpoint and writes a self-contained HTML report.

    Args:
      workdir: the run's folder.
      path: the file to write; None: ``report.html`` in the run's folder.

    Returns:
      The result of :func:`stn_jax.training.evaluation.summarize`, and the file's path.

    Raises:
      ConfigError, DataError: as :func:`stn_jax.training.restore.load`, or the file cannot be
        written.
    """
    run, state = load(workdir)
    folder = Workdir(workdir)
    path = folder.path / "report.html" if path is None else Path(path)
    try:
        # Opened first, to find out whether it can be written before the evaluation.
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
    """The contents of a run's report.

    Args:
      run: the trained run.
      params: its parameters, with a leading axis of seeds.
      step: the number of steps it was trained for.
      predictions: its predictions for the test set.
      lines: the lines of metrics.jsonl.
    """
    config = run.config
    own = jax.tree.map(lambda x: x[0], params)
    has_transformer = predictions.theta is not None
    classes = run.model.head.classes
    summary, diagnosis = summarize(run, predictions), diagnose(run, predictions, lines)
    names = list(run.task.class_names or map(str, range(classes)))
    labels, predicted = predictions.labels, predictions.classes
    if run.task.positions:
        names[house_numbers.NONE] = "none"
        predicted = predicted.reshape(*predicted.shape[:2], -1)
    return page.Report(
        title=f"{config.variant} on {config.task} ({config.dataset})",
        about=(
            f"Step {step:,} of {run.total_steps:,}. Evaluated on the {config.evaluated_on}: "
            f"{summary['test_examples']:,} examples, passes: {summary['test_passes']}"
            f"{', each with new distortions' if run.task.distorts else ''}. Images, angles and "
            f"hardest images: seed {config.seeds[0]}."
            + "".join(f" {note[0].upper()}{note[1:]}." for note in run.notes)
        ),
        tiles=_tiles(run, own, predictions, summary | diagnosis.numbers, lines),
        sweep=sweep(run, own),
        curves=_curves(lines),
        gallery=gallery(run, own) if has_transformer else None,
        angles=(
            _angles(run, predictions) if has_transformer and run.task.aligns == "angle" else ()
        ),
        confusion=mistakes.confusion(labels.ravel(), predicted, classes),
        hardest=_hardest(run, own, predictions),
        config=config.to_dict() | config.to_json(),
        defaults=Config().to_dict() | Config().to_json(),
        made_with=_made_with(),
        names=names,
        warnings=list(diagnosis.warnings.values()),
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
    tiles += _pose_tiles(run, summary)
    if dead := summary.get("dead_relu_percent"):
        value = ", ".join(f"{np.mean(percent):.1f}\N{NO-BREAK SPACE}%" for percent in dead.values())
        tiles.append(page.Tile("Dead ReLUs", value, f"{' and '.join(dead)}: 0 for every image"))
    parameters = sum(x.size for x in jax.tree.leaves(params))
    tiles.append(page.Tile("Parameters", f"{parameters:,}"))
    seconds = f"{lines[-1]['seconds']:,.0f} s" if lines else "unknown"
    epochs = f"{run.config.epochs} epoch{'s' if run.config.epochs > 1 else ''}"
    all_seeds = f", {seeds} seeds in one program" if seeds > 1 else ""
    tiles.append(page.Tile("Training", seconds, f"{epochs}{all_seeds}"))
    return tiles


def _angles(run: Run, predictions: Predictions) -> list[page.Angles]:
    """The angles of each transformer."""
    names, shape = run.transformer_names, run.input_shape()[:2]
    return [
        page.Angles(*angles_of(predictions, 0, shape, i), name if len(names) > 1 else "")
        for i, name in enumerate(names)
    ]


def _pose_tiles(run: Run, summary: dict[str, Any]) -> list[page.Tile]:
    """How well each transformer undoes the task's distortion."""
    if not run.task.aligns:
        return []
    component = POSE_COMPONENTS[run.task.aligns]
    mean = "mean of seeds; " if len(run.config.seeds) > 1 else ""
    thing = "image" if run.config.any_data else "digit"
    within_class, within_example = component.rms_keys
    distance = f"{{:.{component.decimals}f}}{component.symbol}"
    kinds = (
        (f"Slope of {component.name}s", component.slope_keys, "{:.2f}", "a perfect aligner: -1"),
        ("Within-class RMS", (within_class,), distance, f"of the poses of aligned {thing}s"),
        (f"Within-{thing} RMS", (within_example,), distance, "a perfect aligner: 0"),
    )
    further = summary.get("further_poses", {})
    first = f", {run.transformer_names[0]}" if further else ""
    alone = "; this transformer by itself" if further else ""
    tiles = []
    for suffix, numbers in {first: summary, **{f", {k}": v for k, v in further.items()}}.items():
        for name, keys, form, note in kinds:
            if keys and all(key in numbers for key in keys):
                value = ", ".join(form.format(np.mean(numbers[key])) for key in keys)
                tiles.append(page.Tile(name + suffix, value, mean + note + alone))
    return tiles


def _curves(lines: list[dict[str, Any]]) -> list[page.Curve]:
    """The metrics of metrics.jsonl by epoch; one line per seed if there is a value for each."""
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
    """The first seed's hardest test images, in the pass with the most confident mistake."""
    classes, confidence = predictions.classes[0], predictions.confidence[0]
    wrong = predictions.wrong[0]
    which = mistakes.hardest(wrong, confidence, HARDEST)
    if not len(which):
        return []
    passes = np.where(wrong, confidence, -1)[:, which].argmax(0)

    @jax.jit
    def distort_and_align(images: jax.Array) -> tuple[Any, ...]:
        # The same keys as in the evaluation.
        by_pass = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(TEST_KEY), passes)
        keys = jax.vmap(jax.random.fold_in)(by_pass, jnp.asarray(which))
        inputs, _ = distorted_batch(run.task, run.data, keys, images, train=False)
        return inputs, run.apply(params, inputs)[1]

    inputs, details = distort_and_align(jnp.asarray(run.test.images[which]))
    after = side_by_side(run.views(inputs, details))
    before = run.denormalize(inputs)
    cases = []
    for i, (index, at) in enumerate(zip(which, passes, strict=True)):
        count = int(wrong[:, index].sum())
        percent = 100 * confidence[at, index]
        cases.append(
            page.Hard(
                f"{run.task.format_label(predictions.labels[index])} predicted as "
                f"{run.task.format_label(classes[at, index])} ({percent:.0f} %)",
                f"wrong {count} of {len(wrong)} times; image {index}",
                before[i],
                None if after is None else after[i],
            )
        )
    return cases


def _made_with() -> dict[str, Any]:
    found = environment()
    versions = found.pop("versions")
    return found | versions
