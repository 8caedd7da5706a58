"""What is wrong with a trained network: guesses, dead ReLUs, one transform for all images."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stn_jax.models.transformer_network import is_transformer
from stn_jax.training.config import Config
from stn_jax.training.health import at_chance, chance_error
from stn_jax.training.run import Run

if TYPE_CHECKING:
    from stn_jax.training.evaluation import Predictions

# Transforms that move no corner of an image by as much, from image to image, are the same.
SAME_PIXELS = 0.05


class Diagnosis(NamedTuple):
    """Numbers for a result, by seed, and warnings by kind, empty for a healthy network.

    Attributes:
      numbers: ``chance_error_percent``, the error of always predicting the most frequent label;
        ``dead_relu_percent``, the percentage of ReLUs that are 0 for every evaluated image, in the
        classifier and in the localization network; ``theta_variation_pixels``, how far the
        transforms move an image's corner, as standard deviation over the images.
      warnings: texts; the kinds are at_chance, dead_relus and same_transforms.
    """

    numbers: dict[str, Any]
    warnings: dict[str, str]


def diagnose(run: Run, predictions: "Predictions", lines: Sequence[Mapping[str, Any]]) -> Diagnosis:
    """Diagnoses the networks of a run. A collective: every process must call it.

    Args:
      run: the trained run.
      predictions: its predictions for the evaluation set.
      lines: the lines of metrics.jsonl.
    """
    dead = {layer: ~active for layer, active in predictions.active.items()}
    chance = chance_error(predictions.labels)
    labels = np.asarray(run.fetch(run.data.labels))  # a collective
    numbers: dict[str, Any] = {"chance_error_percent": round(100 * chance, 4)}
    if dead:
        numbers["dead_relu_percent"] = {
            part: _percent_of_all(dead, part == "localization")
            for part in ("classifier", "localization")
            if any(_in_localization(layer) == (part == "localization") for layer in dead)
        }
    variation = _variation_pixels(run, predictions)
    if variation is not None:
        numbers["theta_variation_pixels"] = [round(float(x), 4) for x in variation]
    found = {
        "at_chance": _at_chance(run, labels, predictions, dead, lines),
        "dead_relus": _dead_relus(run.config, dead),
        "same_transforms": _same_transforms(run.config, variation, lines),
    }
    return Diagnosis(numbers, {kind: text for kind, text in found.items() if text})


def print_warnings(result: Mapping[str, Any]) -> None:
    """Prints the warnings of a result to stderr; those of earlier versions have none."""
    for text in result.get("warnings", {}).values():
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _at_chance(
    run: Run,
    labels: np.ndarray,
    predictions: "Predictions",
    dead: Mapping[str, np.ndarray],
    lines: Sequence[Mapping[str, Any]],
) -> str | None:
    config = run.config
    errors, chance = predictions.wrong.mean((1, 2)), chance_error(predictions.labels)
    guessing = at_chance(errors, chance, len(predictions.labels))
    if not guessing.any():
        return None
    worst = int(errors.argmax())
    text = (
        f"the error of {100 * errors[worst]:.1f} %{_of_seeds(config, guessing)} is not clearly "
        f"below that of always predicting the most frequent label, {100 * chance:.1f} %"
    )
    logged = [line["train_error_percent"][worst] for line in lines if "train_error_percent" in line]
    if lines and "loss" in lines[-1]:
        entropy = constant_loss(labels, config.label_smoothing)
        text += (
            f"; the training loss is {lines[-1]['loss'][worst]:.2f}, and that of a network that "
            f"ignores the images {entropy:.2f}"
        )
    rate = f"{config.learning_rate / 4:.2g}"
    if _blind(dead, False).any() or (logged and min(logged) < 0.9 * logged[-1]):
        best = f" (its training error was {min(logged):.1f} % before)" if logged else ""
        return f"{text}. The training collapsed{best}: try --config.learning_rate={rate}"
    return (
        f"{text}. The training has hardly begun after {run.total_steps} steps: try "
        f"--config.epochs={4 * config.epochs}, and if that changes nothing, "
        f"--config.learning_rate={rate}"
    )


def _dead_relus(config: Config, dead: Mapping[str, np.ndarray]) -> str | None:
    """The layers that are dead as a whole, so that the next ones get the same for all images."""
    blind = {layer: units.all(1) for layer, units in dead.items() if units.all(1).any()}
    if not blind:
        return None
    seeds = np.any(list(blind.values()), axis=0)
    in_localization = all(map(_in_localization, blind))
    name = "localization_rate" if in_localization else "learning_rate"
    what = "the transform" if in_localization else "the prediction"
    return (
        f"all ReLUs of {', '.join(sorted(blind))} are 0 for every image{_of_seeds(config, seeds)}, "
        f"so that {what} no longer depends on the image, and no training revives them: try "
        f"--config.{name}={getattr(config, name) / 4:.2g} in a new workdir"
    )


def _same_transforms(
    config: Config, variation: np.ndarray | None, lines: Sequence[Mapping[str, Any]]
) -> str | None:
    if variation is None or not config.localization_rate:  # not trained: the user's wish
        return None
    same = variation < SAME_PIXELS
    if not same.any():
        return None
    worst = int(variation.argmin())
    logged = [line["theta_variation"][worst] for line in lines if "theta_variation" in line]
    began = bool(logged) and max(logged) > 100 * max(logged[-1], 1e-9)
    rate = config.localization_rate * (0.25 if began else 4)
    why = "no longer depends on the image" if began else "has not begun to learn"
    return (
        f"the transforms are the same for all images{_of_seeds(config, same)}: they move a corner "
        f"by {variation[worst]:.3f} pixels (standard deviation). The localization network {why}: "
        f"try --config.localization_rate={rate:.2g}"
    )


def constant_loss(labels: np.ndarray, smoothing: float) -> float:
    """The lowest training loss of a network that ignores the images: the labels' entropy.

    Args:
      labels: ``[N]``, or ``[N, positions]``, whose losses add up.
      smoothing: the label smoothing.
    """
    columns = labels.reshape(len(labels), -1).T
    classes = labels.max() + 1
    total = 0.0
    for column in columns:
        p = np.bincount(column, minlength=classes) / len(column)
        p = (1 - smoothing) * p + smoothing / classes
        total -= float((p[p > 0] * np.log(p[p > 0])).sum())
    return total


def _variation_pixels(run: Run, predictions: "Predictions") -> np.ndarray | None:
    """How far transforms move an image's corner, as standard deviation over images: ``[seeds]``.

    Of several transformers, it is the one that varies least.
    """
    if predictions.poses is None:
        return None
    height, width = run.input_shape()[:2]
    corners = np.array([[x, y, 1] for x in (-1, 1) for y in (-1, 1)], np.float32)
    moved = np.einsum("spntij,cj->spntci", predictions.poses, corners)
    moved = moved * np.array([width / 2, height / 2], np.float32)
    return np.sqrt(moved.var((1, 2)).sum(-1)).max(-1).min(-1)


def _in_localization(layer: str) -> bool:
    return is_transformer(layer.split("/")[0])


def _blind(dead: Mapping[str, np.ndarray], localization: bool) -> np.ndarray:
    """For each seed, whether a whole layer of a part is dead."""
    layers = [
        units.all(1) for layer, units in dead.items() if _in_localization(layer) == localization
    ]
    return np.any(layers, axis=0) if layers else np.zeros(1, bool)


def _percent_of_all(dead: Mapping[str, np.ndarray], localization: bool) -> list[float]:
    units = [x for layer, x in dead.items() if _in_localization(layer) == localization]
    return [round(100 * float(x), 2) for x in np.concatenate(units, 1).mean(1)]


def _of_seeds(config: Config, which: np.ndarray) -> str:
    """ " (seeds 1, 2)", unless it is all of them."""
    if which.all():
        return ""
    seeds = [str(seed) for seed, chosen in zip(config.seeds, which, strict=True) if chosen]
    return f" (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})"
