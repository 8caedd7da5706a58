"""The folder of a run: configuration, metrics, result. Files are written atomically."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stn_jax.files import UNFINISHED, atomic_write, make_folder, sync_folder
from stn_jax.training.config import Config, ConfigError

_RESULT, _NETWORK = "result.json", "network.json"
# Figures drawn by the evaluation.
FIGURES = ("gallery.png", "angles.png")


class WorkdirError(ConfigError):
    """A run's folder cannot be used: names the folder, the reason, and what to do."""


class WorkdirBusyError(WorkdirError):
    """Another process trains in the folder."""


class Workdir:
    """A run's folder: config.json, network.json, metrics.jsonl, result.json, checkpoints/, ..."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.figures = self.path / "figures"
        self._locked = False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder against other processes until the block or this process ends.

        May be nested.

        Raises:
          WorkdirBusyError: another process holds the lock.
          WorkdirError: the folder cannot be written.
        """
        if self._locked:
            yield
            return
        with contextlib.ExitStack() as stack:
            with self.writing():
                make_folder(self.path)
                file = stack.enter_context((self.path / "lock").open("a+"))
                try:
                    # The kernel releases this lock when the process ends; the file may stay.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    raise WorkdirBusyError(
                        f"another process ({file.read().strip() or 'unknown'}) trains in "
                        f"{self.path}: let it finish, stop it, or name another folder with "
                        "--workdir"
                    ) from None
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n")
                file.flush()
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def resumed(self, config: Config) -> Config:
        """The configuration; what it leaves to be chosen is as in the folder's run, if any."""
        if not os.path.exists(self.path / "config.json"):
            return config
        known = Config.load(self.path)
        left = [name for name in Config.AUTOMATIC_FIELDS if not getattr(config, name)]
        return dataclasses.replace(config, **{name: getattr(known, name) for name in left})

    def check(self, config: Config) -> None:
        """Raises ConfigError if the folder holds a run of another configuration."""
        exists = (self.path / "config.json").exists()
        if exists and (differences := Config.load(self.path).differences(config)):
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({'; '.join(differences)}): "
                "name another folder with --workdir, or delete this one"
            )

    def claim(self, config: Config) -> None:
        """Starts or continues a run of this configuration in the folder; requires the lock.

        A result of other settings is deleted before the new configuration is written, so that the
        files never contradict each other.

        Raises:
          ConfigError: the folder holds a run of another configuration.
          WorkdirError: it cannot be written.
        """
        self.check(config)
        result = self.result()
        with self.writing():
            make_folder(self.path)
            for left in self.path.glob(f"*{UNFINISHED}"):  # by a process that was killed
                left.unlink()
            if result is None or config_of(result).differences(config, Config.FOLDER_FIELDS):
                for path in (self.path / _RESULT, *(self.figures / name for name in FIGURES)):
                    path.unlink(missing_ok=True)
                sync_folder(self.path)
        self.write_json("config.json", config.to_dict())

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an OSError in the block into a WorkdirError."""
        try:
            yield
        except OSError as error:
            advice = {
                errno.ENOSPC: "free some space; the same command resumes from the last checkpoint",
                errno.EDQUOT: "free some space; the same command resumes from the last checkpoint",
                errno.EACCES: "name another folder with --workdir",
                errno.EROFS: "name another folder with --workdir",
            }.get(error.errno or 0)
            raise WorkdirError(
                f"cannot write to workdir {self.path}: {error.strerror or error}"
                + (f"; {advice}" if advice else "")
            ) from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file atomically."""
        with self.writing(), atomic_write(self.path / name) as file:
            file.write(json.dumps(value, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """The contents of result.json; None if it is missing or not a valid result."""
        try:
            found = json.loads((self.path / _RESULT).read_text(encoding="utf-8"))
            config_of(found)
            return found if type(found["step"]) is int else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write_network(self, known: dict[str, Any]) -> None:
        """Stores what :func:`stn_jax.training.run.description` gives."""
        self.write_json(_NETWORK, known)

    def network(self) -> dict[str, Any] | None:
        """What :meth:`write_network` stored; None in folders of earlier versions.

        Raises:
          WorkdirError: it is damaged.
        """
        path = self.path / _NETWORK
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            shapes = [found[name] for name in ("image_shape", "input_shape")]
            sides = [side for shape in shapes for side in shape]
            if len(sides) != 6 or not all(type(side) is int and side > 0 for side in sides):
                raise ValueError(f"shapes are {shapes}")
            names = found.get("class_names", [""])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("class_names should be texts")
            found["model"] = {**found["model"]}
            for name, least in (("mean", 0), ("deviation", 1e-6)):
                values = np.broadcast_to(np.float64(found[name]), shapes[0][2:])
                if not ((values >= least) & (values <= 1)).all():
                    raise ValueError(f"{name} is {found[name]}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WorkdirError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WorkdirError(
                f"{path} is damaged ({error}); delete it, and it is made again from the data set"
            ) from None
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to the first incomplete one."""
        try:
            text = (self.path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.split("\n")[:-1]:  # a last line without a line break is incomplete
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(found, dict) or not {
                type(found.get(name)) for name in ("step", "epoch", "seconds")
            } <= {int, float}:
                break
            lines.append(found)
        return lines

    def rewind_metrics(self, step: int) -> float:
        """Drops the lines after a step. Returns the seconds of training up to it."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        with self.writing(), atomic_write(self.path / "metrics.jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        return lines[-1]["seconds"] if lines else 0.0

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        with self.writing(), (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def sync_metrics(self) -> None:
        """Flushes metrics.jsonl to disk: no checkpoint may be stored before its metrics are."""
        with self.writing(), (self.path / "metrics.jsonl").open("a") as file:
            os.fsync(file.fileno())


def config_of(result: dict[str, Any]) -> Config:
    """The configuration stored in a result; its folders are the defaults.

    Raises:
      ConfigError, TypeError, KeyError: there is no valid configuration.
    """
    return Config.from_stored(result["config"], _RESULT)
