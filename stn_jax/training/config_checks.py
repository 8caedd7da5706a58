"""Checks of a configuration's fields: types, choices and ranges."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from stn_jax.data.distortions import AffineRanges
from stn_jax.data.tasks import RANDOM, RANGED, TASKS
from stn_jax.models.recipes import CLASSIFIERS


class ConfigError(ValueError):
    """An invalid configuration: names the value, what was expected and what to do."""


# The largest int32, less a margin for random keys that are not steps.
MAX_COUNT = 2**31 - 1024


CHOICES = {
    "classifier": ("", *CLASSIFIERS),
    "localization_optimizer": ("sgd", "adam"),
    "schedule": ("one_cycle", "step", "constant"),
    "compute_dtype": ("float32", "bfloat16"),
    "padding_mode": ("", "zeros", "border", "reflection"),
}
# Minimum and maximum of a field, and which of the two is excluded, if any.
RANGES: dict[str, tuple[float, float, float | None]] = {
    **dict.fromkeys(("epochs", "batch_size", "steps_per_dispatch"), (1, MAX_COUNT, None)),
    **dict.fromkeys(("log_every", "step_drops"), (1, MAX_COUNT, None)),
    **dict.fromkeys(("test_passes", "test_batch_size"), (1, MAX_COUNT, None)),
    "keep_checkpoints": (1, MAX_COUNT, None),
    "eval_every": (0, MAX_COUNT, None),
    **dict.fromkeys(("microbatch", "holdout", "crop"), (0, math.inf, None)),
    **dict.fromkeys(("checkpoint_every", "weight_decay", "clip_norm"), (0, math.inf, None)),
    **dict.fromkeys(("theta_clip", "localization_rate", "learning_rate"), (0, math.inf, None)),
    **dict.fromkeys(("momentum", "warmup", "label_smoothing"), (0, 1, 1)),
    "iterations": (1, 100, None),
    "localization_decay": (0, 0.95, None),
    "width": (0, 100, 0),
    "window": (0, 100, 0),
    "dropout": (0, 2, 2),
    "aspect": (0, math.inf, None),
    "channels": (0, 4, None),
    "test_fraction": (0.001, 0.999, None),
    "split_seed": (0, MAX_COUNT, None),
    "max_data_gb": (0, math.inf, None),
    "max_angle": (0, 180, None),
    "max_translation": (0, 1, None),
    **dict.fromkeys(("min_scale", "max_scale"), (0, 100, 0)),
    "max_shear": (0, 10, None),
}


def mesh_axes(mesh: str) -> dict[str, int | None]:
    """Parses a mesh: "batch", "seeds=4", "seeds=2,batch=4".

    Returns:
      Numbers of devices by axis; None: as many as available.

    Raises:
      ConfigError: it is not a valid mesh.
    """
    counts: dict[str, int | None] = {}
    for part in mesh.split(","):
        match = re.fullmatch(r"(seeds|batch)(?:=([1-9][0-9]{0,5}))?", part)
        if match is None or match[1] in counts:
            raise ConfigError(
                f"mesh is {mesh!r}; expected batch or seeds, for all devices, or numbers of "
                "devices, such as batch=4 or seeds=2,batch=4"
            )
        counts[match[1]] = int(match[2]) if match[2] else None
    if list(counts.values()).count(None) == 2:
        raise ConfigError(f"mesh is {mesh!r}; expected a number for one of the two")
    return counts


def profiled_steps(profile: str) -> tuple[int, int] | None:
    """Reads the steps to trace: "20:25" is (20, 25), "" is None; ConfigError for anything else."""
    if not profile:
        return None
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", profile)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(
            f"profile is {profile!r}; expected FIRST:LAST, two steps, such as 20:25, or nothing"
        )
    return int(match[1]), int(match[2])


def parse_size(size: str) -> tuple[int, int] | None:
    """Reads an image size: "48x64" is (48, 64), "64" both, "" None; ConfigError otherwise."""
    if not size:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", size)
    if match is None:
        raise ConfigError(
            f"image_size is {size!r}; expected height x width in pixels, such as 48x64, or 64"
        )
    return int(match[1]), int(match[2] or match[1])


def _blocks(value: Any) -> tuple[tuple[int, ...], ...]:
    """The field blocks as tuples, from tuples or from JSON's lists."""
    listed = isinstance(value, (tuple, list)) and all(
        isinstance(block, (tuple, list)) and len(block) == 3 and {*map(type, block)} <= {int, bool}
        for block in value
    )
    if not listed:
        raise ConfigError(
            f"blocks is {value!r}; expected (kernel size, features, 0 or 1 for pooling) for each, "
            "such as [(5,32,1),(3,64,1)]"
        )
    return tuple(tuple(map(int, block)) for block in value)


def coerce(field: dataclasses.Field, value: Any) -> Any:
    """Converts a value to the field's type, if that is lossless. Raises ConfigError otherwise."""
    if field.name == "seeds":
        if isinstance(value, int) and not isinstance(value, bool):
            value = (value,)
        if isinstance(value, (tuple, list)) and all(type(seed) is int for seed in value):
            return tuple(value)
        raise ConfigError(f"seeds is {value!r}; expected whole numbers, such as 0,1,2")
    if field.name == "blocks":
        return _blocks(value)
    expected = field.type
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(
            f"{field.name} is {value!r}, of type {type(value).__name__}; expected "
            f"{expected.__name__ if isinstance(expected, type) else expected}"
        )
    if expected is float and not math.isfinite(value):
        raise ConfigError(f"{field.name} is {value}; expected a finite number")
    return value


def check_choices(config: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ConfigError if a field is not one of its choices."""
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            shown = ", ".join(k or '""' for k in known)
            raise ConfigError(f"{name} is {value!r}; expected one of {shown}")


def check_distortion(task: str, ranges: AffineRanges) -> None:
    """Raises ConfigError if the ranges of a task's distortions are empty."""
    low, high = ranges.scale
    if low > high:
        raise ConfigError(f"min_scale is {low} and max_scale {high}; expected a range")
    widths = {**dataclasses.asdict(ranges), "scale": high - low}
    drawn, _ = RANDOM.get(RANGED.get(task, task), ((), None))
    if drawn and not any(widths[name] for name in drawn):
        raise ConfigError(
            f"task is {task}, but the range of its {' and '.join(drawn)} is empty; expected a "
            "range, or task plain"
        )


def check_combinations(config: Any) -> None:
    """Raises ConfigError if fields contradict each other."""
    if not config.dataset:
        raise ConfigError(
            "dataset is empty; expected mnist_sample or a TFDS name such as mnist, folder:PATH "
            "or npz:FILE"
        )
    if config.microbatch and config.batch_size % config.microbatch:
        raise ConfigError(
            f"microbatch is {config.microbatch}, which does not divide batch_size "
            f"{config.batch_size} evenly; expected a divisor, or 0"
        )
    if config.crop and TASKS[config.task].distorts:
        raise ConfigError(f"crop is {config.crop}; expected 0 where the task is {config.task}")
    if config.keep_best and not (config.holdout and config.eval_every):
        raise ConfigError("keep_best is True, which needs holdout and eval_every; set both")
    profiled_steps(config.profile)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds is {config.seeds}; expected one or more, all different")
    check_distortion(config.task, config.ranges)
    parse_size(config.image_size)
    for name in ("dataset", "init_from", *config.FOLDER_FIELDS):
        if "\0" in (value := getattr(config, name)):
            raise ConfigError(f"{name} is {value!r}; expected a name without NUL characters")
    if not all(0 <= seed < 2**32 for seed in config.seeds):
        raise ConfigError(f"seeds is {config.seeds}; expected numbers from 0 to 2**32 - 1")


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float, float | None]]) -> None:
    """Raises ConfigError if a field is outside its range."""
    for name, (low, high, excluded) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high or value == excluded:
            bound = f"{low} or more" if excluded != low else f"more than {low}"
            if high < math.inf:
                bound += f" and {'less than' if excluded == high else 'at most'} {high}"
            raise ConfigError(f"{name} is {value}; expected {bound}")
