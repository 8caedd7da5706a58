"""The tables: networks, tasks and the paper's test errors."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from stn_jax.training.config import Config, ConfigError
from stn_jax.training.config_files import named_config

# The fields of Config that assign a run to a row. Runs that differ in others (epochs, learning
# rate, ...) are separate lines of a row.
NETWORK = ("task", "max_angle", "variant", "iterations", "transform")


@dataclasses.dataclass(frozen=True)
class Row:
    """A network on a task.

    Attributes:
      name: its name in ``--rows``, a task and a network.
      overrides: the fields of Config that define it.
      paper: the paper's test error in percent; None if it reports none.
      defaults: other fields of Config, which settings may override.
    """

    name: str
    overrides: Mapping[str, Any]
    paper: float | None = None
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def config(self, settings: Mapping[str, Any] | None = None) -> Config:
        """The row's configuration with further settings. ConfigError: they contradict the row."""
        settings = settings or {}
        if fixed := sorted({*NETWORK, *self.overrides} & set(settings)):
            raise ConfigError(
                f"--config.{fixed[0]} is set by the rows of a table; choose with --rows"
            )
        return Config(**{"figures": False, **self.defaults, **self.overrides, **settings})


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of rows.

    Attributes:
      title: its heading.
      about: a description of a sentence or two.
      rows: in the order in which they are trained and shown.
      dataset: the data set of the paper's numbers.
    """

    title: str
    about: str
    rows: tuple[Row, ...]
    dataset: str = "mnist"

    def select(self, patterns: Sequence[str]) -> list[Row]:
        """The rows that match any of the patterns (``rotation/stn-sl1``, ``*/cnn``), in order.

        Raises:
          ConfigError: a pattern matches none.
        """
        names = [row.name for row in self.rows]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise ConfigError(
                    f"no row is named {pattern!r}; expected one or more of {', '.join(names)}, "
                    "or a pattern such as rotation/* or */cnn"
                )
        return [row for row in self.rows if any(fnmatch.fnmatch(row.name, p) for p in patterns)]


# Fields without effect on a network without a transformer.
_TRANSFORMER_FIELDS = ("localization_rate", "localization_decay", "theta_clip")

TASKS = {
    "rotation": "rotated_mnist",
    "translation": "translated_mnist",
    "scaling": "scaled_mnist",
}


def _defaults(config: str, variant: str) -> dict[str, Any]:
    """A row's defaults from a config file: all its fields except those that the table varies."""
    excluded = {"task", "variant", *(_TRANSFORMER_FIELDS if variant == "cnn" else ())}
    return {key: value for key, value in named_config(config).items() if key not in excluded}


def _row(task: str, network: str, paper: float | None = None, **overrides: Any) -> Row:
    name = TASKS[task]
    defaults = _defaults(name, overrides["variant"])
    return Row(f"{task}/{network}", {"task": name, **overrides}, paper, defaults)


def _rows(task: str, papers: Mapping[str, float | None]) -> tuple[Row, ...]:
    return tuple(_row(task, variant, paper, variant=variant) for variant, paper in papers.items())


_SVHN_PAPER = {
    "cnn": None,
    "stn-c0": 3.81,
    "stn-c3": 3.70,
    "stn-c6": 3.91,
    "stn-c8": 4.00,
    "stn-sl3": 3.54,
    "stn-sl6": 3.29,
    "stn-sl8": 3.27,
}


def _config_rows(name: str, config: str, papers: Mapping[str, float | None]) -> tuple[Row, ...]:
    fields = named_config(config)
    task = fields.get("task", Config.task)
    defaults = {key: value for key, value in fields.items() if key not in ("task", "variant")}
    return tuple(
        Row(f"{name}/{variant}", {"task": task, "variant": variant}, paper, defaults)
        for variant, paper in papers.items()
    )


_UNREPORTED: dict[str, float | None] = dict.fromkeys(("cnn", "stn-c0", "stn-c1", "stn-sl1"))

TABLES = {
    "table1": Table(
        "Table 1: rotated and translated MNIST",
        "The paper's numbers are from 640 epochs (arXiv 2001.05858, Table 1).",
        (
            *_rows("rotation", {"cnn": 1.71, "stn-c0": 1.08, "stn-c1": 1.32, "stn-sl1": 0.98}),
            *_rows("translation", {"cnn": 1.72, "stn-c0": 1.08, "stn-c1": 1.15, "stn-sl1": 1.10}),
        ),
    ),
    "table2": Table(
        "Table 2: SVHN, whole house numbers",
        "The paper's numbers are from the published training, 400,000 steps of 128 images (arXiv "
        "2001.05858, Table 2). An image is correct only if all of its digits are.",
        _config_rows("svhn", "svhn", _SVHN_PAPER),
        "svhn_numbers",
    ),
    "svhn_cropped": Table(
        "SVHN, single digits",
        "The networks of Table 2 on the 32x32 images of TFDS's svhn_cropped, one digit each; "
        "trained on its 73,257 training digits, without the extra ones.",
        _config_rows("digits", "svhn_cropped", dict.fromkeys(_SVHN_PAPER)),
        "svhn_cropped",
    ),
    "mnist_rot": Table(
        "MNIST-rot",
        "12,000 training digits, each rotated by a new angle of the full circle in every epoch; "
        "50,000 test digits, each rotated once. Digits and rotations are not those of the "
        "published files, and [published numbers](study.md#beside-other-numbers) are from these.",
        _config_rows("mnist_rot", "mnist_rot", dict.fromkeys(("cnn", "stn-c0", "stn-sl1"))),
        "mnist_rot",
    ),
    "scaled": Table(
        "Scaled MNIST",
        "112x112, scale factors from 1/2 to 4 (the task is that of arXiv 2004.11678).",
        _rows("scaling", _UNREPORTED),
    ),
    "several": Table(
        "Several transformers",
        "Transformers at two depths in sequence (Jaderberg et al. 2015, Section 4.2). Poses are "
        "those of the first transformer.",
        (
            *_rows("rotation", {"stn-c0+c1": None, "stn-sl1+c1": None}),
            *_rows("translation", {"stn-c0+c1": None}),
        ),
    ),
    "several_svhn": Table(
        "Several transformers, SVHN, whole house numbers",
        "The multi-layer network of Jaderberg et al. 2015, Section 4.2, transforms the input and "
        "deeper maps in sequence.",
        _config_rows("svhn", "svhn", {"stn-c0+c2+c4": None}),
        "svhn_numbers",
    ),
    "deeper": Table(
        "Localization networks without shared layers",
        "STN-DL1's localization network is as deep as STN-SL1's, but shares no layers with the "
        "classifier (arXiv 2004.11678).",
        tuple(row for task in TASKS for row in _rows(task, {"stn-dl1": None})),
    ),
    "iterated": Table(
        "Iterated transformers",
        "The same transformer for one to three iterations, composing its transforms (arXiv "
        "2004.11678).",
        tuple(
            _row(task, f"{variant}-x{iterations}", variant=variant, iterations=iterations)
            for task in ("rotation", "translation")
            for variant in ("stn-c0", "stn-c1", "stn-sl1")
            for iterations in (1, 2, 3)
        ),
    ),
    "families": Table(
        "Other families of transforms",
        "STN-C0 on rotated digits with families of more and fewer parameters (Jaderberg et al. "
        "2015, Table 1).",
        tuple(
            _row("rotation", f"stn-c0-{transform}", variant="stn-c0", transform=transform)
            for transform in ("rotation", "affine", "projective", "tps")
        ),
    ),
}
