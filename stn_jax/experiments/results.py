"""Results on disk: a JSON object a line, a line for each seed of each row."""

import dataclasses
import fcntl
import json
import os
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from stn_jax.analysis.pose import POSE_COMPONENTS
from stn_jax.training import processes
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.workdir import Workdir

# What a line has of its own, where the result has it; first what there is to say of poses.
OF_POSES = (
    "window_share",
    *(
        name
        for component in POSE_COMPONENTS.values()
        for name in (*component.slopes, *component.spreads)
    ),
)
_BY_SEED = ("position_error_percent", *OF_POSES)
# What every line has, and of which types.
_NUMBER: tuple[type, ...] = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("row", "device", "evaluated_on"), (str,)),
    **dict.fromkeys(("seed", "devices", "train_examples", "test_examples", "test_passes"), (int,)),
    **dict.fromkeys(("test_error_percent", "seconds"), _NUMBER),
    "images_per_second": (*_NUMBER, NoneType),
    "trained_together": (list,),
    "commit": (str, NoneType),
}
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "python")
_ALSO_TESTED: dict[str, tuple[type, ...]] = {
    "test_error_percent": _NUMBER,
    "test_examples": (int,),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one seed of one row.

    Attributes:
      config: what was trained; ``seeds`` is the one seed.
      line: all that the file says of it.
    """

    config: Config
    line: dict[str, Any]

    def __str__(self) -> str:
        return f"test error {self.line['test_error_percent']:.2f} % on {self.device}"

    @property
    def device(self) -> str:
        """The kind of device, and how many where there were several."""
        devices = self.line["devices"]
        return self.line["device"] if devices == 1 else f"{devices} x {self.line['device']}"


def identity(config: Config) -> Hashable:
    """What makes a run this run and no other: equal for equal runs.

    All fields that shape the training, the seeds, and over how many passes the error is taken; but
    not the device, nor folders, nor how often something is logged.
    """
    apart = Config.RUNTIME_FIELDS - {"test_passes"}
    return tuple(item for item in sorted(config.to_dict().items()) if item[0] not in apart)


def of(config: Config, results: Iterable[Result]) -> list[Result]:
    """The results of a configuration of one seed, one for each device that it was trained on."""
    return [result for result in results if identity(result.config) == identity(config)]


def lines_of(
    row: str, workdir: str | Path, root: str | Path, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """The lines for a finished run: one for each of its seeds.

    Args:
      row: the row's name.
      workdir: the run's folder.
      root: the folder of a table's workdirs, which lines do not repeat: it is one machine's.
      result: what its result.json holds.
    """
    rates = [line["images_per_second"] for line in Workdir(workdir).metrics()]
    shared = {
        "trained_together": result["seeds"],
        # Of all the seeds that were trained together.
        "images_per_second": float(np.median(rates)) if rates else None,
    }
    copied = (
        *("seconds", "epochs", "total_steps", "train_examples", "test_examples", "test_passes"),
        *("evaluated_on", "device", "devices", "versions", "commit"),
    )
    shared |= {name: result[name] for name in copied}
    lines = []
    for i, seed in enumerate(result["seeds"]):
        line = {"row": row, "seed": seed, "test_error_percent": result["test_error_percent"][i]}
        for name in _BY_SEED:
            if name in result:
                line[name] = result[name][i]
        config = {**result["config"], "seeds": [seed]}
        lines.append(
            {**line, **shared, "workdir": str(Path(workdir).relative_to(root)), "config": config}
        )
    return lines


def append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Adds lines to a file, in one write and one process at a time, so that they do not mix.

    What a process left unfinished when it was killed is closed by a line break.

    Raises:
      ConfigError: the file cannot be written.
    """
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                text = b"\n" + text
            if (written := os.write(file, text)) < len(text):
                raise OSError(None, f"only {written} of {len(text)} bytes were written")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigError(f"cannot write to {path}: {error.strerror}") from None


def read(folder: str | Path, *, quiet: bool = False) -> list[Result]:
    """All results in a folder's ``*.jsonl``; none where there is no such folder.

    Lines that are not whole, or not of this version's fields, are left out and, unless quiet,
    reported on stderr. Of several lines for the same run on the same kind of device the last
    counts.
    """
    results: dict[Hashable, Result] = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        for result in _read_file(path, quiet):
            results[identity(result.config), result.device] = result
    return list(results.values())


def read_together(folder: str | Path, *, quiet: bool = False) -> list[Result]:
    """:func:`read` as the first of the processes that were joined reads it, for all of them."""
    lines = processes.broadcast_from_primary(
        lambda: [result.line for result in read(folder, quiet=quiet)]
    )
    return [Result(Config.from_stored(line["config"]), line) for line in lines]


def _check(line: dict[str, Any]) -> None:
    """ConfigError where a line lacks what tables are made of, or holds something else there."""
    optional = {name: line[name] for name in _BY_SEED if name in line}
    also = line.get("also_tested", {})
    parts: list[tuple[str, Any, Mapping[str, tuple[type, ...]]]] = [
        ("", line, _FIELDS),
        ("", optional, dict.fromkeys(optional, _NUMBER)),
        ("versions: ", line.get("versions"), dict.fromkeys(_VERSIONS, (str,))),
        ("also_tested: ", {"also_tested": also}, {"also_tested": (dict,)}),
    ]
    if type(also) is dict:
        parts += [(f"also_tested: {name}: ", each, _ALSO_TESTED) for name, each in also.items()]
    for where, values, kinds in parts:
        for name, kind in kinds.items():
            if type(values) is not dict or name not in values:
                raise ConfigError(f"it is not a whole result: {where}{name} is missing")
            if type(values[name]) not in kind:
                raise ConfigError(
                    f"it is not a whole result: {where}{name} is {values[name]!r:.60}"
                )
    if line["config"].get("seeds") != [line["seed"]]:
        raise ConfigError(f"it is not a whole result: seed is {line['seed']}, its config's another")
    if line["seed"] not in line["trained_together"]:
        raise ConfigError("it is not a whole result: seed is not among trained_together")


def _read_file(path: Path, quiet: bool) -> Iterable[Result]:
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            result = Result(Config.from_stored(line["config"]), line)
            _check(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            why = error if isinstance(error, ConfigError) else "it is not a whole result"
            if not quiet:
                print(f"{path}, line {number} is left out: {why}", file=sys.stderr, flush=True)
        else:
            yield result
