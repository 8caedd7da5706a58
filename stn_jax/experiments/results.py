"""Results on disk: JSON lines, one for each seed of each row."""

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
from stn_jax.files import can_be_written
from stn_jax.training import processes
from stn_jax.training.config import Config, ConfigError
from stn_jax.training.workdir import Workdir

# A result's fields with a value for each seed, which lines have if the result does.
POSE_KEYS = (
    "window_share",
    *(
        name
        for component in POSE_COMPONENTS.values()
        for name in (*component.slope_keys, *component.rms_keys)
    ),
)
_BY_SEED = ("position_error_percent", *POSE_KEYS)
# Required fields of a line and their types.
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
    """The result of one seed of one row.

    Attributes:
      config: the configuration; ``seeds`` is the one seed.
      line: the line of the file.
    """

    config: Config
    line: dict[str, Any]

    def __str__(self) -> str:
        return f"test error {self.line['test_error_percent']:.2f} % on {self.device}"

    @property
    def device(self) -> str:
        """The kind of device, with the number of devices if there were several."""
        devices = self.line["devices"]
        return self.line["device"] if devices == 1 else f"{devices} x {self.line['device']}"


def identity(config: Config) -> Hashable:
    """A key that is equal for two configurations if their runs have equal results.

    It has all fields that affect the training, the seeds and the number of test passes; but not the
    device, folders or logging intervals.
    """
    ignored = Config.RUNTIME_FIELDS - {"test_passes"}
    return tuple(item for item in sorted(config.to_dict().items()) if item[0] not in ignored)


def of(config: Config, results: Iterable[Result]) -> list[Result]:
    """The results of a one-seed configuration, one for each kind of device."""
    return [result for result in results if identity(result.config) == identity(config)]


def lines_of(
    row: str, workdir: str | Path, root: str | Path, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """The lines for a finished run, one for each of its seeds.

    Args:
      row: the row's name.
      workdir: the run's folder.
      root: folder of the table's workdirs; lines store paths relative to it.
      result: the contents of its result.json.
    """
    rates = [line["images_per_second"] for line in Workdir(workdir).metrics()]
    shared = {
        "trained_together": result["seeds"],
        # The sum over all seeds in the program.
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


def check_writable(path: Path, flag: str = "--results") -> None:
    """Raises ConfigError if lines cannot be appended to a file; it need not exist.

    Args:
      path: the file.
      flag: the option that names its folder, for the error.
    """
    if path.exists():
        fits = path.is_file() and os.access(path, os.W_OK)
    else:
        fits = can_be_written(path.parent)
    if not fits:
        raise ConfigError(f"cannot write to {path}; name another folder with {flag}")


def append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Appends lines to a file, in a single write under a lock, so that processes do not mix them.

    An incomplete line, left by a killed process, is terminated first.

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
    """All results in a folder's ``*.jsonl``; none if the folder does not exist.

    Incomplete lines and those with unknown fields are skipped and, unless quiet, reported on
    stderr. Of several lines for the same run on the same kind of device, the last one is used.
    """
    results: dict[Hashable, Result] = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        for result in _read_file(path, quiet):
            results[identity(result.config), result.device] = result
    return list(results.values())


def read_on_primary(folder: str | Path, *, quiet: bool = False) -> list[Result]:
    """:func:`read` in the primary process; its results are broadcast to all processes."""
    lines = processes.broadcast_from_primary(
        lambda: [result.line for result in read(folder, quiet=quiet)]
    )
    return [Result(Config.from_stored(line["config"]), line) for line in lines]


def _check(line: dict[str, Any]) -> None:
    """Raises ConfigError if a required field is missing or of another type."""
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
                raise ConfigError(f"not a complete result: {where}{name} is missing")
            if type(values[name]) not in kind:
                raise ConfigError(f"not a complete result: {where}{name} is {values[name]!r:.60}")
    if line["config"].get("seeds") != [line["seed"]]:
        raise ConfigError(f"not a complete result: seed is {line['seed']}, but not in its config")
    if line["seed"] not in line["trained_together"]:
        raise ConfigError("not a complete result: seed is not among trained_together")


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
            reason = error if isinstance(error, ConfigError) else "not a complete result"
            if not quiet:
                print(f"{path}, line {number} is skipped: {reason}", file=sys.stderr, flush=True)
        else:
            yield result
